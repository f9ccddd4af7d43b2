"""N23: structured L1 pruning takes 40 % of ResNet-50's operations away.

ResNet-50 at 224 × 224 pixels is pruned by the L1 norm of its filters. What is counted is the smaller network itself,
layer by layer, and both are timed as files: operations that leave are worth what they save.
"""

from __future__ import annotations

from typing import Any

from dimwise import fold, ship
from dimwise.lab.claims._frame import Claim, Setup, Verdict, mean_interval
from dimwise.lab.claims._served import evidence_of, network, pictures, speed_ups
from dimwise.measure import n_params, profile

CLAIM = Claim(
    id="N23",
    statement="L1 structured pruning cuts the FLOPs of ResNet-50 by 40 %.",
    published=0.40,
    unit="share of the multiply-accumulates",
    scale="Operations and time as published; what is lost in accuracy is measured on smaller networks.",
)


def measure(setup: Setup) -> dict[str, Any]:
    """Operations, parameters and milliseconds before and after."""
    data = pictures(setup, 64 if setup.quick else 224)
    whole = network("resnet50", data)
    evidence = evidence_of(data, setup)
    small, report = fold.prune(whole, fold.PruneConfig(macs=1 - CLAIM.published, importance="l1", epochs=0), evidence)
    example = evidence.example
    files = {
        name: ship.graph(model, data.normalise, data.train.inputs[:1]).SerializeToString()
        for name, model in (("whole", whole), ("pruned", small))
    }
    return {
        "macs": {"whole": profile(whole, example).macs, "pruned": profile(small, example).macs},
        "params": {"whole": n_params(whole), "pruned": n_params(small)},
        "layers_narrower": len(report.layers),
        **speed_ups(files, data, repeats=2 if setup.quick else max(3, setup.n_seeds)),
    }


def decide(measured: dict[str, Any]) -> Verdict:
    """Counting decides; the time that it saved is told."""
    less = 1 - measured["macs"]["pruned"] / measured["macs"]["whole"]
    faster = mean_interval(measured["ratio"]["pruned"])[0]
    return Verdict(
        "holds" if less >= CLAIM.published - 0.005 else "refuted",
        f"{less:.1%} of the operations are gone, and it runs {faster:.2f}× as fast; claimed {CLAIM.published:.0%}.",
    )
