from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch

from dimwise.data import DataConfig, load
from dimwise.data.assemble import cut
from dimwise.data.sources.csv import _plain, column_transformer
from dimwise.data.table import apply, read_csv
from dimwise.errors import DataError

RNG = np.random.default_rng(0)


def table(n=60):
    return pd.DataFrame(
        {
            "rowId": range(n),
            "size": np.where(np.arange(n) % 7 == 0, np.nan, RNG.normal(50, 10, n).round(3)),
            "n_doors": RNG.integers(2, 6, n),
            "colour": np.where(np.arange(n) % 5 == 0, None, np.array(["red", "green", "blue"])[np.arange(n) % 3]),
            "ok": np.arange(n) % 2 == 0,
            "note": [f"note number {i}" for i in range(n)],
            "same": "x",
            "empty": np.nan,
            "price": np.arange(n) * 12.5 + 1000.25,
            "kind": np.array(["car", "van", "bus"])[np.arange(n) % 3],
        }
    )


def read(tmp_path, frame, target, **config):
    frame.to_csv(tmp_path / "cars.csv", index=False)
    return load(DataConfig(source="csv", path="cars.csv", target=target, **config), tmp_path)


def test_types_are_inferred_and_useless_columns_left_out(tmp_path):
    data = read(tmp_path, table(), "kind")
    assert data.name == "cars"
    assert data.labels == ("bus", "car", "van")
    assert data.reading["kind"] == "table"
    assert data.reading["columns"] == ["size", "n_doors", "ok", "price", "colour"]
    features = ["size", "n_doors", "ok", "price", "size is missing"]
    assert data.reading["encoder"]["features"] == features + [
        f"colour={c}" for c in ("blue", "green", "missing", "red")
    ]
    notes = " | ".join(data.notes)
    assert "task classification, inferred from 3 different values of 'kind'" in notes
    assert "rowId (a running number)" in notes
    assert "note (42 different texts in 42 rows)" in notes
    assert "same (always the same), empty (empty)" in notes
    assert "marked by a feature: size" in notes


def test_numbers_are_standardised_indicators_and_categories_are_not(tmp_path):
    data = read(tmp_path, table(), "kind")
    x = data.normalise(data.train.inputs)
    assert x[:, :4].mean(0).tolist() == pytest.approx([0] * 4, abs=1e-5)
    assert x[:, :4].std(0, correction=0).tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert set(x[:, 4:].unique().tolist()) == {0.0, 1.0}


def test_the_encoder_is_plain_json_and_gives_the_same_rows_from_the_file(tmp_path):
    data = read(tmp_path, table(), "kind")
    encoder = json.loads(json.dumps(data.reading["encoder"]))
    rows = apply(encoder, read_csv(tmp_path / "cars.csv"))
    inputs = torch.cat([data.train.inputs, data.valid.inputs, data.test.inputs])
    assert sorted(rows.tolist()) == sorted(inputs.tolist())


def test_what_is_learnt_comes_from_the_training_rows_alone(tmp_path):
    frame = table()
    config = DataConfig(source="csv", target="kind")
    codes = np.unique(frame["kind"], return_inverse=True)[1]
    train, _, test = cut(codes, "classification", config, has_valid=False, has_test=False)
    frame.loc[test, "size"] = 1e6
    frame.loc[test[0], "colour"] = "only in test"
    data = read(tmp_path, frame, "kind")
    size, colour = data.reading["encoder"]["columns"][0], data.reading["encoder"]["columns"][-1]
    assert size["fill"] == pytest.approx(frame.loc[train, "size"].median())
    assert colour["categories"] == ["blue", "green", "missing", "red"]
    assert data.test.inputs[0, -4:].tolist() == [0, 0, 0, 0]


def against_sklearn(path, target):
    """Largest difference between the NumPy encoder on the file's texts and scikit-learn on pandas' frame."""
    data = load(DataConfig(source="csv", path=str(path), target=target))
    frame = pd.read_csv(path)
    columns = data.reading["encoder"]["columns"]
    kinds = {kind: [c["name"] for c in columns if c["kind"] == kind] for kind in ("number", "category")}
    codes = np.unique(frame[target].astype(str), return_inverse=True)[1]
    train = cut(codes, "classification", DataConfig(), has_valid=False, has_test=False)[0]
    plain = _plain(frame, kinds)
    expected = column_transformer(kinds["number"], kinds["category"]).fit(plain.iloc[train]).transform(plain)
    found = apply(data.reading["encoder"], read_csv(path))
    assert found.shape == expected.shape
    # scikit-learn puts each number's indicator behind all numbers, and so do we
    return np.abs(found - expected.astype(np.float32)).max()


def test_parity_with_scikit_learn(tmp_path):
    table().to_csv(tmp_path / "cars.csv", index=False)
    assert against_sklearn(tmp_path / "cars.csv", "kind") == 0


