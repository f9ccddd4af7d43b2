"""One seed rules a run: every random choice is a function of (seed, what for, epoch, step).

Nothing depends on how many random numbers were drawn before, so a run that was killed and resumed draws
the same numbers as one that was never stopped.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


def derive(seed: int, *path: int | str) -> int:
    """A seed for one purpose, derived from the run's seed by splitmix64.

    Args:
        seed: the run's seed, any integer.
        *path: what it is for: words and counters, such as ``"order", epoch``.

    Returns:
        An integer in [0, 2**63), fit for ``torch.Generator.manual_seed`` and NumPy.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".

    Example:
        >>> derive(0, "order", 1) == derive(0, "order", 1), derive(0, "order", 1) == derive(0, "order", 2)
        (True, False)
    """
    state = seed & _MASK
    for part in path:
        if isinstance(part, str):
            part = int.from_bytes(part.encode(), "little")
        while True:  # long words enter 64 bits at a time
            state = (state ^ (part & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
            state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
            state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
            state ^= state >> 31
            part >>= 64
            if part <= 0:
                break
    return state >> 1
