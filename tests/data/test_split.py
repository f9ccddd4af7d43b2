from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimwise.data.split import limit, split
from dimwise.errors import DataError

fractions = st.tuples(st.floats(0.01, 0.45), st.floats(0.01, 0.45))
class_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def labels_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


@settings(max_examples=80, deadline=None)
@given(class_sizes, fractions, st.integers(0, 2**40))
def test_parts_are_disjoint_and_complete(sizes, parts, seed):
    classes = labels_of(sizes)
    try:
        train, valid, test = split(len(classes), fractions=parts, seed=seed, classes=classes)
    except DataError:
        assert max(sizes) <= 2  # nothing to give away
        return
    assert np.array_equal(np.sort(np.concatenate([train, valid, test])), np.arange(len(classes)))
    assert all((np.diff(part) > 0).all() for part in (train, valid, test))


@settings(max_examples=80, deadline=None)
@given(class_sizes, fractions, st.integers(0, 2**40))
def test_each_class_gets_its_share_within_one_and_keeps_a_training_member(sizes, parts, seed):
    classes = labels_of(sizes)
    try:
        indices = split(len(classes), fractions=parts, seed=seed, classes=classes)
    except DataError:
        return
    train, *held_out = (np.bincount(classes[part], minlength=len(sizes)) for part in indices)
    assert (train >= 1).all()
    for counts, fraction in zip(held_out, parts, strict=True):
        assert (np.abs(counts - np.array(sizes) * fraction) < 1).all()


def test_totals_are_the_fractions_of_the_whole():
    classes = labels_of([100] * 10)
    train, valid, test = split(1000, fractions=(0.083, 0.2), seed=0, classes=classes)
    assert (len(train), len(valid), len(test)) == (717, 83, 200)


def test_same_seed_same_split_other_seed_other_split():
    classes = labels_of([30, 30, 5])
    once, again, other = (split(65, fractions=(0.2, 0.2), seed=seed, classes=classes) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[1], other[1])


def test_a_class_of_one_goes_to_train():
    classes = np.array([0] * 20 + [1])
    train, valid, test = split(21, fractions=(0.2, 0.2), seed=0, classes=classes)
    assert 20 in train
    assert len(valid) == len(test) == 4


def test_without_classes_the_counts_are_right():
    train, valid, test = split(50, fractions=(0.1, 0.2), seed=0)
    assert (len(train), len(valid), len(test)) == (35, 5, 10)


def test_a_fraction_of_zero_gives_an_empty_part():
    train, valid, test = split(50, fractions=(0.1, 0.0), seed=0)
    assert (len(train), len(valid), len(test)) == (45, 5, 0)


def test_nothing_to_hold_out_is_an_error():
    with pytest.raises(DataError, match="3 samples in 3 classes leave none for the validation split"):
        split(3, fractions=(0.1, 0.2), seed=0, classes=np.arange(3))
    with pytest.raises(DataError, match="2 samples in 1 classes leave none for the test split"):
        split(2, fractions=(0.1, 0.2), seed=0)


@settings(max_examples=40, deadline=None)
@given(class_sizes, st.floats(0.05, 1.0), st.integers(0, 99))
def test_a_limit_keeps_proportions(sizes, share, seed):
    classes = labels_of(sizes)
    n_kept = max(1, round(len(classes) * share))
    kept = limit(n_kept, seed=seed, classes=classes, n_samples=len(classes))
    counts = np.bincount(classes[kept], minlength=len(sizes))
    assert len(kept) == len(np.unique(kept)) == n_kept
    assert (np.abs(counts - np.array(sizes) * n_kept / len(classes)) <= 1).all()
