"""N4: an int8 network is three times as fast as the float one.

Four networks, from 0.04 to 4 billion multiply-accumulates, are exported, quantized, and timed beside their float
files, at batch 1 and 8. Time depends on shapes alone, so they keep their first weights.
"""

from __future__ import annotations

from typing import Any

from dimwise.lab.claims._frame import Claim, Setup, Verdict, mean_interval
from dimwise.lab.claims._served import evidence_of, float_and_int8, network, pictures, speed_ups

CLAIM = Claim(
    id="N4",
    statement="INT8 inference is 3× faster than FP32.",
    published=3.0,
    unit="×",
    scale="onnxruntime on this processor, one thread; the guides do not name a processor or a network.",
)

NETWORKS = {"resnet20": 32, "mobilenetv2": 224, "resnet18": 224, "resnet50": 224}
"""Name -> side of its images, pixels."""
BATCHES = (1, 8)


def measure(setup: Setup) -> dict[str, Any]:
    """Milliseconds of both files of each network at each batch."""
    chosen = {"resnet20": 32} if setup.quick else NETWORKS
    rows = []
    for name, side in chosen.items():
        data = pictures(setup, side)
        files = float_and_int8(network(name, data), evidence_of(data, setup))
        for batch in BATCHES:
            told = speed_ups(files, data, repeats=2 if setup.quick else max(3, setup.n_seeds), batch=batch)
            rows.append({"network": name, "pixels": side, **told})
            setup.progress.say(f"{name}, batch {batch}: {told['ratio']['int8']}×")
    return {"rows": rows}


def decide(measured: dict[str, Any]) -> Verdict:
    """Holds when int8 is surely three times as fast for every network and batch, refuted when for none."""
    told, sure, never = [], [], []
    for row in measured["rows"]:
        mean, low, high = mean_interval(row["ratio"]["int8"])
        told.append(f"{row['network']} at batch {row['batch']} {mean:.2f}×")
        sure.append(low >= CLAIM.published)
        never.append(high < CLAIM.published)
    reason = f"{', '.join(told)}; claimed {CLAIM.published:g}×."
    return Verdict("holds" if all(sure) else "refuted" if all(never) else "partly", reason)
