"""Rows of a table to numbers, with NumPy alone: what was learnt from the training rows is plain JSON.

The encoder comes from :mod:`dimwise.data.sources.csv`, travels in the manifest of an artifact and is applied here,
at training and at prediction alike::

    {
        "columns": [
            {"name": "Age", "kind": "number", "fill": 28.0, "indicator": true},
            {"name": "Sex", "kind": "category", "categories": ["female", "male"]},
        ],
        "features": ["Age", "Age is missing", "Sex=female", "Sex=male"],
    }

The order of the features: every number, then the indicators, then the categories.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import DataError

# Texts that mean "no value", as pandas reads them.
NO_VALUE = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "n/a"),
        *("NA", "NULL", "null", "None", "NaN", "nan", "-NaN", "-nan"),
    }
)
MISSING = "missing"
"""The category of cells without value, if the training rows had such cells."""
_BOOLEAN = {"True": 1.0, "TRUE": 1.0, "true": 1.0, "False": 0.0, "FALSE": 0.0, "false": 0.0}

Column = Sequence[Any] | NDArray[Any]


def apply(encoder: Mapping[str, Any], columns: Mapping[str, Column]) -> NDArray[np.float32]:
    """Encode rows.

    A number without value becomes the training median; where the training rows had gaps too, an indicator feature
    becomes 1. A category becomes a one among zeros; one that training never saw becomes zeros.

    Args:
        encoder: see the head of this module.
        columns: name -> N cells: texts, numbers, or None for no value. Columns that were not learnt are ignored.

    Returns:
        (N, F) float32, not standardised.

    Raises:
        DataError: a column is not there, lengths differ, or a cell is not a number where one is needed.

    Example:
        >>> encoder = {
        ...     "columns": [
        ...         {"name": "Age", "kind": "number", "fill": 28.0, "indicator": True},
        ...         {"name": "Sex", "kind": "category", "categories": ["female", "male"]},
        ...     ]
        ... }
        >>> apply(encoder, {"Age": ["30", ""], "Sex": ["male", "unknown"]}).tolist()
        [[30.0, 0.0, 0.0, 1.0], [28.0, 1.0, 0.0, 0.0]]
    """
    absent = [column["name"] for column in encoder["columns"] if column["name"] not in columns]
    if absent:
        raise DataError(
            f"the table has no column {', '.join(map(repr, absent))}",
            expected="the columns " + ", ".join(column["name"] for column in encoder["columns"]),
        )
    lengths = {column["name"]: len(columns[column["name"]]) for column in encoder["columns"]}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns have different lengths: {lengths}", expected="one length")
    filled, indicators, ones = [], [], []
    for column in encoder["columns"]:
        cells = columns[column["name"]]
        if column["kind"] == "number":
            values = numbers(cells, column["name"])
            gaps = np.isnan(values)
            filled.append(np.where(gaps, column["fill"], values)[:, None])
            if column["indicator"]:
                indicators.append(gaps[:, None])
        else:
            ones.append(_one_hot(cells, column["categories"]))
    return np.concatenate([*filled, *indicators, *ones], axis=1).astype(np.float32)  # (N, F)


def refuse_unknown(encoder: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
    """Make sure that training saw every category of the rows.

    Args:
        encoder: see the head of this module.
        columns: name -> N cells, as for :func:`apply`.

    Raises:
        DataError: naming column, row and category, and the known ones.

    Example:
        >>> encoder = {"columns": [{"name": "Sex", "kind": "category", "categories": ["female", "male"]}]}
        >>> refuse_unknown(encoder, {"Sex": ["male", "x"]})
        Traceback (most recent call last):
        ...
        dimwise.errors.DataError: column 'Sex' has 'x' in row 2, which training never saw; expected one of: ...
    """
    for column in encoder["columns"]:
        if column["kind"] != "category":
            continue
        known = set(column["categories"])
        for row, cell in enumerate(columns.get(column["name"], ()), 1):
            # A gap is no category: where training had none, it counts as none of them.
            if not is_missing(cell) and str(cell) not in known:
                shown = [c for c in column["categories"] if c != MISSING]
                raise DataError(
                    f"column {column['name']!r} has {cell!r} in row {row}, which training never saw",
                    expected="one of: " + ", ".join(shown[:12]) + (", …" if len(shown) > 12 else ""),
                )


def numbers(cells: Column, name: str) -> NDArray[np.float64]:
    """Cells as float64, NaN where there is no value.

    Raises:
        DataError: a cell that is no number, or infinite.
    """
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "iufb":
        values = cells.astype(np.float64)
    else:
        values = np.array([_number(cell, name, row) for row, cell in enumerate(cells, 1)], np.float64)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0]) + 1
        raise DataError(f"column {name!r} is infinite in row {row}", expected="a number or nothing")
    return values


def _number(cell: Any, name: str, row: int) -> float:
    if cell is None:
        return math.nan
    text = cell.strip() if isinstance(cell, str) else cell
    try:
        if isinstance(text, str):
            if text in NO_VALUE:
                return math.nan
            if text in _BOOLEAN:
                return _BOOLEAN[text]
            if "_" in text:  # Python's float takes 1_000, tables do not
                raise ValueError
        return float(text)
    except (ValueError, TypeError):
        raise DataError(f"column {name!r} holds {cell!r} in row {row}", expected="a number or nothing") from None


def is_missing(cell: Any) -> bool:
    """Whether a cell has no value: None, NaN, or one of the texts of :data:`NO_VALUE`."""
    return cell is None or (isinstance(cell, str) and cell in NO_VALUE) or cell != cell


def _one_hot(cells: Column, categories: Sequence[str]) -> NDArray[np.float64]:
    place = {category: i for i, category in enumerate(categories)}
    chosen = np.array([place.get(MISSING if is_missing(cell) else str(cell), -1) for cell in cells], np.int64)
    return (chosen[:, None] == np.arange(len(categories))).astype(np.float64)  # (N, K)


def read_csv(path: Path) -> dict[str, list[str]]:
    """A CSV file (``.gz`` too; comma, semicolon or tab) as name -> cells, all texts.

    Raises:
        DataError: no header, a name twice, or a row with more cells than names.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "t.csv"
        ...     n_written = path.write_text("a,b\\n1,x\\n2,\\n")
        ...     read_csv(path)
        {'a': ['1', '2'], 'b': ['x', '']}
    """
    names, separator = header(path)
    columns: dict[str, list[str]] = {name: [] for name in names}
    with open_text(path) as file:
        try:
            reader = csv.reader(file, delimiter=separator)
            next(reader)
            for row in reader:
                if not row:
                    continue
                if len(row) > len(names):
                    raise DataError(
                        f"{path} has {len(row)} cells in line {reader.line_num}",
                        expected=f"{len(names)}, as in its header",
                    )
                for name, cell in zip(names, row + [""] * (len(names) - len(row)), strict=True):
                    columns[name].append(cell)
        except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _not_a_table(path, error) from None
    return columns


def header(path: Path) -> tuple[list[str], str]:
    """Column names and separator of a CSV file; a column without name gets the one that pandas gives.

    Raises:
        DataError: an empty file, a name twice, or no text.
    """
    try:
        with open_text(path) as file:
            first = file.readline()
        separator = max(",;\t", key=first.count)
        names = next(csv.reader([first], delimiter=separator), [])
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise _not_a_table(path, error) from None
    if not any(name.strip() for name in names):
        raise DataError(f"{path} is empty or has no names in its first line", expected="a line of column names")
    names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} twice", expected="different names")
    return names, separator


def open_text(path: Path) -> Any:
    """A text file, packed by gzip or not, with its line ends as they are and without a byte order mark."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _not_a_table(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as a table ({error})", expected="CSV text in UTF-8")
