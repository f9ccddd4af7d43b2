"""A CSV table with a target column: types inferred, gaps and categories learnt from the training rows alone."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dimwise.data.assemble import Array, Raw, cut, finish, named_path, require_task, shorten
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data
from dimwise.data.table import MISSING, NO_VALUE, apply, header, numbers
from dimwise.data.targets import class_indices, columns, infer_task
from dimwise.errors import DataError, nearest
from dimwise.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 64
MAX_CLASSES_OF_NUMBERS = 20
_ID = re.compile(r"(^|[\s_-])(id|index|idx|key|uuid|no|nr|row)$|[a-z](Id|ID)$|^Unnamed: \d+$", re.ASCII)


def read(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """The table at ``data.path`` as float32 (N, F), and how its columns became features in ``reading["encoder"]``.

    Raises:
        DataError: no target, a gap in it, no usable column, or a file that is no table.
    """
    require_task(config, "classification", "multilabel", "regression")
    path = named_path(config, data_dir)
    frame = _frame(path)
    names = _target_names(config, list(frame.columns), path)
    notes: list[str] = []
    targets, labels, task = _targets(frame, names, config, path, notes)
    parts = cut(targets, task, config, has_valid=False, has_test=False)
    features = frame.drop(columns=names)
    encoder = fit_encoder(features, parts[0], notes, str(path))
    used = [column["name"] for column in encoder["columns"]]
    inputs = apply(encoder, {name: cells(features[name]) for name in used})
    n_numbers = sum(column["kind"] == "number" for column in encoder["columns"])
    reading = {"kind": "table", "columns": used, "encoder": encoder}
    train, valid, test = ((inputs[part], targets[part]) for part in parts)
    raw = Raw(path.name.split(".")[0], (inputs, targets), labels, task, reading=reading, notes=tuple(notes))
    centred = np.arange(inputs.shape[1]) < n_numbers  # indicators and categories stay 0 or 1
    return finish(raw, (train, valid, test), config=config, centred=centred)


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.is_dir():
        raise DataError(f"{path} is a folder", expected="a CSV file")
    _, separator = header(path)
    try:
        return pd.read_csv(
            path,
            sep=separator,
            encoding="utf-8-sig",
            keep_default_na=False,
            na_values=sorted(NO_VALUE),
            low_memory=False,
            index_col=False,
            on_bad_lines="error",
        )
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        EOFError,
        OSError,
        zlib.error,
    ) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as a table ({reason})", expected="CSV text in UTF-8") from None


def _target_names(config: DataConfig, found: Sequence[str], path: Path) -> list[str]:
    if config.target in found:
        return [config.target]
    names = [name.strip() for name in config.target.split(",") if name.strip()]
    absent = [name for name in names if name not in found]
    if not names or absent:
        what = f"{path} has no column {absent[0]!r}" if absent else f"data.target is empty for {path}"
        raise DataError(
            what,
            expected="one of: " + ", ".join(found),
            next_step=nearest(absent[0], found) if absent else "Set data.target=COLUMN.",
        )
    return names


def _targets(
    frame: pd.DataFrame, names: Sequence[str], config: DataConfig, path: Path, notes: list[str]
) -> tuple[Array, list[str], str]:
    if frame.empty:
        raise DataError(f"{path} has no rows", expected="rows below its header")
    for name in names:
        gaps = np.flatnonzero(frame[name].isna()) + 1
        if len(gaps):
            raise DataError(
                f"target column {name!r} of {path} has no value in row {shorten(gaps)}",
                expected="a value in each row (the first row after the header is 1)",
                next_step="Fill them or drop those rows.",
            )
    values = np.stack([frame[name].to_numpy() for name in names], axis=1) if len(names) > 1 else _one(frame[names[0]])
    task: str = config.task
    if task == "auto":
        task = _infer(values)
        what = (
            f"{len(np.unique(values))} different values of {names[0]!r}" if len(names) == 1 else f"{len(names)} columns"
        )
        notes.append(f"task {task}, inferred from {what}; data.task says otherwise")
    if task == "classification":
        if values.ndim > 1:
            raise DataError(f"data.target names {len(names)} columns for a classification", expected="one column")
        by_part, labels = class_indices({"target": values}, None, f"column {names[0]!r} of {path}")
        if len(labels) > max(2, len(values) // 2):
            raise DataError(
                f"column {names[0]!r} of {path} has {len(labels)} different values in {len(values)} rows",
                expected="classes that repeat",
                next_step="Choose another data.target, or data.task=regression for numbers.",
            )
        return by_part["target"], labels, task
    return columns({"target": values}, task, str(path))["target"], list(names), task


def _one(series: pd.Series[Any]) -> Array:
    import pandas as pd

    if pd.api.types.is_numeric_dtype(series):
        return series.to_numpy()
    return series.astype(str).to_numpy().astype(str)


def _infer(values: Array) -> str:
    few = values.ndim == 1 and len(np.unique(values)) <= MAX_CLASSES_OF_NUMBERS
    if values.ndim == 1 and values.dtype.kind in "iuf":
        whole = bool((values == np.floor(values)).all())
        return "classification" if few and whole else "regression"
    return infer_task(values.astype(np.float64) if values.ndim > 1 and values.dtype != object else values)


def cells(series: pd.Series[Any]) -> Array | list[str | None]:
    """A column as :func:`dimwise.data.table.apply` takes it: an array of numbers, or texts and None."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(series):
        return series.to_numpy(dtype=np.float64)
    gaps = series.isna()
    return [None if gap else str(cell) for cell, gap in zip(series, gaps, strict=True)]


