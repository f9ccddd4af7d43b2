"""Int8 over at least twelve networks: points lost on the test split, repaired or not, and time, beside two peers.

    python benchmarks/int8.py [--quick]

Each network is trained briefly on a part of its set, exported once, and made int8 by ``fold.quantize``, onnxruntime's
``quantize_static`` and ``nncf.quantize``, each with its defaults and 256 to 300 training inputs. Repair looks at the
validation split; the loss told here is that of the test split, which none of them has seen.
``--quick`` does two networks and writes no record.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from _fold_peers import exported, nncf_quantize, onnxruntime_static
from _record import Record, data_dir, wait_until_quiet

from dimwise import data as sets
from dimwise import fold, measure, models, ship, train
from dimwise.data.config import DataConfig
from dimwise.data.sets import Data, Split
from dimwise.errors import first_line

ASKED_MEDIAN, ASKED_WORST, ASKED_NETWORKS = 0.1, 1.0, 12
PEERS = {"onnxruntime": onnxruntime_static, "nncf": nncf_quantize}


@dataclass(frozen=True)
class Case:
    """One network, what it learns, and for how long."""

    source: str
    model: str
    width: float = 1.0
    epochs: int = 5
    n_train: int = 4000
    lr: float = 1e-3

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.model} {self.width:g} on {self.source}"


CASES = (
    Case("digits", "mlp", epochs=20, n_train=0),
    Case("digits", "small_cnn", epochs=15, n_train=0),
    Case("digits", "resnet20", 0.5, epochs=10, n_train=0),
    Case("digits", "mobilenetv2", 0.5, epochs=15, n_train=0),
    Case("fashion", "mlp"),
    Case("fashion", "guide_cnn", epochs=4),
    Case("fashion", "fast_cnn", epochs=4),
    Case("fashion", "lenet5"),
    Case("fashion", "small_cnn"),
    Case("fashion", "resnet20", 0.5, epochs=3),
    Case("fashion", "mobilenetv2", 0.5, epochs=4),
    Case("mnist", "lenet5", epochs=4),
    Case("digits", "vit", 0.5, epochs=10, n_train=0),
    Case("cifar10", "resnet20", 0.5, epochs=4),
    Case("cifar10", "resnet18", 0.25, epochs=3, n_train=3000),
    Case("sst2", "lstm", epochs=3),
    Case("sst2", "transformer", epochs=3),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="two networks, no record")
    quick = parser.parse_args().quick
    cases = (CASES[1], CASES[3]) if quick else CASES
    record = Record("int8", "python benchmarks/int8.py", (__doc__ or "").split("\n\n")[0])
    warning = None if quick else wait_until_quiet()
    if warning:
        record.notes.append(warning)
    rows = {}
    for case in cases:
        started = time.perf_counter()
        try:
            rows[case.name] = measured(case, quick)
        except Exception as error:  # noqa: BLE001  (what one network cannot do must not cost the others)
            record.notes.append(f"{case.name} was not measured: {first_line(error)}")
            print(record.notes[-1], flush=True)
            continue
        rows[case.name]["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{case.name}: {told(rows[case.name])}", flush=True)
    record.figures["networks"] = rows
    if not quick:  # networks hardly trained say nothing about the targets
        judge(record, rows)
    print("a quick pass writes no record" if quick else record.write())
    return 0


def measured(case: Case, quick: bool) -> dict[str, Any]:
    """Train, make int8 in each way, score on the test split, time in turns."""
    data = part(sets.load(DataConfig(source=case.source, train_limit=case.n_train), data_dir()), 500 if quick else 2000)
    torch.manual_seed(0)
    net = models.build(case.model, data.input_shape, data.n_outputs, width=case.width, vocabulary=data.vocabulary)
    config = train.TrainConfig(
        epochs=2 if quick else case.epochs, lr=case.lr, precision="fp32", schedule="cosine", threads=0
    )
    fitted = train.fit(net, data, config=config)
    evidence = fold.evidence(data, train=config)
    model = fitted.model.eval()
    proto = exported(model, evidence)
    mode = "dynamic" if case.model == "lstm" else "static"  # the report of ``static`` says that LSTMs have no kernel
    eight, report = fold.quantize(proto, fold.QuantizeConfig(mode=mode), evidence)
    files: dict[str, bytes] = {"float": proto.SerializeToString(), "dimwise": eight.SerializeToString()}
    failed = {}
    for name, peer in PEERS.items():
        try:
            files[name] = peer(model, evidence)
        except Exception as error:  # noqa: BLE001  (a peer may fail on a network; that is a result)
            failed[name] = first_line(error)
    return {
        "mode": mode,
        "attempts": len(report.tried),
        "repaired": len(report.tried) > 1,
        "chosen": next((row["what"] for row in report.tried if row["chosen"]), ""),
        "kept_float": sum("by repair" in why for why in report.untouched.values()),
        **compared(files, data, evidence),
        "failed": failed,
    }


def part(data: Data, n_test: int) -> Data:
    """The same set with at most so many test inputs and 1000 validation inputs."""

    def first(split: Split, n: int) -> Split:
        return Split(split.inputs[:n], split.targets[:n])

    return dataclasses.replace(data, valid=first(data.valid, 1000), test=first(data.test, n_test))


def compared(files: dict[str, bytes], data: Data, evidence: fold.Evidence) -> dict[str, Any]:
    """Score on the test split, bytes and latency at batch 1 of each file on one thread of onnxruntime."""
    one = data.test.inputs[:1].numpy()
    found: dict[str, Any] = {"score": {}, "bytes": {}, "p50_ms": {}, "relative_latency": {}}
    runners = {}
    for name, content in files.items():
        runner = runners[name] = ship.session(content, threads=1)
        outputs = torch.cat([torch.from_numpy(runner.run(x.numpy())) for x in data.test.inputs.split(250)])
        found["score"][name] = evidence.task.score(outputs, data.test.targets)
        found["bytes"][name] = len(content)
    calls = {name: (lambda runner=runner: runner.run(one)) for name, runner in runners.items()}
    for name, latency in measure.latency(calls, threads=1).items():
        found["p50_ms"][name] = latency.p50_ms
    for name in files:
        found["relative_latency"][name] = found["p50_ms"][name] / found["p50_ms"]["float"]
    found["lost_points"] = {
        name: 100 * (found["score"]["float"] - found["score"][name]) for name in files if name != "float"
    }
    return found


def told(row: dict[str, Any]) -> str:
    lost = ", ".join(f"{name} {points:+.2f}" for name, points in row["lost_points"].items())
    time_ = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["relative_latency"].items() if name != "float")
    how = f"repaired by {row['chosen']!r}" if row["repaired"] else "no repair needed"
    return f"float {100 * row['score']['float']:.2f} %; points lost: {lost}; time over float: {time_}; {how}"


def judge(record: Record, rows: dict[str, Any]) -> None:
    """The targets of the issue, and the peers beside them."""
    if not rows:
        return
    lost = {name: row["lost_points"]["dimwise"] for name, row in rows.items()}
    middle, worst = statistics.median(lost.values()), max(lost, key=lambda name: lost[name])
    n = len(rows)
    record.target("int8: networks measured", f"≥ {ASKED_NETWORKS}", str(n), n >= ASKED_NETWORKS)
    record.target(
        "int8, median loss", f"≤ {ASKED_MEDIAN} point", f"{middle:.2f} points", round(middle, 3) <= ASKED_MEDIAN
    )
    record.target(
        "int8, worst loss", f"≤ {ASKED_WORST} point", f"{lost[worst]:.2f} ({worst})", lost[worst] <= ASKED_WORST
    )
    for tool in ("dimwise", *PEERS):
        theirs = [row["lost_points"][tool] for row in rows.values() if tool in row["lost_points"]]
        if theirs:
            record.runs(f"{tool}: points lost, one network each", theirs, "points")
    slower = [name for name, row in rows.items() if row["relative_latency"]["dimwise"] > 1]
    record.figures["slower_than_float"] = slower
    record.notes.append(
        f"on {len(slower)} of {n} networks int8 is no faster than float at batch 1; whoever chooses sees their latency"
    )


if __name__ == "__main__":
    sys.exit(main())
