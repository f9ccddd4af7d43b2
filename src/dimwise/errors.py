"""The errors of the house: one small tree, two exit codes.

DimwiseError
├── UserError          exit 2: something the user can put right
│   ├── RecipeError    a key or value of a recipe
│   ├── DataError      a file, folder or array of data
│   ├── ModelError     a network, or how it was named
│   ├── ArtifactError  an artifact that cannot be read or used
│   ├── RunError       a run folder
│   └── MissingExtra   an optional library that is not installed
└── GateError          exit 1: a check that had to hold did not
    ├── NonFiniteLoss  training produced NaN or infinity
    ├── ParityError    an artifact differs from the model it came from
    └── BudgetError    no candidate meets the budget
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DimwiseError(Exception):
    """Base of all errors that are told to the user without a traceback.

    Args:
        what: the fact, with the name and value the user gave.
        expected: what would have been right.
        next_step: what to do now.

    Example:
        >>> str(UserError("batch_size is 0", expected="at least 1", next_step="Set train.batch_size=64."))
        'batch_size is 0; expected at least 1. Set train.batch_size=64.'
    """

    exit_code = 2

    def __init__(self, what: str, *, expected: str = "", next_step: str = "") -> None:
        self.what = what
        self.expected = expected
        self.next_step = next_step
        text = what.rstrip(".")
        if expected:
            text += f"; expected {expected.rstrip('.')}"
        text += "" if text.endswith("?") else "."
        super().__init__(text + (f" {next_step}" if next_step else ""))


class UserError(DimwiseError):
    """Something the user can put right; exit code 2."""


class RecipeError(UserError):
    """A key or a value of a recipe is wrong."""


class DataError(UserError):
    """A data file, folder or array cannot be used."""


class ModelError(UserError):
    """A network, or the way it was named, cannot be used."""


class ArtifactError(UserError):
    """An artifact cannot be read or used."""


class RunError(UserError):
    """A run folder cannot be written, found or resumed."""


class MissingExtra(UserError):
    """An optional library is not installed.

    Example:
        >>> str(MissingExtra("tensorboard", why="exporting runs", extra="tensorboard"))
        "exporting runs needs tensorboard, which is not installed. Run: pip install 'dimwise[tensorboard]'"
    """

    def __init__(self, library: str, *, why: str, extra: str) -> None:
        super().__init__(
            f"{why} needs {library}, which is not installed",
            next_step=f"Run: pip install 'dimwise[{extra}]'",
        )


class GateError(DimwiseError):
    """A check that had to hold did not; exit code 1."""

    exit_code = 1


class NonFiniteLoss(GateError):
    """Training produced NaN or infinity."""


class ParityError(GateError):
    """An artifact does not compute what the trained model computes."""


class BudgetError(GateError):
    """No candidate meets the budget."""


def first_line(error: BaseException) -> str:
    """An exception of another library in one line: its type and the first line of what it says.

    Example:
        >>> first_line(KeyError("conv1")), first_line(ValueError("\\n two\\nlines"))
        ("KeyError: 'conv1'", 'ValueError: two')
    """
    line = str(error).strip().partition("\n")[0].strip()
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__


def a_kind(thing: object) -> str:
    """What kind of thing it is, with its article.

    Example:
        >>> a_kind(3), a_kind("text"), a_kind(type("UNet", (), {})()), a_kind(type("ndarray", (), {})())
        ('an int', 'a str', 'a UNet', 'an ndarray')
    """
    name = type(thing).__name__
    # With u such a word is mostly said like "you": UNet, uint8; of ndarray the first letters are spelt.
    return f"{'an' if name[0] in 'aeioAEIO' or name == 'ndarray' else 'a'} {name}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word nearest to a misspelt one, as a half-sentence, or nothing.

    Example:
        >>> nearest("btach_size", ["batch_size", "epochs"])
        "did you mean 'batch_size'?"
        >>> nearest("zzz", ["batch_size"])
        ''
    """
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'?" if match else ""