@pytest.mark.real
def test_parity_with_scikit_learn_on_the_titanic(data_dir):
    assert against_sklearn(data_dir / "titanic" / "train.csv", "Survived") == 0


@pytest.mark.real
def test_the_titanic(data_dir):
    data = load(DataConfig(source="csv", path="titanic/train.csv", target="Survived"), data_dir)
    assert (len(data.train), len(data.valid), len(data.test)) == (624, 89, 178)
    assert data.reading["columns"] == ["Pclass", "Age", "SibSp", "Parch", "Fare", "Sex", "Embarked"]
    assert data.labels == ("0", "1")


def test_regression_is_inferred_from_fractions(tmp_path):
    data = read(tmp_path, table(), "price")
    assert (data.task, data.labels) == ("regression", ("price",))
    assert data.train.targets.shape == (42, 1)
    assert data.reading["target"]["mean"][0] == pytest.approx(1370, abs=60)


def test_many_whole_numbers_are_a_regression_few_are_classes(tmp_path):
    frame = table()
    frame["year"] = np.arange(60) + 1960
    assert read(tmp_path, frame, "year").task == "regression"
    assert read(tmp_path, frame, "n_doors").task == "classification"
    assert read(tmp_path, frame, "n_doors", task="regression").task == "regression"


def test_several_targets(tmp_path):
    frame = table()
    frame["heavy"], frame["old"] = (np.arange(60) % 2), (np.arange(60) // 2 % 2)
    many = read(tmp_path, frame, "heavy, old")
    assert (many.task, many.labels) == ("multilabel", ("heavy", "old"))
    two = read(tmp_path, frame.drop(columns="size"), "price,n_doors")
    assert (two.task, two.n_outputs) == ("regression", 2)
    with pytest.raises(DataError, match=r"data\.target names 2 columns for a classification; expected one column"):
        read(tmp_path, frame, "heavy,old", task="classification")


def test_yes_and_no_as_target(tmp_path):
    data = read(tmp_path, table(), "ok")
    assert (data.task, data.labels) == ("classification", ("False", "True"))


def test_gaps_in_the_target_name_their_rows(tmp_path):
    frame = table()
    frame.loc[[3, 9], "kind"] = None
    with pytest.raises(DataError, match=r"target column 'kind' of .*cars\.csv has no value in row 4, 10; expected"):
        read(tmp_path, frame, "kind")


def test_a_target_that_is_not_there(tmp_path):
    with pytest.raises(
        DataError, match=r"cars\.csv has no column 'kidn'; expected one of: rowId.*did you mean 'kind'\?"
    ):
        read(tmp_path, table(), "kidn")
    with pytest.raises(DataError, match=r"data\.target is empty for .*cars\.csv; .*Set data\.target=COLUMN\."):
        read(tmp_path, table(), "")


def test_a_target_that_hardly_repeats(tmp_path):
    with pytest.raises(DataError, match=r"column 'note' of .* has 60 different values in 60 rows; expected classes"):
        read(tmp_path, table(), "note")


def test_infinity_in_a_feature(tmp_path):
    frame = table()
    frame.loc[5, "size"] = np.inf
    with pytest.raises(DataError, match="column 'size' is infinite in row 6"):
        read(tmp_path, frame, "kind")


def test_no_usable_column(tmp_path):
    with pytest.raises(DataError, match=r"cars\.csv has no usable column beside its target; .*note \(42 different"):
        read(tmp_path, table()[["note", "kind"]], "kind")


def test_files_that_are_no_table(tmp_path):
    config = DataConfig(source="csv", path="cars.csv", target="a")
    path = tmp_path / "cars.csv"
    path.write_text("a,b\n")
    with pytest.raises(DataError, match=r"cars\.csv has no rows"):
        load(config, tmp_path)
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"cars\.csv cannot be read as a table \(.*line 3"):
        load(config, tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"cars\.csv is a folder; expected a CSV file"):
        load(config, tmp_path)


def test_a_damaged_gzip_is_one_line(tmp_path):
    rows = "a,y\n" + "".join(f"{i * 7919 % 1000},{i % 2}\n" for i in range(3000))
    content = bytearray(gzip.compress(rows.encode()))
    content[30:90] = b"\xff" * 60
    (tmp_path / "t.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv\.gz cannot be read as a table"):
        load(DataConfig(source="csv", path="t.csv.gz", target="y"), tmp_path)
    with pytest.raises(DataError, match=r"t\.csv\.gz cannot be read as a table"):
        read_csv(tmp_path / "t.csv.gz")
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(rows.encode())[:-1000])  # its header is whole
    with pytest.raises(DataError, match=r"u\.csv\.gz cannot be read as a table"):
        load(DataConfig(source="csv", path="u.csv.gz", target="y"), tmp_path)
