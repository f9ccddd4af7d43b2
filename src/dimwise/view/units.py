"""Numbers as people read them: three digits that matter, always with their unit.

Each function takes whatever a JSON file may hold and returns text; what is not a finite number becomes an en dash.
"""

from __future__ import annotations

import math
from typing import Any

NONE = "–"
NBSP = "\u00a0"  # a number and its unit stay on one line

LARGEST, SMALLEST = 1e18, 1e-30
"""Beyond these a number is a mistake of the file, and below it is nothing: no axis has to stretch that far."""

PERCENT_SCORES = frozenset({"accuracy", "top5_accuracy", "balanced_accuracy"})
"""Scores that are shares of something, shown in percent; others (F1, R²) are shown as they are."""


def number(value: Any) -> float | None:
    """A number somebody can have measured, or None for everything else (text, NaN, booleans, missing, beyond 1e18).

    Example:
        >>> number(3), number("3"), number(float("nan")), number(True), number(1e300), number(1e-300)
        (3.0, None, None, None, None, 0.0)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    if not abs(made) <= LARGEST:
        return None
    return made if abs(made) >= SMALLEST else 0.0


def significant(value: float | None, n_digits: int = 3) -> str:
    """Plain decimal text with ``n_digits`` digits that matter; never an exponent between 1e-6 and 1e15.

    Example:
        >>> significant(0.02134), significant(123.4), significant(1.0), significant(0.0)
        ('0.0213', '123', '1.00', '0')
    """
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if not 1e-6 <= abs(value) < 1e15:
        return f"{value:.{n_digits - 1}e}"
    rounded = float(f"{value:.{n_digits - 1}e}")  # 9.996 has two digits before the point once rounded
    n_decimals = max(0, n_digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{n_decimals}f}"


def count_text(value: float | None) -> str:
    """A count, such as parameters or MACs: exact below ten thousand, then with k, M, G, T.

    Example:
        >>> count_text(9610), count_text(25_557_032), count_text(None)
        ('9,610', '25.6\\xa0M', '–')
    """
    if value is None:
        return NONE
    if abs(value) < 1e4:
        return f"{value:,.0f}"
    for power, unit in ((3, "k"), (6, "M"), (9, "G"), (12, "T")):
        if abs(value) < 999.5 * 10**power or unit == "T":
            return f"{significant(value / 10**power)}{NBSP}{unit}"
    raise AssertionError("the last unit takes everything")


def bytes_text(value: float | None) -> str:
    """A size in decimal units (1 kB = 1000 bytes).

    Example:
        >>> bytes_text(24_118), bytes_text(512)
        ('24.1\\xa0kB', '512\\xa0B')
    """
    if value is None:
        return NONE
    if abs(value) < 1000:
        return f"{value:.0f}{NBSP}B"
    for power, unit in ((3, "kB"), (6, "MB"), (9, "GB"), (12, "TB")):
        if abs(value) < 999.5 * 10**power or unit == "TB":
            return f"{significant(value / 10**power)}{NBSP}{unit}"
    raise AssertionError("the last unit takes everything")


def ms_text(value: float | None) -> str:
    """Milliseconds, always in milliseconds, so that a column can be compared.

    Example:
        >>> ms_text(0.02134), ms_text(12.34)
        ('0.0213\\xa0ms', '12.3\\xa0ms')
    """
    return NONE if value is None else f"{significant(value)}{NBSP}ms"


def seconds_text(value: float | None) -> str:
    """A duration from seconds to hours.

    Example:
        >>> seconds_text(0.4213), seconds_text(74.2), seconds_text(125), seconds_text(4350)
        ('0.42\\xa0s', '74\\xa0s', '2\\xa0min\\xa005\\xa0s', '1\\xa0h\\xa012\\xa0min')
    """
    if value is None:
        return NONE
    if value < 9.995:
        return f"{value:.2f}{NBSP}s"
    if value < 99.5:
        return f"{value:.0f}{NBSP}s"
    if value < 3599.5:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes}{NBSP}min{NBSP}{seconds:02d}{NBSP}s"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours}{NBSP}h{NBSP}{minutes:02d}{NBSP}min"


def score_text(value: float | None, name: str = "accuracy", n: float | None = None) -> str:
    """A score; shares in percent, with a second decimal only where ``n`` test inputs can carry it.

    Example:
        >>> score_text(0.98611, "accuracy", 360), score_text(0.98723, "accuracy", 10000), score_text(0.8731, "r2")
        ('98.6\\xa0%', '98.72\\xa0%', '0.873')
    """
    if value is None:
        return NONE
    if name in PERCENT_SCORES:
        return f"{100 * value:.{percent_decimals(n)}f}{NBSP}%"
    return f"{value:.3f}"


def percent_decimals(n: float | None) -> int:
    """Decimals of a percentage over ``n`` inputs: one input must move the last one shown."""
    return 2 if n is not None and n >= 2000 else 1


def share_text(value: float | None) -> str:
    """A probability or share in percent.

    Example:
        >>> share_text(0.974), share_text(0.9999)
        ('97\\xa0%', '>99\\xa0%')
    """
    if value is None:
        return NONE
    if 0.995 <= value < 1:
        return f">99{NBSP}%"
    return f"{100 * value:.0f}{NBSP}%"


def tiny_text(value: float | None) -> str:
    """A number near zero, such as a rounding difference, with its power of ten.

    Example:
        >>> tiny_text(3.14e-07), tiny_text(0.0125), tiny_text(0.0)
        ('3.1·10⁻⁷', '0.013', '0')
    """
    if value is None or value == 0 or 1e-3 <= abs(value) < 1e3:
        return significant(value, 2)
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa}·10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def ratio_text(value: float | None) -> str:
    """A factor: one decimal below ten.

    Example:
        >>> ratio_text(12.34), ratio_text(9.13), ratio_text(1234.0)
        ('12', '9.1', '1,234')
    """
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"
