"""``dimwise compare``: two models side by side, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli import _out
from dimwise.cli._typer import RUNS, DataDir, Json, OwnModel, RunsDir, single
from dimwise.errors import ModelError, RecipeError, UserError, nearest

_WHAT = (
    "A run (its trained network), RUN:STAGE, RUN:chosen, an artifact folder, an .onnx file, package.module:function, "
    "or a name of `dimwise model list`."
)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_WHAT)],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="pytorch, onnxruntime or openvino; or pytorch-compiled, on which only the whole run is timed. "
            "Default: onnxruntime when one of them is exported, else pytorch.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", help="Threads of one run.", min=1)] = 1,
    batch: Annotated[int, typer.Option("--batch", help="Inputs of one run.", min=1)] = 1,
    runs: Annotated[int, typer.Option("--runs", help="Runs of each that are watched layer by layer.", min=5)] = 40,
    input_text: Annotated[
        str | None,
        typer.Option("--input", metavar="CxHxW", help="Shape of one input, for networks that no data speaks of."),
    ] = None,
    outputs: Annotated[
        int | None, typer.Option("--outputs", metavar="N", help="Likewise, their outputs.", min=1)
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Save the bars as a picture.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Save all of it as a page.")] = None,
    runs_dir: RunsDir = RUNS,
    data_dir: DataDir = None,
    model: OwnModel = None,
    as_json: Json = False,
) -> int:
    """Compare two models layer by layer: shapes, parameters, MACs, milliseconds, share of the whole.

    Both run on the same runtime, in turns. A layer that only one of them has is shown with a dash in the other, and a
    dash for milliseconds says that the runtime does not tell layers apart.

    \b
    Examples:
      dimwise compare last last:chosen --png layers.png
      dimwise compare resnet20 resnet56 --runtime onnxruntime
      dimwise compare last last:chosen --runtime openvino
    """
    from dimwise import measure
    from dimwise.chain.named import both
    from dimwise.cli.model import _shape
    from dimwise.ship import RUNTIMES, layer_table

    if runtime is not None and runtime not in RUNTIMES:
        raise RecipeError(
            f"unknown runtime {runtime!r}",
            expected="one of: " + ", ".join(RUNTIMES),
            next_step=nearest(runtime, RUNTIMES),
        )
    shape = _shape(input_text) if input_text is not None else None
    given = both(a, b, runs_dir=runs_dir, data_dir=data_dir, input_shape=shape, n_outputs=outputs, model=model)
    chosen = runtime or ("onnxruntime" if any(one.is_graph for one in given) else "pytorch")
    sides = [_side(one, chosen) for one in given]
    busy = measure.machine_is_busy()
    if busy:
        _out.warn(busy)
    found = layer_table.compare(*sides, runtime=chosen, threads=threads, batch=batch, runs=runs).as_dict()
    _save(found, png, html)
    if as_json:
        _out.emit(found)
    else:
        _show(found)
        for path in filter(None, (png, html)):
            print(f"saved {path}")
    return 0


def _side(given: Any, runtime: str) -> Any:
    from dimwise.ship.layer_table import Side
    from dimwise.ship.runtimes import NETWORK_RUNTIMES

    if runtime not in NETWORK_RUNTIMES:
        return Side(given.name, given.exported(), given.raw.numpy())
    if given.is_graph:
        raise ModelError(
            f"{given.name} is exported, and {runtime} runs no graphs",
            next_step="Leave out --runtime, or name a network.",
        )
    return Side(given.name, given.subject, given.inputs)


def _save(found: dict[str, Any], png: Path | None, html: Path | None) -> None:
    from dimwise.view import compare as view

    try:
        if png is not None:
            view.bars(found).savefig(png, format="png", dpi=144)
        if html is not None:
            html.write_text(view.page(found), "utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write '{error.filename or png or html}': {error.strerror or error}",
            next_step="Name a file in a folder that exists.",
        ) from error


def _show(found: dict[str, Any]) -> None:
    from dimwise.view.compare import cells, totals

    sides = found["a"], found["b"]
    for letter, side in zip("AB", sides, strict=True):
        print(f"{letter}  {side['name']}")
    print(f"on {found['runtime']}, batch {found['batch']}, threads {found['threads']}\n")
    columns = ("output", "parameters", "MACs", "ms", "share")
    header = ["layer", "kind", *(f"{column} {letter}" for column in columns for letter in "AB")]
    rows: list[list[Any]] = []
    for row in found["layers"]:
        pairs = [*zip(cells(row["a"]), cells(row["b"]), strict=True), [_share(row[side]) for side in "ab"]]
        rows.append([row["name"], _kind(row), *(cell for pair in pairs for cell in pair)])
    whole = zip(totals(sides[0]), totals(sides[1]), strict=True)
    rows.append(["whole run", "", *(cell for pair in whole for cell in pair), "", ""])
    _out.table(header, rows, right=header[4:])
    print()
    if not any(layer["ms"] is not None for row in found["layers"] for layer in (row["a"], row["b"]) if layer):
        print(f"{found['runtime']} does not tell layers apart: only the whole run is timed.")
    print(verdict(found))


def _kind(row: dict[str, Any]) -> str:
    kinds = [row[side]["kind"] for side in "ab" if row[side] is not None]
    return " → ".join(dict.fromkeys(kind for kind in kinds if kind))


def _share(layer: dict[str, Any] | None) -> str | None:
    return None if layer is None or layer["share"] is None else f"{100 * layer['share']:.0f} %"


def verdict(found: dict[str, Any]) -> str:
    """One line: which is faster, or that neither is.

    Example:
        >>> side = {"latency_ms": 2.0, "latency_iqr_ms": 0.1}
        >>> verdict({"a": side, "b": {**side, "latency_ms": 1.0}, "tie": False})
        'B is faster: 1.000 ± 0.050 ms against 2.000 ± 0.050 ms, 2.0×.'
        >>> verdict({"a": side, "b": side, "tie": True})
        'A tie: 2.000 ± 0.050 ms and 2.000 ± 0.050 ms; the difference is within the noise.'
    """
    texts = {s: f"{found[s]['latency_ms']:.3f} ± {found[s]['latency_iqr_ms'] / 2:.3f} ms" for s in "ab"}
    if found["tie"]:
        return f"A tie: {texts['a']} and {texts['b']}; the difference is within the noise."
    fast, slow = sorted("ab", key=lambda side: found[side]["latency_ms"])
    ratio = found[slow]["latency_ms"] / max(found[fast]["latency_ms"], 1e-9)
    return f"{fast.upper()} is faster: {texts[fast]} against {texts[slow]}, {ratio:.1f}×."


app = single(compare)
