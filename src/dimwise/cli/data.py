"""``dimwise data``: list, fetch, describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimwise.cli import _out
from dimwise.cli._typer import DataDir, Json, Quiet, Settings, group

if TYPE_CHECKING:
    from dimwise.data.config import DataConfig

app = group("List, fetch and describe data sets.", example="dimwise data describe mnist --sheet sheet.png")


@app.command("list")
def list_sets(data_dir: DataDir = None, as_json: Json = False) -> int:
    """List the data sets a recipe may name, and where each lies on this machine.

    \b
    Example:
      dimwise data list
    """
    from dimwise.data.describe import list_sources

    found = list_sources(data_dir)
    if as_json:
        _out.emit(found)
    else:
        _out.table(["set", "what", "where"], [(row["name"], row["what"], _place_text(row)) for row in found])
    return 0


def _place_text(row: dict[str, Any]) -> str:
    from dimwise.view import units

    if row["found"] is None:
        return "your own"
    size = units.bytes_text(row["download_bytes"])
    return row["found"] or f"not here; {size} with: dimwise data fetch {row['name']}"


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Sets of `dimwise data list`.")],
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> int:
    """Download data sets that are not here yet; a download that was stopped goes on where it was.

    \b
    Example:
      dimwise data fetch mnist --data-dir ~/data
    """
    from dimwise.data.fetch import fetch as fetch_set
    from dimwise.progress import SILENT, Terminal

    for name in names:
        print(f"{name}: {fetch_set(name, data_dir, progress=SILENT if quiet else Terminal())}")
    return 0


@app.command()
def describe(
    name: Annotated[
        str, typer.Argument(help="A recipe, a set of `dimwise data list`, or a .csv, .tsv, .npz or image folder.")
    ],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.png", help="Also draw the first images of each class.")
    ] = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Describe a data set as a run would see it: counts, shapes, class balance, mean and deviation.

    \b
    Examples:
      dimwise data describe cifar10 --sheet cifar10.png
      dimwise data describe titanic.csv --set data.target=Survived
    """
    from dimwise.data import describe as describing
    from dimwise.data import load
    from dimwise.progress import SILENT, Terminal

    data = load(_config(name, settings or []), data_dir, progress=SILENT if quiet else Terminal())
    told = describing.describe(data)
    if sheet is not None:
        told["sheet"] = str(describing.contact_sheet(data, sheet))
    if as_json:
        _out.emit(told)
    else:
        _show(told)
    return 0


def _config(name: str, settings: list[str]) -> DataConfig:
    """The ``[data]`` part that a name stands for."""
    from dimwise import chain, recipe
    from dimwise.data import SOURCES

    path = Path(name)
    own = {".csv": "csv", ".npz": "npz", ".tsv": "text", ".txt": "text"}.get(path.suffix)
    if path.is_dir() and not (path / "recipe.toml").is_file():
        own = "folder"
    if name in chain.recipes() or (name not in SOURCES and own is None):
        return chain.load(name, settings).data
    tree: dict[str, Any] = {
        "data": {"source": name} if name in SOURCES else {"source": own, "path": str(path.resolve())}
    }
    return recipe.build(chain.Recipe, recipe.override(tree, settings), name).data


def _show(told: dict[str, Any]) -> None:
    raw = told["input"]
    shape = "×".join(map(str, raw["shape"]))
    facts = {
        "name": told["name"],
        "task": told["task"],
        "input": f"{shape} {raw['dtype']}, {raw['min']:.4g} to {raw['max']:.4g}",
    }
    if "vocabulary" in raw:
        facts["vocabulary"] = f"{raw['vocabulary']:,} tokens: {', '.join(raw['frequent'])}, …"
        facts["length"] = f"{raw['mean_tokens']:.1f} tokens of a text read, on average"
    else:
        facts |= {"mean": _few(raw["mean"]), "deviation": _few(raw["std"])}
    if told["imbalance"] is not None:
        facts["imbalance"] = f"{told['imbalance']:.2f} (largest class / smallest, in train)"
    if "sheet" in told:
        facts["sheet"] = told["sheet"]
    _out.pairs(facts)
    print()
    splits = told["splits"]
    rows: list[tuple[Any, ...]]
    if "classes" in splits["train"]:
        header = ["class", *splits]
        rows = [(label, *(split["classes"][label] for split in splits.values())) for label in told["labels"]]
    else:
        header = ["target: mean ± deviation", *splits]
        rows = [(label, *(_spread(split["targets"][label]) for split in splits.values())) for label in told["labels"]]
    rows.append(("inputs", *(split["n"] for split in splits.values())))
    _out.table(header, rows, right=list(splits))
    for note in told["notes"]:
        print(f"note: {note}")


def _few(values: list[float]) -> str:
    """Up to six numbers; a table of a hundred columns would fill the screen (``--json`` has them all)."""
    shown = ", ".join(f"{value:.4g}" for value in values[:6])
    return shown if len(values) <= 6 else f"{shown}, … ({len(values)} in all)"


def _spread(target: dict[str, float]) -> str:
    return f"{target['mean']:.4g} ± {target['std']:.4g}"
