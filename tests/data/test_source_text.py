"""Texts with labels: lines, tables and folders of official splits, and the SST-2 of the data folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dimwise import cli
from dimwise.data import DataConfig, load
from dimwise.data.describe import describe
from dimwise.data.sources.text import find
from dimwise.data.text import encode
from dimwise.errors import DataError


def lines(n: int, start: int = 0) -> str:
    return "".join(f"word{i % 3} said {'well' if i % 2 else 'badly'}\t{i % 2}\n" for i in range(start, start + n))


def config(path: Path, **more: object) -> DataConfig:
    return DataConfig(source="text", path=str(path), **{"max_tokens": 5, **more})  # type: ignore[arg-type]


def test_one_file_is_split_and_its_vocabulary_comes_from_the_training_part(tmp_path: Path) -> None:
    path = tmp_path / "told.tsv"
    path.write_text(lines(40) + "unique1 unique1 once\t1\n" * 1)
    data = load(config(path))
    assert (len(data.train), len(data.valid), len(data.test)) == (29, 4, 8)
    assert data.input_shape == (5,)
    assert data.train.inputs.dtype == torch.int64
    assert data.labels == ("0", "1")
    assert data.name == "told"
    assert isinstance(data.normalise, nn.Identity)
    assert set(data.reading["vocabulary"]) <= {
        *("<pad>", "<unk>", "word0", "word1", "word2", "said", "well", "badly", "unique1")
    }
    assert data.vocabulary == len(data.reading["vocabulary"])
    assert int(data.train.inputs.max()) < data.vocabulary
    assert json.loads(json.dumps(data.reading)) == data.reading
    assert "words that occur 2 times or more in the training texts" in data.notes[0]


def test_a_folder_brings_its_own_splits_and_words_of_the_test_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(lines(10))
    (tmp_path / "dev.tsv").write_text(lines(4, 10))
    (tmp_path / "test.tsv").write_text("secret secret secret said\t1\n" * 3)
    data = load(config(tmp_path))
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 4, 3)
    assert "secret" not in data.reading["vocabulary"]
    said = data.reading["vocabulary"].index("said")
    assert data.test.inputs[0].tolist() == [1, 1, 1, said, 0]
    assert torch.equal(
        data.train.inputs, torch.from_numpy(encode([x.split("\t")[0] for x in lines(10).splitlines()], data.reading))
    )
    short = load(config(tmp_path, max_tokens=2, train_limit=6))
    assert len(short.train) == 6
    assert any("6 of 6 training texts are cut after 2 tokens" in note for note in short.notes)


def test_a_header_is_read_where_the_label_is_named(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_text("kind,title,body\n" + "".join(f'k{i % 2},"t, {i % 2}",said\n' for i in range(30)))
    data = load(config(path, target="kind"))
    assert data.labels == ("k0", "k1")
    assert data.reading["columns"] == ["title", "body"]
    assert {"t", ",", "said"} <= set(data.reading["vocabulary"])
    assert data.train.inputs[0].count_nonzero() == 4


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("", {}, r"a\.tsv holds no texts; expected 2 cells, parted by tabs: text and label\. Where the first line"),
        ("a\t1\nb c\n", {}, r"a\.tsv has 1 cells in text 2; expected 2 cells"),
        ("text\tlabel\na\t1\n", {"target": "lable"}, r"has no column 'lable'; expected one of: text, label.*'label'"),
        ("a b\t1\nc d\t0\ne f\t1\ng h\t0\ni j\t0\nk l\t1\n", {}, r"no word of a occurs 2 times.*data\.min_count=1"),
        ("a a\t1\n" * 9, {}, r"a has the single class 1; expected at least two classes"),
        (lines(9), {"task": "regression"}, r"data\.task is 'regression' but source 'text' does not hold such targets"),
    ],
)
def test_what_cannot_be_read_says_why(content: str, more: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(config(path, **more))


def test_folders_without_training_texts_and_with_unlike_columns(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text(lines(4))
    with pytest.raises(DataError, match=r"holds no train\.tsv"):
        load(config(tmp_path))
    (tmp_path / "train.tsv").write_text("a\tlabel\nx\t1\ny\t0\n")
    (tmp_path / "test.tsv").write_text("b\tlabel\nx\t1\ny\t0\n")
    with pytest.raises(DataError, match="have different columns; expected the same header in all"):
        load(config(tmp_path, target="label"))


def test_sst2_is_found_whole(tmp_path: Path) -> None:
    folder = tmp_path / "sst2"
    folder.mkdir()
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").write_text(lines(8))
    assert find("sst2", tmp_path) is None
    (folder / "test.tsv").write_text(lines(8))
    assert find("sst2", tmp_path) == folder
    assert load(DataConfig(source="sst2"), tmp_path).labels == ("negative", "positive")
    (folder / "train.tsv").write_text(lines(8) + "more said\t2\n")
    with pytest.raises(DataError, match="sst2 has 3 labels; expected 2: negative, positive"):
        load(DataConfig(source="sst2"), tmp_path)


@pytest.mark.real
def test_the_real_sst2(data_dir: Path) -> None:
    data = load(DataConfig(source="sst2", max_tokens=48), data_dir)
    assert (len(data.train), len(data.valid), len(data.test)) == (6920, 872, 1821)
    assert data.vocabulary == 7203
    assert "13 of 6920 training texts are cut after 48 tokens" in data.notes[1]


def test_description_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "told.tsv"
    path.write_text(lines(40))
    told = describe(load(config(path)))
    assert told["input"]["mean_tokens"] == 3.0
    assert told["input"]["frequent"][0] == "said"
    assert "mean" not in told["input"]
    assert cli.main(["data", "describe", str(path)]) == 0
    out = capsys.readouterr().out
    assert "vocabulary  8 tokens: said, " in out
    assert "length      3.0 tokens of a text read" in out
