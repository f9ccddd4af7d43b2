"""A run as TensorBoard event files: the only file that knows the library of that name.

It is written with tensorboard's own writer, so neither TensorFlow nor torch is loaded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dimwise.errors import MissingExtra, RunError
from dimwise.runs import metrics
from dimwise.runs.atomic import run_error

_NOT_CURVES = ("kind", "step", "epoch", "t")


def export(run: Path, out_dir: Path) -> int:
    """Write a run's metrics and recipe as event files that ``tensorboard --logdir`` shows.

    Numbers of step records become ``step/<name>``, those of epoch records ``epoch/<name>``, at the run's step;
    numbers inside a table, such as the gradient norm of a layer, become ``epoch/<name>/<layer>``. NaN stays NaN.

    Args:
        run: a run folder.
        out_dir: where the event files go; ``out_dir/<run name>`` is made.

    Returns: how many points were written.

    Raises:
        MissingExtra: when tensorboard is not installed.
        RunError: when the run has no metrics, was exported there before, or the folder cannot be written.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise MissingExtra("tensorboard", why="exporting runs", extra="tensorboard") from None

    records = metrics.read(run / "metrics.jsonl")
    if not records:
        raise RunError(f"run '{run.name}' has no metrics to export")
    target = out_dir / run.name
    if target.is_dir() and any(target.glob("events.out.tfevents.*")):
        raise RunError(
            f"'{target}' holds an export of this run already", next_step="Remove it, or choose another folder."
        )
    started = _started_s(run)
    n_points = 0
    try:
        writer = EventFileWriter(str(target))
        for record in records:
            step, wall = int(record.get("step", 0)), started + float(record.get("t", 0.0))
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _curves(record)]
            n_points += len(values)
            if values:
                writer.add_event(Event(wall_time=wall, step=step, summary=Summary(value=values)))
        recipe = _recipe(run)
        if recipe:
            writer.add_event(Event(wall_time=started, step=0, summary=_text("recipe", recipe)))
        writer.close()
    except OSError as error:
        raise run_error(target, error) from error
    return n_points


def _curves(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    kind = record.get("kind")
    if kind not in ("step", "epoch"):
        return
    for name, value in record.items():
        if name in _NOT_CURVES:
            continue
        if isinstance(value, Mapping):
            for layer, number in value.items():
                if _is_number(number):
                    yield f"{kind}/{name}/{layer}", float(number)
        elif _is_number(value):
            yield f"{kind}/{name}", float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(tag: str, toml: str) -> Any:
    """A Markdown block in TensorBoard's text panel; the metadata is what its text plugin looks for."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    block = "".join(f"    {line}\n" for line in toml.splitlines())
    tensor = TensorProto(
        dtype="DT_STRING",
        string_val=[block.encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _recipe(run: Path) -> str:
    try:
        return (run / "recipe.toml").read_text("utf-8")
    except OSError:
        return ""


def _started_s(run: Path) -> float:
    """Seconds since 1970 at which the run began: its name says so, else the age of its metrics."""
    try:
        return time.mktime(time.strptime(run.name[:15], "%Y%m%d-%H%M%S"))
    except (ValueError, OverflowError):
        return math.floor((run / "metrics.jsonl").stat().st_mtime)
