"""``dimwise data`` on the embedded digits and on files made here."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dimwise import cli
from dimwise.data import SOURCES

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIMWISE_DATA", str(tmp_path / "sets"))
    # No test reaches for the network: what would be fetched must fail.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    # urllib keeps the opener of its first request, proxies and all: none from before, and none left behind.
    monkeypatch.setattr(urllib.request, "_opener", None)


def table(text: str) -> list[list[str]]:
    return [re.split(r"  +", line.strip()) for line in text.splitlines()]


def test_list_names_every_source_and_where_it_is(capsys: Captured) -> None:
    assert cli.main(["data", "list"]) == 0
    rows = {row[0]: row for row in table(capsys.readouterr().out)[1:]}
    assert list(rows) == list(SOURCES)
    assert rows["digits"][-1] == "built in"
    assert rows["csv"][-1] == "your own"
    assert rows["mnist"][-1] == "not here; 11.6 MB with: dimwise data fetch mnist"
    assert cli.main(["data", "list", "--json", "--data-dir", "none"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(SOURCES)


@pytest.mark.real
def test_list_and_fetch_find_what_is_there(data_dir: Path, capsys: Captured) -> None:
    assert cli.main(["data", "list", "--data-dir", str(data_dir)]) == 0
    rows = {row[0]: row for row in table(capsys.readouterr().out)}
    assert rows["mnist"][-1] == str(data_dir / "mnist")
    assert cli.main(["data", "fetch", "mnist", "fashion", "--data-dir", str(data_dir), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out == f"mnist: {data_dir / 'mnist'}\nfashion: {data_dir / 'fashion_mnist'}\n"


def test_describe_counts_each_class_in_each_split(capsys: Captured) -> None:
    assert cli.main(["data", "describe", "digits"]) == 0
    rows = table(capsys.readouterr().out)
    assert ["input", "1×8×8 uint8, 0 to 255"] in rows
    assert ["class", "train", "valid", "test"] in rows
    total = [int(n) for n in rows[-1][1:]]
    assert rows[-1][0] == "inputs"
    assert sum(total) == 1797
    assert [sum(int(row[i]) for row in rows[-11:-1]) for i in (1, 2, 3)] == total


def test_describe_draws_a_contact_sheet(capsys: Captured) -> None:
    assert cli.main(["data", "describe", "digits", "--sheet", "sheet.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sheet"] == "sheet.png"
    assert found["splits"]["train"]["n"] > 1000
    with Image.open("sheet.png") as picture:
        assert picture.width > 100


def test_describe_takes_a_csv_file(capsys: Captured) -> None:
    rows = "".join(f"{i},{'ab'[i % 2]},{i * 0.5 + 1}\n" for i in range(60))
    Path("t.csv").write_text("size,kind,price\n" + rows)
    assert cli.main(["data", "describe", "t.csv", "--set", "data.target=kind"]) == 0
    out = capsys.readouterr().out
    assert ["class", "train", "valid", "test"] in table(out)
    assert "\nnote: " in out
    words = ["data", "describe", "t.csv", "--set", "data.target=price", "--set", "data.task=regression"]
    assert cli.main(words) == 0
    shown = table(capsys.readouterr().out)
    assert ["target: mean ± deviation", "train", "valid", "test"] in shown
    assert any(row[0] == "price" and "±" in row[1] for row in shown)
    assert cli.main(["data", "describe", "t.csv", "--set", "data.target=kind", "--sheet", "s.png"]) == 2
    assert "expected images" in capsys.readouterr().err


def test_describe_takes_a_folder_of_images_and_arrays(capsys: Captured) -> None:
    for name in ("cat", "dog"):
        (Path("pets") / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.full((6, 6, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(Path("pets") / name / f"{i}.png")
    assert cli.main(["data", "describe", "pets"]) == 0
    rows = table(capsys.readouterr().out)
    assert ["input", "3×6×6 uint8, 0 to 220"] in rows
    assert {"cat", "dog"} <= {row[0] for row in rows}
    x, y = np.zeros((40, 1, 4, 4), np.uint8), np.arange(40) % 2
    np.savez("a.npz", inputs=x, targets=y)
    assert cli.main(["data", "describe", "a.npz"]) == 0
    assert ["input", "1×4×4 uint8, 0 to 0"] in table(capsys.readouterr().out)


def test_a_wide_table_shows_six_means(capsys: Captured) -> None:
    x = np.random.default_rng(0).normal(size=(40, 9)).astype(np.float32)
    np.savez("a.npz", inputs=x, targets=np.arange(40) % 2)
    assert cli.main(["data", "describe", "a.npz"]) == 0
    (mean,) = (row for row in table(capsys.readouterr().out) if row[0] == "mean")
    assert mean[1].endswith(", … (9 in all)")
    assert mean[1].count(",") == 6


def test_describe_takes_a_recipe_file(capsys: Captured) -> None:
    Path("mine.toml").write_text('[data]\nsource = "digits"\ntrain_limit = 100\n')
    assert cli.main(["data", "describe", "mine.toml"]) == 0
    rows = table(capsys.readouterr().out)
    assert any(row[:2] == ["inputs", "100"] for row in rows)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["describe", "digist"], "unknown recipe 'digist'"),
        (["describe", "csv"], "data.path is empty but data.source is 'csv'"),
        (["describe", "t.csv"], "data.target is empty for .*t.csv; expected one of: size, kind"),
        (["describe", "gone.csv", "--set", "data.target=a"], "gone.csv"),
        (["describe", "empty"], "empty"),
        (["describe", "digits", "--set", "data.test_farc=0.1"], "unknown key 'data.test_farc'.*'test_frac'"),
        (["describe", "digits", "--sheet", "t.csv/sheet.png"], "t.csv"),
        (["fetch", "mnits"], "'mnits' cannot be fetched; expected one of: mnist.* did you mean 'mnist'?"),
        (["fetch", "mnist", "--data-dir", "t.csv", "--quiet"], "cannot write to t.csv/mnist"),
        (["fetch", "mnist", "--quiet"], "could not reach .*[Pp]ut .* --data-dir"),
    ],
)
def test_each_mistake_is_one_line(words: list[str], line: str, capsys: Captured) -> None:
    Path("t.csv").write_text("size,kind\n1,a\n2,b\n")
    Path("empty").mkdir()
    assert cli.main(["data", *words]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert re.search(line, told.err), told.err


def idx(path: Path, *, magic: int = 0x803, n: int = 20, keep: int | None = None) -> None:
    """An idx file of 4×4 images or of labels, possibly wrong or torn."""
    values = np.arange(n * (16 if magic & 0xFF == 3 else 1)) % 10
    head = [magic, n, *((4, 4) if magic & 0xFF == 3 else ())]
    data = b"".join(int(h).to_bytes(4, "big") for h in head) + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[:keep])


@pytest.fixture
def mnist() -> Path:
    for part in ("train", "t10k"):
        idx(Path("sets/mnist") / f"{part}-images-idx3-ubyte")
        idx(Path("sets/mnist") / f"{part}-labels-idx1-ubyte", magic=0x801)
    return Path("sets/mnist/train-images-idx3-ubyte")


def told(words: list[str], capsys: Captured) -> str:
    """The one line of a command that must fail with 2."""
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("change", "words"),
    [({"keep": 100}, "100"), ({"magic": 0x999}, "begins with the bytes 00 00 09 99; expected 00 00 08 03")],
)
def test_a_torn_or_wrong_idx_file_is_named(mnist: Path, change: dict[str, int], words: str, capsys: Captured) -> None:
    idx(mnist, **change)
    line = told(["data", "describe", "mnist"], capsys)
    assert "train-images-idx3-ubyte" in line
    assert re.search(words, line), line


def test_one_corrupt_image_is_named_and_skipped_only_when_asked(capsys: Captured) -> None:
    for name in ("cat", "dog"):
        (Path("pets") / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((6, 6, 3), 20 * i, np.uint8)).save(Path("pets") / name / f"{i}.png")
    broken = Path("pets/dog/7.png")
    broken.write_bytes(broken.read_bytes()[:30])
    assert str(broken) in told(["data", "describe", "pets"], capsys)
    assert cli.main(["data", "describe", "pets", "--set", "data.skip_corrupt=true"]) == 0
    out = capsys.readouterr().out
    assert "7.png" in out
    assert sum(int(n) for row in table(out) if row[0] == "inputs" for n in row[1:]) == 23


def test_gaps_in_a_table_are_filled_and_said_but_not_in_arrays(capsys: Captured) -> None:
    rows = "".join(f"{i if i % 9 else ''},{'ab'[i % 2]}\n" for i in range(60))
    Path("t.csv").write_text("size,kind\n" + rows)
    assert cli.main(["data", "describe", "t.csv", "--set", "data.target=kind"]) == 0
    assert "gaps filled" in capsys.readouterr().out
    x = np.ones((40, 3), np.float32)
    x[7, 1] = np.nan
    np.savez("a.npz", inputs=x, targets=np.arange(40) % 2)
    assert "NaN" in told(["data", "describe", "a.npz"], capsys)


def test_a_missing_path_is_named(capsys: Captured) -> None:
    words = ["data", "describe", "folder", "--set", "data.path=gone"]
    assert "gone" in told(words, capsys)
