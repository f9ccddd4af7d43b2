from __future__ import annotations

import gzip
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dimwise.data.table import apply, numbers, read_csv
from dimwise.errors import DataError

ENCODER = {
    "columns": [
        {"name": "age", "kind": "number", "fill": 28.0, "indicator": True},
        {"name": "fare", "kind": "number", "fill": 7.5, "indicator": False},
        {"name": "sex", "kind": "category", "categories": ["female", "male", "missing"]},
        {"name": "port", "kind": "category", "categories": ["C", "S"]},
    ]
}


def test_numbers_then_indicators_then_categories():
    rows: dict[str, Any] = {
        "age": ["30", ""],
        "fare": [1, None],
        "sex": ["male", None],
        "port": ["S", ""],
        "extra": [1, 2],
    }
    made = apply(ENCODER, rows)
    assert made.dtype == np.float32
    assert made.tolist() == [[30, 1, 0, 0, 1, 0, 0, 1], [28, 7.5, 1, 0, 0, 1, 0, 0]]


def test_an_unknown_category_is_all_zeros():
    made = apply(ENCODER, {"age": [1], "fare": [1], "sex": ["robot"], "port": ["X"]})
    assert made[0, 3:].tolist() == [0, 0, 0, 0, 0]


def test_no_rows():
    assert apply(ENCODER, {"age": [], "fare": [], "sex": [], "port": []}).shape == (0, 8)


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NULL", "N/A", " ", None, float("nan")])
def test_what_counts_as_no_value(cell):
    assert np.isnan(numbers([cell], "a")).all()


def test_what_counts_as_a_number():
    assert numbers(["1", " 2.5 ", "-3e2", "True", "false", 7, True], "a").tolist() == [1, 2.5, -300, 1, 0, 7, 1]
    assert numbers(np.array([1, 2]), "a").tolist() == [1, 2]


@pytest.mark.parametrize("cell", ["abc", "1,5", "1_000", [1]])
def test_a_cell_that_is_no_number_is_named(cell):
    with pytest.raises(DataError, match=r"column 'age' holds .* in row 2; expected a number or nothing"):
        numbers(["1", cell], "age")


def test_infinity_is_named():
    with pytest.raises(DataError, match="column 'age' is infinite in row 3"):
        numbers(["1", "", "inf"], "age")


def test_missing_columns_and_uneven_lengths():
    with pytest.raises(DataError, match="no column 'fare', 'port'; expected the columns age, fare, sex, port"):
        apply(ENCODER, {"age": [1], "sex": ["male"]})
    with pytest.raises(DataError, match=r"different lengths.*'sex': 2"):
        apply(ENCODER, {"age": [1], "fare": [1], "sex": ["male", "male"], "port": ["S"]})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_quotes_and_short_rows(tmp_path, separator):
    path = tmp_path / "t.csv"
    path.write_text(f'a{separator}b\n"x{separator} y"{separator}1\n\nz\n')
    assert read_csv(path) == {"a": [f"x{separator} y", "z"], "b": ["1", ""]}


def test_gzip_byte_order_mark_and_nameless_columns(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress("\ufeffname,\nä,1\n".encode()))
    assert read_csv(path) == {"name": ["ä"], "Unnamed: 1": ["1"]}


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("")
    with pytest.raises(DataError, match=r"t\.csv is empty or has no names in its first line"):
        read_csv(path)
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"t\.csv has the column 'a' twice"):
        read_csv(path)
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"t\.csv has 3 cells in line 3; expected 2, as in its header"):
        read_csv(path)
    path.write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(DataError, match=r"t\.csv cannot be read as a table"):
        read_csv(path)
    with pytest.raises(DataError, match=r"u\.csv cannot be read as a table"):
        read_csv(tmp_path / "u.csv")


def test_the_modules_of_prediction_load_neither_torch_nor_pandas_nor_sklearn():
    code = (
        "import sys, dimwise.data.table, dimwise.data.picture\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
