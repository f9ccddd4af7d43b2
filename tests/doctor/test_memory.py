"""The watched process's heap: freed memory is kept where the C library can be told so."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from dimwise.doctor.watch.memory import keep_freed_memory


class Library:
    """A C library that notes what it is told."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.told: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.told.append((parameter, value))
        return self.answer


@pytest.mark.parametrize(("answer", "told"), [(1, [(-3, 32 << 20), (-1, 64 << 20)]), (0, [(-3, 32 << 20)])])
def test_a_trim_alone_would_send_every_tensor_to_the_system(
    monkeypatch: pytest.MonkeyPatch, answer: int, told: list[tuple[int, int]]
) -> None:
    library = Library(answer)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    keep_freed_memory()
    assert library.told == told


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    other: Any = object()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: other)
    keep_freed_memory()
