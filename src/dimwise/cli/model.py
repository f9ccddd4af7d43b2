"""``dimwise model``: list the networks, and show one layer by layer."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from dimwise.cli import _out
from dimwise.cli._typer import Json, group
from dimwise.errors import ModelError

app = group("List networks, and show one layer by layer.", example="dimwise model show resnet20")


@app.command("list")
def list_models(as_json: Json = False) -> int:
    """List the networks that a recipe may name, with the input each was published with.

    \b
    Example:
      dimwise model list
    """
    from dimwise.models import MODELS, USUAL

    if as_json:
        _out.emit({name: {"input": USUAL[name][0], "outputs": USUAL[name][1]} for name in MODELS})
    else:
        rows = [(name, _shape_text(USUAL[name][0]), USUAL[name][1]) for name in MODELS]
        _out.table(["model", "usual input", "outputs"], rows, right=["outputs"])
    return 0


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name of `dimwise model list`, or package.module:function.")],
    input_text: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Shape of one input. Default: as published.")
    ] = None,
    outputs: Annotated[
        int | None, typer.Option("--outputs", metavar="N", help="Numbers returned for one input.", min=1)
    ] = None,
    width: Annotated[float, typer.Option("--width", help="Factor on the channels of each layer.")] = 1.0,
    as_json: Json = False,
) -> int:
    """Show a network layer by layer: shapes, parameters, MACs, activation bytes, for one input.

    \b
    Examples:
      dimwise model show resnet20
      dimwise model show mypackage.nets:tiny --input 3x64x64 --outputs 5
    """
    shape, n_outputs = _usual(name)
    shape = _shape(input_text) if input_text is not None else shape
    n_outputs = outputs if outputs is not None else n_outputs

    import torch

    from dimwise import measure, models

    if ":" in name and width != 1.0:
        raise ModelError(f"--width is for the networks of the table, not for {name}")
    try:
        if ":" in name:
            network = models.from_name(name, shape, n_outputs)
        else:
            network = models.build(name, shape, n_outputs, width=width, vocabulary=models.TOKENS.get(name, 0))
    except RuntimeError as error:  # such as weights that fit no memory
        reason = str(error).strip().partition("\n")[0][:160]
        raise ModelError(
            f"{name} cannot be made for inputs of {_shape_text(shape)}: {reason}", next_step="Name another --input."
        ) from error
    kind = torch.int64 if name in models.TOKENS else torch.float32
    profile = measure.profile(network.eval(), torch.zeros((1, *shape), dtype=kind))
    if as_json:
        import dataclasses

        _out.emit({"model": name, "input": shape, "outputs": n_outputs, **dataclasses.asdict(profile)})
    else:
        _show(profile)
    return 0


def _usual(name: str) -> tuple[tuple[int, ...], int]:
    from dimwise.errors import nearest
    from dimwise.models import MODELS, USUAL

    if ":" in name:
        return (3, 32, 32), 10
    if name not in USUAL:
        raise ModelError(
            f"unknown model {name!r}",
            expected="package.module:function or one of: " + ", ".join(MODELS),
            next_step=nearest(name, MODELS),
        )
    return USUAL[name]


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,8}([x×,][1-9]\d{0,8})*", text):
        raise ModelError(f"--input {text!r} is not a shape", expected="sizes joined by x, as in 3x32x32")
    return tuple(int(part) for part in re.split("[x×,]", text))


def _shape_text(shape: Any) -> str:
    return "×".join(str(size) for size in shape)


def _show(profile: Any) -> None:
    from dimwise.view import units

    rows = [
        (
            row.name,
            row.kind,
            _shape_text(row.input_shape[1:]),
            _shape_text(row.output_shape[1:]),
            f"{row.params:,}",
            f"{row.macs:,}",
            units.bytes_text(row.activation_bytes),
        )
        for row in profile.rows
    ]
    totals = f"{profile.params:,}", f"{profile.macs:,}", units.bytes_text(profile.activation_bytes)
    rows.append(("total", "", "", "", *totals))
    header = ["layer", "kind", "input", "output", "parameters", "MACs", "activations"]
    _out.table(header, rows, right=header[4:])