def fit_encoder(features: pd.DataFrame, train: Array, notes: list[str], source: str) -> dict[str, Any]:
    """Learn medians, gaps and categories from the rows ``train`` with scikit-learn, and write them as plain JSON.

    Deviation: columns that cannot carry over to new rows (constants, running numbers, texts that hardly repeat,
    more than 64 categories) are left out, each with a note.

    Raises:
        DataError: no column is left.
    """
    kinds = _kinds(features, train, notes)
    if not any(kinds.values()):
        raise DataError(f"{source} has no usable column beside its target; {'; '.join(notes)}", expected="one or more")
    fitted = column_transformer(kinds["number"], kinds["category"]).fit(_plain(features, kinds).iloc[train])
    learnt: list[dict[str, Any]] = []
    gaps: list[str] = []
    if kinds["number"]:
        imputer = fitted.named_transformers_["number"]
        with_gaps = set() if imputer.indicator_ is None else set(imputer.indicator_.features_.tolist())
        for i, (name, median) in enumerate(zip(kinds["number"], imputer.statistics_.tolist(), strict=True)):
            learnt.append({"name": name, "kind": "number", "fill": median, "indicator": i in with_gaps})
            gaps += [name] if i in with_gaps else []
    if kinds["category"]:
        found = fitted.named_transformers_["category"][-1].categories_
        for name, values in zip(kinds["category"], found, strict=True):
            learnt.append({"name": name, "kind": "category", "categories": [str(value) for value in values]})
    if gaps:
        notes.append(f"gaps filled with the training median and marked by a feature: {', '.join(gaps)}")
    named = [*kinds["number"], *(f"{name} is missing" for name in gaps)]
    named += [f"{c['name']}={value}" for c in learnt if c["kind"] == "category" for value in c["categories"]]
    return {"columns": learnt, "features": named}


def column_transformer(number_columns: Sequence[str], category_columns: Sequence[str]) -> Any:
    """The scikit-learn transformer whose learnt values the encoder carries; unfitted."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    category = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=MISSING),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    number = SimpleImputer(strategy="median", add_indicator=True)
    return ColumnTransformer([("number", number, list(number_columns)), ("category", category, list(category_columns))])


def _plain(features: pd.DataFrame, kinds: dict[str, list[str]]) -> pd.DataFrame:
    """Numbers as float64, categories as objects with NaN for gaps: what scikit-learn's imputers expect."""
    import pandas as pd

    made: dict[str, Any] = {name: numbers(np.asarray(cells(features[name])), name) for name in kinds["number"]}
    for name in kinds["category"]:
        made[name] = np.array([np.nan if cell is None else cell for cell in cells(features[name])], dtype=object)
    return pd.DataFrame(made)


def _kinds(features: pd.DataFrame, train: Array, notes: list[str]) -> dict[str, list[str]]:
    import pandas as pd

    kinds: dict[str, list[str]] = {"number": [], "category": []}
    dropped = []
    for name in features.columns:
        column = features[name]
        present = column.iloc[train].dropna()
        is_number = pd.api.types.is_numeric_dtype(column)
        why = _useless(name, column, present, len(train), is_number)
        if why:
            dropped.append(f"{name} ({why})")
        else:
            kinds["number" if is_number else "category"].append(name)
    if dropped:
        notes.append("columns left out: " + ", ".join(dropped))
    return kinds


def _useless(name: str, column: pd.Series[Any], present: pd.Series[Any], n_train: int, is_number: bool) -> str:
    """Why a column cannot help with new rows, or nothing."""
    n_values = int(present.nunique())
    if n_values == 0:
        return "empty"
    if n_values == 1 and len(present) == n_train:
        return "always the same"
    if is_number:
        runs = column.notna().all() and column.is_unique and column.max() - column.min() == len(column) - 1
        return "a running number" if runs and _ID.search(str(name)) else ""
    if n_values == len(present) or n_values > max(16, len(present) / 2):
        return f"{n_values} different texts in {len(present)} rows"
    return f"{n_values} categories" if n_values > MAX_CATEGORIES else ""
