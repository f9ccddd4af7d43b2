"""Latency predicted from a table of layers against latency measured, on networks that the table never saw.

For each network and runtime: a table from a few widths, then students of other widths and pruned networks, some of
them with very different shares in different layers. Shapes alone matter, so nothing is trained.
"""

from __future__ import annotations

import statistics
import sys

import torch
from _record import Record, wait_until_quiet
from torch import nn

from dimwise import fold, models, ship
from dimwise.data.sets import Data, Normalise, Split
from dimwise.plan.latency_table import latency_table
from dimwise.ship.runtimes import NETWORK_RUNTIMES

NETWORKS = {
    "resnet20": ((3, 32, 32), 1.0),
    "mobilenetv2": ((3, 32, 32), 0.5),
    "small_cnn": ((1, 28, 28), 1.0),
}
RUNTIMES = ("onnxruntime", "openvino", "pytorch")
SCALES = (0.9, 0.7, 0.5, 0.3, 0.2)
PRUNED = ((0.7, "uniform"), (0.5, "global"), (0.35, "uniform"), (0.3, "global"))
QUICK = "--quick" in sys.argv


def data(shape: tuple[int, ...]) -> Data:
    def split(n: int) -> Split:
        return Split(torch.randint(0, 256, (n, *shape), dtype=torch.uint8), torch.randint(0, 10, (n,)))

    normalise = Normalise(1 / 255, (0.5,) * shape[0], (0.2,) * shape[0])
    return Data("noise", split(64), split(16), split(16), tuple("abcdefghij"), normalise)


def unseen(model: nn.Module, shape: tuple[int, ...], example: torch.Tensor) -> list[nn.Module]:
    """Narrower networks of the same build that the table is not fitted to."""
    evidence = fold.evidence(data(shape))
    made = [fold.student(model, scale, example).eval() for scale in SCALES[: 2 if QUICK else None]]
    for macs, allocation in PRUNED[: 1 if QUICK else None]:
        config = fold.PruneConfig(macs=macs, importance="l1", allocation=allocation, epochs=0)
        made.append(fold.prune(model, config, evidence)[0].eval())
    return made


def errors_frac(name: str, runtime: str) -> list[float]:
    shape, width = NETWORKS[name]
    torch.manual_seed(0)
    model = models.build(name, shape, 10, width=width).eval()
    example = torch.randn(1, *shape)
    networks = unseen(model, shape, example)
    graphs = runtime not in NETWORK_RUNTIMES
    subjects = [ship.graph(one, nn.Identity(), example) if graphs else one for one in networks]
    wait_until_quiet()
    table = latency_table(model, example, runtime)
    found = []
    for network, subject in zip(networks, subjects, strict=True):
        # Each alone, as it would serve: with nine graphs open, OpenVINO's threads take longer to wake.
        served = ship.open_runtime(subject, runtime)
        measured = ship.measure_on({name: served}, example.numpy(), budget_s=0.5).latency[name].p50_ms
        served.close()
        found.append(table.predict(network, example) / measured - 1)
    return found


def main() -> None:
    record = Record(
        "latency_table",
        "python benchmarks/latency_table.py",
        "Predicted against measured latency of students and pruned networks, batch 1, one thread; signed errors.",
    )
    every: list[float] = []
    for name in list(NETWORKS)[: 1 if QUICK else None]:
        for runtime in RUNTIMES[: 1 if QUICK else None]:
            errors = errors_frac(name, runtime)
            record.runs(f"{name} on {runtime}", [100 * e for e in errors], "%")
            print(name, runtime, [f"{100 * e:+.0f} %" for e in errors], flush=True)
            every += [abs(e) for e in errors]
    median = statistics.median(every)
    what = "planner: predicted latency against measured, median error"
    record.target(what, "≤ 10 %", f"{100 * median:.1f} % over {len(every)} networks", median <= 0.10)
    record.figures["worst error"] = {"unit": "%", "value": round(100 * max(every), 1)}
    if not QUICK:
        record.write()


if __name__ == "__main__":
    main()
