"""What every session of onnxruntime, and every graph, shares here, whichever floor opens it."""

from __future__ import annotations

import functools
from typing import Any

ARITHMETIC = "dimwise/arithmetic"
"""Key in the metadata of a graph whose float32 parts a runtime may compute in less, where it can: such as "bf16"."""


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


@functools.cache
def int8_products_saturate() -> bool:
    """Whether sums of uint8 × int8 products are cut off at 16 bits here, as on x86 processors without VNNI.

    255 · 127 + 255 · 127 = 64770 is asked for; such a processor adds pairs in 16 bits and answers 32767. Weights of 7
    bits keep the sum of two below that, and so do int8 × int8. Measured once a process, by a graph of one product.

    Example:
        >>> int8_products_saturate() in (True, False)
        True
    """
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((2, 1), 127, np.int8), "weight")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 1])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "weight"], ["y"])], "probe", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    runner = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    (found,) = runner.run(None, {"x": np.full((1, 2), 255, np.uint8)})
    return int(found.item()) != 2 * 255 * 127
