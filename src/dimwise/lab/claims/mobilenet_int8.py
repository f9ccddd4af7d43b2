"""N22: MobileNetV2 in int8 is a quarter of the size and three times as fast.

The network of the paper, 224 × 224 pixels and 1000 classes' worth of layers, is exported, quantized, and timed beside
its float file. Its first weights do: bytes and milliseconds do not depend on them.
"""

from __future__ import annotations

from typing import Any

import torch

from dimwise import models
from dimwise.lab.claims._frame import Claim, Setup, Verdict, Word, mean_interval
from dimwise.lab.claims._served import evidence_of, float_and_int8, pictures, speed_ups

CLAIM = Claim(
    id="N22",
    statement="MobileNetV2 in INT8 takes 75 % less space and runs 3× as fast.",
    published=3.0,
    unit="×",
    scale="onnxruntime on this processor, one thread, batch 1.",
)
SMALLER_FRAC = 0.75


def measure(setup: Setup) -> dict[str, Any]:
    """Bytes and milliseconds of both files."""
    data = pictures(setup, 96 if setup.quick else 224)
    torch.manual_seed(0)
    model = models.build("mobilenetv2", data.input_shape, 1000).eval()
    files = float_and_int8(model, evidence_of(data, setup))
    return speed_ups(files, data, repeats=2 if setup.quick else max(3, setup.n_seeds))


def decide(measured: dict[str, Any]) -> Verdict:
    """Both numbers must hold; size is counted, so it needs no interval."""
    mean, low, high = mean_interval(measured["ratio"]["int8"])
    less = 1 - measured["size_bytes"]["int8"] / measured["size_bytes"]["fp32"]
    fast, slow, small = low >= CLAIM.published, high < CLAIM.published, round(less, 2) >= SMALLER_FRAC
    word: Word = "holds" if fast and small else "refuted" if slow and not small else "partly"
    return Verdict(
        word,
        f"{less:.1%} smaller, {mean:.2f}× as fast (95 % interval {low:.2f} to {high:.2f}); claimed "
        f"{SMALLER_FRAC:.0%} and {CLAIM.published:g}×.",
    )
