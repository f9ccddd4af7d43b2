"""``dimwise lr-range``: which learning rates a recipe's network learns with, by trying."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dimwise.cli import _out
from dimwise.cli._typer import DataDir, Json, ModelName, Quiet, Settings, single
from dimwise.errors import UserError


def lr_range(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name of `dimwise recipe list`, or a file.")],
    low: Annotated[float, typer.Option("--low", help="First learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--high", help="Last learning rate.")] = 10.0,
    n_steps: Annotated[int, typer.Option("--steps", metavar="N", help="Optimizer steps, 30 or more.", min=30)] = 150,
    n_seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Repetitions that must agree.", min=2)] = 3,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Save the curve as a picture.")] = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    model: ModelName = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Train for a moment with a growing learning rate, and say which rates are worth trying.

    Nothing is kept: copies are trained. When the curve gives no clear answer, that is what is said.

    \b
    Examples:
      dimwise lr-range digits
      dimwise lr-range mnist --set train.optimizer=sgd --png curve.png
    """
    from dimwise import chain
    from dimwise.chain.start import build
    from dimwise.data import load as load_data
    from dimwise.progress import SILENT, Terminal
    from dimwise.recipe import build as checked
    from dimwise.train import LrRangeConfig
    from dimwise.train import lr_range as find

    tree = {"low": low, "high": high, "n_steps": n_steps, "n_seeds": n_seeds}
    test = checked(LrRangeConfig, tree, "lr-range")
    resolved = chain.load(recipe, settings or ())
    progress = SILENT if quiet else Terminal()
    data = load_data(resolved.data, data_dir, progress=progress)
    network = build(resolved, data, model)
    found = find(network, data, None, resolved.train, test=test, augment=resolved.augment, progress=progress)
    told = found.as_dict()
    if png is not None:
        _save(told, png)
    if as_json:
        _out.emit({"recipe": resolved.name, "optimizer": resolved.train.optimizer, **told})
    elif not quiet:
        _show(told, resolved.train.optimizer, resolved.train.lr, png)
    return 0


def _save(told: dict[str, Any], png: Path) -> None:
    from dimwise.view.lr_range import lr_range as draw

    keys = ("rates", "losses", "smoothed", "interval", "suggested", "n_seeds")
    figure = draw(**{key: told[key] for key in keys})
    try:
        figure.savefig(png, format="png", dpi=144)
    except OSError as error:
        raise UserError(
            f"cannot write '{os.fspath(png)}': {error.strerror or error}",
            next_step="Name a file in a folder that exists.",
        ) from error


def _show(told: dict[str, Any], optimizer: str, lr: float, png: Path | None) -> None:
    from dimwise.view.lr_range import sparkline

    rows: dict[str, Any] = {}
    if told["interval"] is not None:
        low, high = told["interval"]
        rows["rates to try"] = f"{low:.2g} to {high:.2g} with {optimizer}; begin with {told['suggested']:.2g}"
        rows["why"] = told["reason"]
        place = "inside" if low <= lr <= high else "below" if lr < low else "above"
        rows["the recipe's"] = f"{lr:g} is {place} the interval"
    else:
        rows["rates to try"] = told["reason"]
    if told["rates"]:
        rows["loss"] = sparkline(_cut(told["smoothed"]))
        rows["rate"] = f"{told['rates'][0]:.2g} … {told['rates'][-1]:.2g}, {len(told['rates'])} steps, growing"
        rows["rate"] += "; the range was extended" if told["extended"] else ""
    if png is not None:
        rows["picture"] = png
    _out.pairs(rows)


def _cut(smoothed: tuple[float, ...]) -> list[float]:
    """Where it diverges the loss may be a thousand times the rest, which would be a flat line beside it."""
    limit = 1.5 * max(smoothed[: max(1, len(smoothed) // 2)])
    return [min(value, limit) for value in smoothed]


app = single(lr_range)
