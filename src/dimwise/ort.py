"""What every session of onnxruntime shares here, whichever floor opens it."""

from __future__ import annotations

from typing import Any


def session_options(*, threads: int = 1) -> Any:
    """Options of a session on the CPU that is quiet and leaves waiting cores alone.

    Threads do not spin while they wait: sessions live beside each other and beside torch in one process, where a
    spinning pool steals the cores of whatever is measured or trained next.

    Args:
        threads: threads of one inference, at least 1.

    Returns:
        An ``onnxruntime.SessionOptions``; the caller sets what differs, such as the level of optimisation.

    Example:
        >>> session_options(threads=2).intra_op_num_threads
        2
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
