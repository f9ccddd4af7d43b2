"""One seed for each purpose."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dimwise.seeds import derive

PARTS = st.lists(st.one_of(st.integers(0, 2**63 - 1), st.text(max_size=30)), max_size=4)


@given(st.integers(-(2**70), 2**70), PARTS)
def test_fit_for_every_generator(seed: int, path: list[int | str]) -> None:
    found = derive(seed, *path)
    assert 0 <= found < 2**63
    assert found == derive(seed, *path)
    torch.Generator().manual_seed(found)


def test_no_two_purposes_share_a_seed() -> None:
    paths: list[tuple[str | int, ...]] = [("order", e) for e in range(50)] + [
        ("augment", e, b) for e in range(20) for b in range(50)
    ]
    paths += [("loader", e, b) for e in range(20) for b in range(50)] + [("step",), ("init",)]
    seeds = {derive(seed, *path) for seed in (0, 1, 2**62) for path in paths}
    assert len(seeds) == 3 * len(paths)


def test_each_letter_of_a_long_word_counts() -> None:
    word = "a purpose with more than eight letters"
    found = {derive(0, word[:i] + "_" + word[i + 1 :]) for i in range(len(word))}
    assert len(found | {derive(0, word)}) == len(word) + 1


def test_the_bits_are_mixed() -> None:
    """Seeds of neighbours differ in about half of their bits."""
    flips = [(derive(0, "order", e) ^ derive(0, "order", e + 1)).bit_count() for e in range(200)]
    assert 28 < sum(flips) / len(flips) < 35


def test_the_numbers_stay_the_same() -> None:
    """A resumed run of an older version must find its order again: these values may not change."""
    assert derive(0, 0) == 0xE220A8397B1DCDAF >> 1  # the first output of splitmix64 with seed 0
    assert derive(0, "order", 0) == 5737534267931529549
