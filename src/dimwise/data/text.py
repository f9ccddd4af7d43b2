"""Texts to numbers, with NumPy alone: what was learnt from the training texts is plain JSON.

The vocabulary comes from :mod:`dimwise.data.sources.text`, travels in the manifest of an artifact and is applied here,
at training and at prediction alike::

    {"kind": "text", "max_tokens": 48, "columns": [], "vocabulary": ["<pad>", "<unk>", "the", ...]}

A text becomes ``max_tokens`` numbers: places in the vocabulary, ``<unk>`` for words that it lacks, and ``<pad>``, which
is 0, behind the end. ``columns`` names the columns of a table that hold the text; empty: a file has no header, and what
comes before the first tab (in a .csv: the first cell) is the text.
"""

from __future__ import annotations

import csv
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimwise.data.table import open_text
from dimwise.errors import DataError

PAD, UNKNOWN = "<pad>", "<unk>"
SUFFIXES = (".tsv", ".txt", ".csv", ".tsv.gz", ".txt.gz", ".csv.gz")
"""Files of texts: tabs in the first two, commas in the third."""
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters: written without spaces
_WORD = re.compile(rf"[{_ALONE}]|[a-z]+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W{_ALONE}]+|[^\w\s]")


def words(text: str) -> list[str]:
    """A text in lower case as words and marks; English contractions are cut as in the Penn Treebank.

    Chinese and Japanese characters stand alone.

    Example:
        >>> words("It's GOOD, isn't it?"), words("很好 2024")
        (['it', "'s", 'good', ',', 'is', "n't", 'it', '?'], ['很', '好', '2024'])
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def vocabulary(texts: Iterable[str], min_count: int) -> list[str]:
    """``<pad>``, ``<unk>``, then the words that occur at least ``min_count`` times, the most frequent first.

    Example:
        >>> vocabulary(["a b b", "b a c"], 2)
        ['<pad>', '<unk>', 'b', 'a']
    """
    counts = Counter(word for text in texts for word in words(text))
    kept = [word for word, n in counts.items() if n >= min_count and word not in (PAD, UNKNOWN)]
    return [PAD, UNKNOWN, *sorted(kept, key=lambda word: (-counts[word], word))]


def encode(texts: Sequence[str], reading: Mapping[str, Any]) -> NDArray[np.int64]:
    """Texts to token numbers.

    Args:
        texts: N texts; one without a word becomes a single ``<unk>``, since a network needs something to read.
        reading: with ``vocabulary`` and ``max_tokens``, see the head of this module.

    Returns:
        (N, max_tokens) int64; what is longer is cut off, what is shorter is filled with 0.

    Example:
        >>> encode(["b c", ""], {"vocabulary": ["<pad>", "<unk>", "b"], "max_tokens": 3}).tolist()
        [[2, 1, 0], [1, 0, 0]]
    """
    place = {word: i for i, word in enumerate(reading["vocabulary"])}
    tokens = np.zeros((len(texts), int(reading["max_tokens"])), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        found = [place.get(word, 1) for word in words(text)[: len(row)]] or [1]
        row[: len(found)] = found
    return tokens


def decode(tokens: Iterable[int], vocabulary: Sequence[str]) -> str:
    """What the network sees of a text: its words up to the padding.

    Example:
        >>> decode([2, 1, 0], ["<pad>", "<unk>", "b"])
        'b <unk>'
    """
    return " ".join(vocabulary[token] for token in tokens if token)


def rows(path: Path) -> list[list[str]]:
    """The cells of each line that is not empty: tabs part the cells, in a .csv commas, with quotes.

    Raises:
        DataError: the file cannot be read as text.
    """
    try:
        with open_text(path) as file:
            if path.name.lower().endswith((".csv", ".csv.gz")):
                return [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
            return [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="text in UTF-8") from None


def texts_of(found: Sequence[Sequence[str]], columns: Sequence[str], path: Path) -> list[str]:
    """The text of each row; with ``columns`` the first row names the cells, and theirs are joined by a space.

    Raises:
        DataError: the header lacks a column, or a row a cell.
    """
    if not columns:
        return [row[0] for row in found]
    header = list(found[0]) if found else []
    absent = [name for name in columns if name not in header]
    if absent:
        raise DataError(
            f"{path} has no column {absent[0]!r}",
            expected="a first line with " + ", ".join(columns),
            next_step="Lines without a header can be given as .txt, one text a line." if len(header) < 2 else "",
        )
    places = [header.index(name) for name in columns]
    short = next((n for n, row in enumerate(found, 1) if len(row) <= max(places)), 0)
    if short:
        raise DataError(f"{path} has {len(found[short - 1])} cells in row {short}", expected=f"{len(header)}")
    return [" ".join(row[place] for place in places) for row in found[1:]]


def read_texts(path: Path, reading: Mapping[str, Any]) -> list[str]:
    """The texts of a file to predict from: of the columns that training read; in a .txt one a line.

    Raises:
        DataError: the file cannot be read, lacks a column, or holds no text.
    """
    plain = path.name.lower().endswith((".txt", ".txt.gz"))
    texts = texts_of(rows(path), () if plain else reading.get("columns", ()), path)
    if not texts:
        raise DataError(f"{path} holds no text", expected="at least one line")
    return texts
