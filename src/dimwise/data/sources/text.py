"""Lines of text and label: a file, or a folder with official splits; the vocabulary comes from the training texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dimwise.data.assemble import Array, Pair, Raw, cut, finish, named_path, require_task, take
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data
from dimwise.data.targets import class_indices
from dimwise.data.text import SUFFIXES, encode, rows, texts_of, vocabulary, words
from dimwise.errors import DataError, nearest
from dimwise.progress import Progress

_PARTS = {"train": ("train",), "valid": ("valid", "dev", "val", "validation"), "test": ("test",)}
SST2_LABELS = ("negative", "positive")
_SST2_FOLDERS = ("sst2", "SST2")


@dataclass(frozen=True)
class _Part:
    """One file: N texts and N labels, both as objects, and the columns the texts came from."""

    texts: Array
    labels: Array
    columns: tuple[str, ...]


def read(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """The texts at ``data.path`` as int64 (N, T) token numbers, the vocabulary in ``reading``.

    Raises:
        DataError: no text and label in a line, fewer than two labels, or no word that is frequent enough.
    """
    require_task(config, "classification")
    path = named_path(config, data_dir)
    files = _files(path) if path.is_dir() else {"train": path}
    return _assembled(path.name.split(".")[0], {part: _part(file, config) for part, file in files.items()}, config)


def read_sst2(config: DataConfig, data_dir: Path, progress: Progress) -> Data:
    """SST-2: 6,920 + 872 + 1,821 whole sentences of film reviews, positive or negative.

    Source: Socher et al. 2013, "Recursive deep models for semantic compositionality over a sentiment treebank".
    """
    require_task(config, "classification")
    folder = find("sst2", data_dir)
    if folder is None:
        from dimwise.data.fetch import fetch

        folder = fetch("sst2", data_dir, progress=progress)
    parts = {part: _part(file, replace(config, target="")) for part, file in _files(folder).items()}
    return _assembled("sst2", parts, config, names=SST2_LABELS)


def find(name: str, data_dir: Path) -> Path | None:
    """The folder under ``data_dir`` that holds the three files of SST-2."""
    for folder in _SST2_FOLDERS:
        if all((data_dir / folder / f"{part}.tsv").is_file() for part in ("train", "dev", "test")):
            return data_dir / folder
    return None


def _files(folder: Path) -> dict[str, Path]:
    """The file of each part; a part without a file is cut from the training texts later."""
    found = {}
    for part, names in _PARTS.items():
        spelled = (folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
        file = next((path for path in spelled if path.is_file()), None)
        if file is not None:
            found[part] = file
    if "train" not in found:
        raise DataError(f"{folder} holds no train.tsv", expected="train.tsv, and if there are dev.tsv and test.tsv")
    return found


def _part(path: Path, config: DataConfig) -> _Part:
    """The texts and labels of one file."""
    found = rows(path)
    columns: list[str] = []
    if config.target:
        header = found[0] if found else []
        if config.target not in header:
            raise DataError(
                f"{path} has no column {config.target!r}",
                expected="one of: " + (", ".join(header) or "(the file is empty)"),
                next_step=nearest(config.target, header),
            )
        columns = [name for name in header if name != config.target]
        place, body = header.index(config.target), found[1:]
    else:
        place, body = 1, found
    n_cells = len(columns) + 1 if columns else 2
    odd = next((n for n, row in enumerate(body, 1) if len(row) != n_cells), 0)
    if odd or not body or n_cells < 2:
        what = f"has {len(body[odd - 1])} cells in text {odd}" if odd else "holds no texts"
        raise DataError(
            f"{path} {what}",
            expected=f"{n_cells} cells, parted by {'commas' if '.csv' in path.suffixes else 'tabs'}: text and label",
            next_step="" if config.target else "Where the first line is a header, name its label: data.target=COLUMN.",
        )
    texts = texts_of(found, columns, path)
    return _Part(np.array(texts, object), np.array([row[place].strip() for row in body], object), tuple(columns))


def _assembled(name: str, parts: dict[str, _Part], config: DataConfig, names: Sequence[str] | None = None) -> Data:
    read_columns = {part.columns for part in parts.values()}
    if len(read_columns) > 1:
        raise DataError(f"the files of {name} have different columns", expected="the same header in all")
    found, labels = class_indices({part: told.labels.astype(str) for part, told in parts.items()}, None, name)
    if names is not None and len(labels) != len(names):
        raise DataError(f"{name} has {len(labels)} labels", expected=f"{len(names)}: {', '.join(names)}")
    pairs = {part: (told.texts, found[part]) for part, told in parts.items()}
    indices = cut(found["train"], "classification", config, has_valid="valid" in pairs, has_test="test" in pairs)
    three = [pairs.get(part) or take(pairs["train"], chosen) for part, chosen in zip(_PARTS, indices, strict=True)]
    three[0] = take(pairs["train"], indices[0])
    known = vocabulary(three[0][0], config.min_count)
    if len(known) < 3:
        raise DataError(
            f"no word of {name} occurs {config.min_count} times in its training texts",
            expected="words that come back",
            next_step="Set data.min_count=1, or bring more texts.",
        )
    reading = {
        "kind": "text",
        "max_tokens": config.max_tokens,
        "columns": list(next(iter(read_columns))),
        "vocabulary": known,
    }
    encoded: list[Pair] = [(encode(texts.tolist(), reading), targets) for texts, targets in three]
    raw = Raw(name, encoded[0], names or labels, reading=reading, notes=_notes(three, encoded, known, config))
    return finish(raw, (encoded[0], encoded[1], encoded[2]), config=config)


def _notes(texts: list[Pair], encoded: list[Pair], known: Sequence[str], config: DataConfig) -> tuple[str, ...]:
    """How much of the texts the network does not see."""
    held_out = encoded[1][0]
    unknown = (held_out == 1).sum() / max(1, (held_out != 0).sum())
    notes = [
        f"vocabulary of {len(known) - 2:,} words that occur {config.min_count} times or more in the training texts; "
        f"{100 * unknown:.1f} % of the words of the validation texts are not among them"
    ]
    n_long = sum(len(words(text)) > config.max_tokens for text in texts[0][0])
    if n_long:
        notes.append(f"{n_long} of {len(texts[0][1])} training texts are cut after {config.max_tokens} tokens")
    return tuple(notes)
