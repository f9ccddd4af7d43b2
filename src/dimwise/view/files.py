"""A run folder, read for showing: everything but the recipe may be missing, torn or wrong.

Reads files only: no model is loaded, nothing is executed, no pickle is opened.
"""

from __future__ import annotations

import functools
import json
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.errors import RunError
from dimwise.runs import folder, metrics
from dimwise.view.story import History, Stage, history, mapping, sequence, stages
from dimwise.view.units import LARGEST, number

_MAX_ARRAY_BYTES = 64 << 20  # a few pictures never need more; a file that claims more is not ours


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run say."""

    name: str
    recipe_text: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=History)
    pictures: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    """What the doctor saw, as ``seen.json`` holds it."""
    lr_range: Mapping[str, Any] = field(default_factory=dict)
    """The curve of the learning-rate range test, as ``lr_range.json`` holds it."""
    status: str = ""
    """running | interrupted | finished | failed | unreadable"""
    unreadable: tuple[str, ...] = ()
    """Names of files that are there and could not be read."""

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The measured stages; empty for a run that only trained."""
        return stages(self.result)

    @property
    def score_name(self) -> str:
        """Such as accuracy."""
        return str(mapping(self.result.get("score")).get("name") or self.result.get("score_name") or "accuracy")

    @property
    def n_test(self) -> float | None:
        """How many test inputs the score is over."""
        return number(mapping(self.result.get("score")).get("n"))

    @property
    def n_epochs(self) -> int | None:
        """Epochs the recipe asks for."""
        value = number(mapping(self.recipe.get("train")).get("epochs"))
        return None if value is None else int(value)

    def label(self, index: int) -> str:
        """Name of a class; its number when it has none."""
        labels = sequence(self.result.get("labels"))
        return str(labels[index]) if 0 <= index < len(labels) else str(index)

    def array(self, name: str, n_dims: int) -> NDArray[Any] | None:
        """A picture array of that many dimensions, or None when it is missing, empty or of another shape."""
        found = self.pictures.get(name)
        fits = found is not None and found.ndim == n_dims and found.size > 0 and found.dtype.kind in "uif"
        if not fits or found is None:
            return None
        if found.dtype.kind == "f":
            found = np.clip(np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), -LARGEST, LARGEST)
        return found

    def texts(self, name: str) -> list[str]:
        """An array of texts; empty when it is missing or none."""
        found = self.pictures.get(name)
        return (
            [str(text) for text in found] if found is not None and found.ndim == 1 and found.dtype.kind == "U" else []
        )


def read(run_dir: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        RunError: when there is no such folder, or it holds no recipe and so is no run.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise RunError(f"there is no run folder '{run_dir}'", next_step="See what there is: dimwise runs list.")
    bad: list[str] = []
    text = _text(run_dir / "recipe.toml", bad)
    if text is None:
        raise RunError(
            f"'{run_dir}' is not a run: recipe.toml is missing or unreadable",
            expected="a folder made by dimwise run or dimwise train",
            next_step="See what there is: dimwise runs list.",
        )
    try:
        recipe = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        recipe, bad = {}, [*bad, "recipe.toml"]
    result = _json(run_dir / "result.json", bad)
    environment = _json(run_dir / "environment.json", bad)
    pictures = _pictures(run_dir / "pictures.npz", bad)
    try:
        records = metrics.read(run_dir / "metrics.jsonl")
    except OSError:
        records, bad = [], [*bad, "metrics.jsonl"]
    return RunFiles(
        name=run_dir.resolve().name,
        recipe_text=text,
        recipe=recipe,
        environment=environment,
        result=result,
        history=history(records),
        pictures=pictures,
        seen=_json(run_dir / "seen.json", bad),
        lr_range=_json(run_dir / "lr_range.json", bad),
        status=folder.status(run_dir),
        unreadable=tuple(bad),
    )


def _text(path: Path, bad: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        bad.append(path.name)
        return None


def _json(path: Path, bad: list[str]) -> Mapping[str, Any]:
    text = _text(path, bad)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        bad.append(path.name)
        return {}
    return value


def _pictures(path: Path, bad: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz, without pickle and without members too large to be pictures."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [m.filename for m in archive.infolist() if m.file_size <= _MAX_ARRAY_BYTES]
        with np.load(path, allow_pickle=False) as arrays:
            found = {}
            for name in names:
                key = name.removesuffix(".npy")
                value = arrays[key]
                if isinstance(value, np.ndarray) and value.nbytes <= _MAX_ARRAY_BYTES:
                    found[key] = value
            return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        bad.append(path.name)
        return {}
