"""Words, vocabulary and tokens; what files of texts hold."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimwise.data.text import decode, encode, read_texts, vocabulary, words
from dimwise.errors import DataError

READING: dict[str, Any] = {
    "kind": "text",
    "max_tokens": 4,
    "columns": [],
    "vocabulary": ["<pad>", "<unk>", "good", "n't", "."],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It isn't GOOD.", ["it", "is", "n't", "good", "."]),
        ("it is n't good .", ["it", "is", "n't", "good", "."]),  # as in the Penn Treebank: the same
        ("she's can't won\u2019t they'd", ["she", "'s", "ca", "n't", "wo", "n't", "they", "'d"]),
        ("'90s rock-and-roll", ["'", "90s", "rock", "-", "and", "-", "roll"]),
        ("Café naïve", ["café", "naïve"]),
        ("电影abc好看!", ["电", "影", "abc", "好", "看", "!"]),
        ("  \t ", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_vocabulary_is_ordered_by_count_then_by_word_and_holds_no_rare_word() -> None:
    assert vocabulary(["b a c", "a b", "d a", "e e"], 2) == ["<pad>", "<unk>", "a", "b", "e"]
    assert vocabulary(["b a c", "a b"], 1)[2:] == ["a", "b", "c"]


def test_texts_are_cut_filled_and_never_empty() -> None:
    tokens = encode(["good good good . n't", "bad", "", "Good isn't"], READING)
    assert tokens.tolist() == [[2, 2, 2, 4], [1, 0, 0, 0], [1, 0, 0, 0], [2, 1, 3, 0]]
    assert tokens.dtype == np.int64
    assert decode(tokens[3].tolist(), READING["vocabulary"]) == "good <unk> n't"
    assert encode([], READING).shape == (0, 4)


def test_files_of_texts(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("first one\n\nsecond\n", "utf-8")
    assert read_texts(plain, READING) == ["first one", "second"]
    tabs = tmp_path / "a.tsv.gz"
    tabs.write_bytes(gzip.compress(b'say "hi" , ok\t1\nno\t0\n'))
    assert read_texts(tabs, READING) == ['say "hi" , ok', "no"]
    table = tmp_path / "a.csv"
    table.write_text('label,title,body\n1,"a, b",c\n', "utf-8")
    assert read_texts(table, READING) == ["label", "1"]
    assert read_texts(table, {**READING, "columns": ["title", "body"]}) == ["a, b c"]
    assert read_texts(plain, {**READING, "columns": ["title"]}) == ["first one", "second"]


def test_files_that_hold_no_texts(tmp_path: Path) -> None:
    wanted = {**READING, "columns": ["title"]}
    path = tmp_path / "a.tsv"
    path.write_text("")
    with pytest.raises(DataError, match=r"a\.tsv holds no text; expected at least one line"):
        read_texts(path, READING)
    path.write_text("body\tlabel\nx\t1\n")
    with pytest.raises(DataError, match=r"a\.tsv has no column 'title'; expected a first line with title"):
        read_texts(path, wanted)
    path.write_text("body\ttitle\nx\ta\ny\n")
    with pytest.raises(DataError, match=r"a\.tsv has 1 cells in row 3; expected 2"):
        read_texts(path, wanted)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.tsv cannot be read \(.*\); expected text in UTF-8"):
        read_texts(path, READING)


def test_reading_needs_no_torch() -> None:
    code = "import sys, dimwise.data.text; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
