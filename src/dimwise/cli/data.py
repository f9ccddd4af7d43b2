"""``dimwise data``: list, fetch, describe."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dimwise.cli import _out
from dimwise.cli._typer import DataDir, Json, Quiet, group

app = group("List, fetch and describe data sets.")

_OWN = {
    "npz": "arrays in an .npz file",
    "folder": "a folder of images, one sub-folder a class",
    "csv": "a table with a target column",
}


@app.command("list")
def list_sets(data_dir: DataDir = None, as_json: Json = False) -> int:
    """List the data sets a recipe may name, and where each lies on this machine.

    \b
    Example:
      dimwise data list
    """
    from dimwise.data import SOURCES, data_folder
    from dimwise.data.fetch import DOWNLOADS
    from dimwise.data.find import where

    folder = data_folder(data_dir)
    rows = []
    for name in SOURCES:
        place = where(name, folder)
        download = DOWNLOADS.get(name)
        rows.append(
            {
                "name": name,
                "place": None if place is None else str(place),
                "built_in": name not in _OWN and download is None,
                "download_bytes": None if download is None else download.size_bytes,
            }
        )
    if as_json:
        _out.emit({"data_dir": str(folder), "sets": rows})
    else:
        _out.table(["set", "where"], [(row["name"], _place_text(row)) for row in rows])
    return 0


def _place_text(row: dict[str, Any]) -> str:
    from dimwise.view import units

    if row["name"] in _OWN:
        return f"your own: {_OWN[row['name']]}, named by data.path"
    if row["built_in"]:
        return "comes with dimwise"
    if row["place"]:
        return str(row["place"])
    return f"not here; {units.bytes_text(row['download_bytes'])} with: dimwise data fetch {row['name']}"


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
