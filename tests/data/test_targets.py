from __future__ import annotations

import numpy as np
import pytest

from dimwise.data.targets import class_indices, columns, infer_task
from dimwise.errors import DataError


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (np.array([0, 1, 2]), "classification"),
        (np.array([True, False]), "classification"),
        (np.array(["a", "b"]), "classification"),
        (np.array([0.5, 1.0]), "regression"),
        (np.array([[0.0, 1.0], [1.0, 1.0]]), "multilabel"),
        (np.array([[0, 1], [1, 1]]), "multilabel"),
        (np.array([[0.0, 2.0]]), "regression"),
    ],
)
def test_infer_task(targets, task):
    assert infer_task(targets) == task


def test_classes_are_those_of_all_parts_in_order():
    parts, names = class_indices({"train": np.array([7, 3]), "test": np.array([5, 7])}, None, "x")
    assert names == ["3", "5", "7"]
    assert parts["train"].tolist() == [2, 0]
    assert parts["test"].tolist() == [1, 2]


def test_whole_floats_lose_their_point():
    assert class_indices({"train": np.array([1.0, 0.0])}, None, "x")[1] == ["0", "1"]


def test_numbers_beyond_the_names():
    with pytest.raises(DataError, match="x: test targets are int64 from 0 to 2; expected whole numbers from 0 to 1"):
        class_indices({"train": np.array([0, 1]), "test": np.array([0, 2])}, ["a", "b"], "x")


def test_columns_refuse_texts_gaps_and_non_labels():
    with pytest.raises(DataError, match="x: train targets are <U1; expected numbers, for regression"):
        columns({"train": np.array(["a"])}, "regression", "x")
    with pytest.raises(DataError, match="x: train targets are NaN or infinite in row 1"):
        columns({"train": np.array([0.0, np.inf])}, "regression", "x")
    with pytest.raises(DataError, match=r"x: train targets hold 2\.0; expected 0 or 1, for multilabel"):
        columns({"train": np.array([[0.0, 2.0]])}, "multilabel", "x")
