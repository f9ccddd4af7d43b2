"""Compositions of folds against each single tool's default: score, bytes and milliseconds on one runtime.

    python benchmarks/fold.py [NETWORK ...] [--seeds 3 | --seed K] [--work runs/fold] [--limit-s SECONDS]
                              [--later WORD ...] [--quick]

Each network is trained once a seed; its weights, every file that is made of it, and every score lie in the folder of
work, so the measurement can be made in parts: with ``--limit-s`` no further part begins once so many seconds have
passed, and with ``--later`` parts whose names hold a word are left for another time; the record names those that are
missing, and the same command goes on. With ``--seed K`` one seed is measured and joins those that the record holds,
which may come from another day or machine: speeds are compared within a seed. Milliseconds are measured at the end of a
network's seed, all files in turns.

What is shown to be better is chosen on the validation split; scores are those of the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from _fold_peers import nncf_quantize, onnxruntime_static, plain_distillation, torch_pruning
from _record import RECORDS, Record, data_dir, wait_until_quiet
from torch import nn

from dimwise import chain, fold, measure, ship
from dimwise.chain.start import build
from dimwise.data import load as load_data
from dimwise.fold import Evidence, _onnx
from dimwise.fold._steps import parse
from dimwise.lab.claims import kept
from dimwise.plan.apply import Once, Subject, apply
from dimwise.plan.on_target import outputs_of, score_on
from dimwise.progress import Terminal
from dimwise.train import evaluating, fit, guards

ASKED_FASTER, ASKED_SMALLER, ASKED_LOST, ASKED_SHARE = 12.0, 15.0, 0.5, 0.8
ROUNDS = 7
"""In which milliseconds are measured."""
EQUAL = 0.1
"""Points between two scores that are called equal."""

CNN = (
    "quantize(int8)",
    "prune(macs=0.75, teacher=false, epochs=10)",
    "prune(macs=0.75, teacher=false, epochs=10) quantize(int8)",
    "prune(macs=0.5, epochs=10)",
    "prune(macs=0.5, epochs=10) quantize(int8)",
    "prune(macs=0.5, teacher=false, epochs=10)",
    "prune(macs=0.5, teacher=false, epochs=10) quantize(int8)",
    "prune(macs=0.35, teacher=false, epochs=10)",
    "prune(macs=0.35, teacher=false, epochs=10) quantize(int8)",
    "prune(macs=0.25, allocation=latency, epochs=10)",
    "prune(macs=0.25, allocation=latency, epochs=10) quantize(int8)",
    "prune(macs=0.12, epochs=10)",
    "prune(macs=0.12, epochs=10) quantize(int8)",
    "distill(scale=0.5)",
    "distill(scale=0.5) quantize(int8)",
    "distill(scale=0.5, weight=0)",
)
DEEP = (
    "quantize(int8)",
    "distill(depth=0.45, scale=1.0, inherit=true, epochs=60) quantize(int8)",
    "distill(depth=0.45, scale=1.0, inherit=true, epochs=60) quantize(int8) share(palette16)",
)
QUARTER = (
    "prune(macs=0.25, allocation=latency, epochs=40)",
    "prune(macs=0.25, allocation=latency, epochs=40) quantize(int8)",
    "prune(macs=0.25, allocation=latency, epochs=40, lr_frac=1.0)",
    "prune(macs=0.25, allocation=latency, epochs=40, lr_frac=1.0) quantize(int8)",
)
SHALLOW = (
    "quantize(int8)",
    "distill(depth=0.67, scale=1.0, inherit=true) quantize(int8)",
    "distill(depth=0.34, scale=1.0, inherit=true) quantize(int8)",
    "prune(macs=0.5, teacher=false, epochs=10)",
    "prune(macs=0.5, teacher=false, epochs=10) quantize(int8)",
)
MOBILE = (
    "quantize(int8)",
    "distill(scale=0.5)",
    "distill(scale=0.5) quantize(int8)",
    "prune(macs=0.5, teacher=false, epochs=5)",
    "prune(macs=0.5, teacher=false, epochs=5) quantize(int8)",
    "prune(macs=0.25, teacher=false, epochs=5)",
    "prune(macs=0.25, teacher=false, epochs=5) quantize(int8)",
)
TEXT = (
    "quantize(int8)",
    "quantize(dynamic)",
    "quantize(weights)",
    "prune(macs=0.5)",
    "prune(macs=0.5) quantize(dynamic)",
    "distill(scale=1.0)",
    "distill(scale=1.0) quantize(dynamic)",
    "distill(scale=0.5)",
    "distill(scale=0.5) quantize(dynamic)",
    "distill(scale=0.25)",
    "distill(scale=0.25) quantize(dynamic)",
)


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of the benchmark: a recipe, what is set in it, and the compositions that are tried."""

    recipe: str
    settings: tuple[str, ...] = ()
    ways: tuple[str, ...] = CNN
    epochs: tuple[int, int] = (10, 10)
    """Of fine-tuning at half and at a quarter of the operations, for us and for the peers."""
    tools: tuple[str, ...] = ("onnxruntime", "nncf", "torch-pruning", "plain KD")
    combined: bool = False
    """Whether everything combined has targets of its own here: speed, size and score."""
    pruned: bool = False
    """Whether pruning alone has: time saved against operations saved, and score."""


NETWORKS = {
    "fashion-small_cnn": Network("fashion"),
    "cifar10-resnet20": Network("cifar10", (), SHALLOW),
    "cifar10-resnet56": Network("cifar10", ("model.name=resnet56",), DEEP, combined=True),
    "cifar10-resnet56-quarter": Network(
        "cifar10", ("model.name=resnet56",), QUARTER, epochs=(5, 40), tools=("torch-pruning",), pruned=True
    ),
    "cifar10-mobilenetv2": Network(
        "cifar10", ("model.name=mobilenetv2", "model.width=0.5", "train.epochs=12"), MOBILE, (5, 5)
    ),
    "sst2-lstm": Network("sst2", (), TEXT, tools=("onnxruntime", "nncf", "plain KD")),
    "sst2-transformer": Network("sst2-transformer", (), TEXT, tools=("onnxruntime", "nncf", "plain KD")),
}
FLOAT = "float"


class OutOfTime(Exception):
    """The limit is reached; what was made is kept."""


def main() -> int:
    told = _arguments().parse_args()
    limit = Limit(told.limit_s)
    names = told.networks or list(NETWORKS)
    for name in names:
        if name not in NETWORKS:
            print(f"there is no network {name!r}; one of: {', '.join(NETWORKS)}", file=sys.stderr)
            return 2
    rows: dict[str, list[dict[str, Any]]] = {}
    try:
        for name in names:
            for seed in [0] if told.quick else range(told.seeds) if told.seed is None else [told.seed]:
                rows.setdefault(name, []).append(one_seed(name, seed, told.work, told.quick, limit, told.later))
    except OutOfTime as stop:
        print(f"stopped before {stop}; the same command goes on there")
        return 0
    for network, found in rows.items():
        found = found if told.seed is None or told.quick else joined(network, found)
        print(network, summary(found))
        if not told.quick:
            print(recorded(network, found).write())
    return 0


def joined(network: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These seeds, and the others that the record of the network holds; in order."""
    path = RECORDS / f"{_name(network)}.json"
    held = json.loads(path.read_text("utf-8"))["figures"].get("seeds", []) if path.is_file() else []
    by_seed = {row["seed"]: row for row in [*held, *rows]}
    return [by_seed[seed] for seed in sorted(by_seed)]


@dataclasses.dataclass
class Limit:
    """Seconds after which nothing further begins; 0 is no limit."""

    limit_s: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def reached(self) -> bool:
        """Whether so many seconds have passed."""
        return 0 < self.limit_s < time.monotonic() - self.started


def one_seed(name: str, seed: int, work: Path, quick: bool, limit: Limit, later: Sequence[str] = ()) -> dict[str, Any]:
    """All files of one trained network: bytes, scores and, measured in turns, milliseconds."""
    network = NETWORKS[name]
    settings = [*network.settings, f"train.seed={seed}"]
    if quick:
        settings += ["train.epochs=1", "data.train_limit=600", "train.precision='fp32'", "train.layout='contiguous'"]
        network = dataclasses.replace(network, ways=network.ways[:3], epochs=(1, 1))
    recipe = chain.load(network.recipe, settings)
    data = load_data(recipe.data, data_dir())
    looks = fold.evidence(data, train=recipe.train, augment=recipe.augment, progress=Terminal())
    folder = work / ("quick" if quick else "whole") / name / str(seed)
    if limit.reached():
        raise OutOfTime(f"the training of {name}, seed {seed}")
    model = fit(
        build(recipe, data, None),
        data,
        looks.task,
        recipe.train,
        augment=recipe.augment,
        run_dir=folder / "run",
        resume=True,
        progress=Terminal(),
    ).model
    model = model.cpu().eval()
    subject, once = Subject(model), Once()
    makers: dict[str, Callable[[], bytes]] = {
        FLOAT: lambda: apply((), subject, looks, once=once).proto.SerializeToString()
    }
    for way in network.ways:
        makers[way] = lambda way=way: apply(parse(way), subject, looks, once=once).proto.SerializeToString()
    for tool, make in peers(network).items():
        makers[tool] = lambda make=make: make(model, looks)
    parts, missing = {}, []
    for part, maker in makers.items():
        made_before = (folder / f"{_slug(part)}.json").is_file()
        if not made_before and (limit.reached() or any(word in part for word in later)):
            missing.append(part)
            continue
        head, _, last = part.rpartition(" ")
        if last.startswith("share") and "content" in parts.get(head, {}):
            maker = partial(shared, parts[head]["content"], last, looks)
        parts[part] = kept(folder, _slug(part), {"settings": settings, "part": part}, partial(made, maker, looks))
        print(f"{name} {seed} {part}: {parts[part].get('test', parts[part].get('failed'))}", flush=True)
    if FLOAT in missing:
        raise OutOfTime(f"the parts of {name}, seed {seed}")
    files = {p: bytes.fromhex(told.pop("content")) for p, told in parts.items() if "content" in told}
    latency = milliseconds(files, model, data, budget_s=0.2 if quick else 2.0, n_rounds=1 if quick else ROUNDS)
    for part, ms in latency.items():
        parts.setdefault(part, {}).update(latency_ms=statistics.median(ms), rounds_ms=ms)
    for part, content in files.items():
        parts[part]["macs"] = _onnx.cost(onnx.load_from_string(content))["macs"]
    right = {part: right_on_test(content, data) for part, content in files.items()}
    parts["eager"] |= {
        "macs": parts[FLOAT]["macs"],
        "test": parts[FLOAT]["test"],
        "valid": parts[FLOAT]["valid"],
        "bytes": measure.state_size_bytes(model),
    }
    where = measure.environment()
    return {
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "commit": where["commit"],
        "cpu": f"{where['cpu']}, {where['cores']} cores, {where['capabilities'][-1] if where['capabilities'] else ''}",
        "parts": parts,
        "ours": [way for way in network.ways if way in parts],
        "peers": [peer for peer in peers(network) if peer in parts],
        "apart": {
            peer: {way: apart(right[way], right[peer]) for way in right if way not in peers(network)}
            for peer in peers(network)
            if peer in right
        },
        "missing": missing,
        "combined": network.combined,
        "pruned": network.pruned,
    }


def shared(content: str, last: str, looks: Evidence) -> bytes:
    """What the last step makes of a file that is there: nothing before it is trained again."""
    subject = Subject(None, proto=onnx.load_from_string(bytes.fromhex(content)))
    return apply(parse(last), subject, looks).proto.SerializeToString()


def peers(network: Network) -> dict[str, Callable[[nn.Module, Evidence], bytes]]:
    """Name -> what makes a file of the trained network."""
    known = {
        "onnxruntime": {"onnxruntime quantize_static": onnxruntime_static},
        "nncf": {"nncf quantize": nncf_quantize},
        "torch-pruning": {
            f"torch-pruning {share:.0%} MACs": torch_pruning(share, epochs)
            for share, epochs in zip((0.5, 0.25), network.epochs, strict=True)
        },
        "plain KD": {"plain KD, half width": plain_distillation(0.5, 0)},
    }
    return {name: make for tool in network.tools for name, make in known[tool].items()}


def made(maker: Callable[[], bytes], looks: Evidence) -> dict[str, Any]:
    """The file with its size and scores, or why there is none."""
    started = time.monotonic()
    try:
        content = maker()
        runner = ship.session(content, threads=torch.get_num_threads())
        scores = {part: score_on(runner, getattr(looks.data, part), looks.task) for part in ("valid", "test")}
    except Exception as error:  # noqa: BLE001  (another tool may raise anything)
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"}
    return {**scores, "bytes": len(content), "seconds": time.monotonic() - started, "content": content.hex()}


def milliseconds(
    files: Mapping[str, bytes], model: nn.Module, data: Any, *, budget_s: float, n_rounds: int
) -> dict[str, list[float]]:
    """Median of one inference of each file and of the network in eager PyTorch, all in turns, on one thread; by rounds,
    since a shared machine slows whole rounds down."""
    runners = {part: ship.session(content, threads=1) for part, content in files.items()}
    raw, normalised = data.test.inputs[:1].numpy(), data.normalise(data.test.inputs[:1])
    calls: dict[str, Any] = {part: (lambda runner=runner: runner.run(raw)) for part, runner in runners.items()}
    calls["eager"] = lambda: model(normalised)
    wait_until_quiet()
    with guards.threads(1), evaluating(model):
        rounds = [measure.latency(calls, runs=1000, budget_s=budget_s, threads=1) for _ in range(n_rounds)]
    return {part: [found[part].p50_ms for found in rounds] for part in calls}


def right_on_test(content: bytes, data: Any) -> Any:
    """(N,) bool: whether a file answers rightly, test input by test input."""
    outputs = outputs_of(ship.session(content, threads=torch.get_num_threads()), data.test)
    return (outputs.argmax(1) == data.test.targets.cpu()).numpy()


def apart(ours: Any, theirs: Any) -> list[int]:
    """How many inputs only the one and only the other answers rightly, out of (N,) bool of both."""
    return [int((ours & ~theirs).sum()), int((theirs & ~ours).sum())]


def surely_worse(way: str, peer: str, rows: list[dict[str, Any]]) -> bool:
    """Whether McNemar's test (5 %, two-sided) on the test inputs of all seeds says that ``way`` is worse."""
    counts = [row["apart"][peer][way] for row in rows if "apart" in row]
    if len(counts) < len(rows):
        return True  # an older record, which did not count
    won, lost = (sum(c[i] for c in counts) for i in (0, 1))
    return (lost - won) > 1.96 * (lost + won) ** 0.5


def times_faster(this: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How many times faster ``this`` is: the median of the quotients within each round."""
    return statistics.median(b / a for a, b in zip(this["rounds_ms"], other["rounds_ms"], strict=True))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The means over the seeds of what every part gives, and what the compositions gain over the peers."""
    parts = {part: means(part, rows) for part in rows[0]["parts"] if with_part(part, rows) == rows}
    eager = parts["eager"]
    ours = {way: parts[way] for way in (FLOAT, *rows[-1]["ours"]) if way in parts}  # keeping it is an answer too
    best = chosen_of({w: p for w, p in ours.items() if w != FLOAT}, eager, combined=rows[0]["combined"])
    told = {
        "best": best,
        "faster": times_faster(parts[best], eager),
        "smaller": eager["bytes"] / parts[best]["bytes"],
        "lost_points": 100 * (eager["test"] - parts[best]["test"]),
    }
    against, all_peers = {}, [parts[peer] for peer in rows[0]["peers"] if peer in parts]
    for peer in rows[0]["peers"]:
        if peer not in parts:
            against[peer] = {"failed": next(row["parts"][peer].get("failed") for row in rows)}
            continue
        theirs = parts[peer]
        no_slower = [way for way, p in ours.items() if p["latency_ms"] <= 1.02 * theirs["latency_ms"]]
        as_good, rivals = (
            [p for p in group if p["valid"] >= theirs["valid"] - EQUAL / 100] for group in (ours.values(), all_peers)
        )
        rival = min(rivals, key=lambda p: p["latency_ms"])
        level = max(no_slower, key=lambda way: ours[way]["valid"], default=None)
        fastest = min(as_good, key=lambda p: p["latency_ms"], default=None)
        against[peer] = {
            "score": theirs["test"],
            "ours_no_slower": ours[level]["test"] if level else None,
            "surely_worse": level is None or surely_worse(level, peer, rows),
            "times_faster_at_equal_score": times_faster(fastest, rival) if fastest else None,
            "score_of_the_faster": fastest["test"] if fastest else None,
        }
    return {"chosen": told, "against": against, "pruned": gains_of(rows), "parts": parts}


def with_part(part: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds in which a part was made and measured."""
    return [row for row in rows if "latency_ms" in row["parts"].get(part, {})]


def means(part: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one part over these seeds; milliseconds of all rounds beside."""
    found = [row["parts"][part] for row in rows]
    keys = ("valid", "test", "bytes", "latency_ms", "macs")
    told = {key: statistics.mean(one[key] for one in found) for key in keys}
    return told | {"rounds_ms": [ms for one in found for ms in one["rounds_ms"]]}


def chosen_of(ours: Mapping[str, Mapping[str, Any]], eager: Mapping[str, Any], *, combined: bool) -> str:
    """The composition with the best score that is as fast and small as asked, else the fastest that keeps the score."""
    asked = {
        way: p
        for way, p in ours.items()
        if combined and times_faster(p, eager) >= ASKED_FASTER and eager["bytes"] >= ASKED_SMALLER * p["bytes"]
    }
    if asked:
        return max(asked, key=lambda way: asked[way]["valid"])
    within = {way: p for way, p in ours.items() if p["valid"] >= eager["valid"] - ASKED_LOST / 100}
    return min(within or ours, key=lambda way: ours[way]["latency_ms"])


def gains_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each pruned network in float32, over the seeds that have it: how many times fewer operations, how many times
    faster, points lost."""
    found = {}
    for part in dict.fromkeys(part for row in rows for part in row["parts"]):
        these = with_part(part, rows)
        if these and "prun" in part and "quantize" not in part and "distill" not in part:
            whole, told = means(FLOAT, these), means(part, these)
            fewer, faster = whole["macs"] / told["macs"], times_faster(told, whole)
            lost = 100 * (whole["test"] - told["test"])
            found[part] = {
                "macs_gain": fewer,
                "latency_gain": faster,
                "share": faster / fewer,
                "lost_points": lost,
                "n_seeds": len(these),
            }
    return found


def pruning_alone(record: Record, told: Mapping[str, Any], n_rows: int) -> None:
    """Targets of pruning alone at four times fewer operations: of the way with the best validation score among those
    that all seeds have; the others are noted."""
    ways = {w: f for w, f in told["pruned"].items() if w.startswith("prune") and f["macs_gain"] >= 3.8}
    best = max((way for way in ways if way in told["parts"]), key=lambda w: told["parts"][w]["valid"], default=None)
    for way, found in ways.items():
        seeds = f" ({found['n_seeds']} of {n_rows} seeds)" if found["n_seeds"] < n_rows else ""
        share, lost = found["share"], found["lost_points"]
        if way == best:
            what = f"latency gain over MACs gain of {way}, ResNet-56 on CIFAR-10"
            record.target(what, f"≥ {ASKED_SHARE}", f"{share:.2f}{seeds}", share >= ASKED_SHARE)
            record.target(f"points lost by {way}", f"≤ {ASKED_LOST}", f"{lost:.2f}{seeds}", lost <= ASKED_LOST)
        else:
            why = "" if seeds else ", of lower validation score"
            record.notes.append(f"{way}{seeds}{why}: {share:.2f} of the gain, {lost:.2f} points lost")


def recorded(name: str, rows: list[dict[str, Any]]) -> Record:
    """The record of one network, with what was asked beside what was measured."""
    command = f"python benchmarks/fold.py {name} --seeds {len(rows)}"
    what = f"compositions of folds against single tools on {name}, one runtime"
    record = Record(_name(name), command, what)
    record.notes += [f"seed {row['seed']}: {row['date']}, {row['cpu']}, commit {row['commit']}" for row in rows]
    record.notes.append(f"{len(rows)} seeds; onnxruntime on one thread, batch 1; means over the seeds")
    record.notes.append(f"quotients of milliseconds: medians of those within each of {ROUNDS} rounds")
    record.notes.append(f"scores are called equal within {EQUAL} points")
    record.notes += [f"not made yet, seed {row['seed']}: {', '.join(row['missing'])}" for row in rows if row["missing"]]
    told = summary(rows)
    chosen = told["chosen"]
    record.figures |= {"summary": told, "seeds": rows}
    record.runs("eager latency", [row["parts"]["eager"]["latency_ms"] for row in rows], "ms")
    record.runs(f"latency of {chosen['best']}", [row["parts"][chosen["best"]]["latency_ms"] for row in rows], "ms")
    for part in told["parts"]:
        record.runs(f"test score: {part}", [row["parts"][part]["test"] for row in rows], "fraction")
    if rows[0]["combined"]:
        for key, asked, value, unit, met in (
            ("faster than eager", f"≥ {ASKED_FASTER:g}×", chosen["faster"], "×", chosen["faster"] >= ASKED_FASTER),
            ("smaller", f"≥ {ASKED_SMALLER:g}×", chosen["smaller"], "×", chosen["smaller"] >= ASKED_SMALLER),
            ("lost", f"≤ {ASKED_LOST} pt", chosen["lost_points"], " pt", chosen["lost_points"] <= ASKED_LOST),
        ):
            record.target(f"folds combined, ResNet-56 on CIFAR-10: {key}", asked, f"{value:.2f}{unit}", met)
    if rows[0].get("pruned"):
        pruning_alone(record, told, len(rows))
    against = told["against"]
    ran = {peer: found for peer, found in against.items() if "failed" not in found}
    if not ran:
        return record
    level = [f for f in ran.values() if (f["ours_no_slower"] or 0.0) >= f["score"] - EQUAL / 100]
    unsure = sum(f not in level and not f["surely_worse"] for f in ran.values())
    failed = len(against) - len(ran)
    gains = [f["times_faster_at_equal_score"] for f in ran.values() if f["times_faster_at_equal_score"]] or [0.0]
    above = [peer for peer, f in ran.items() if not f["times_faster_at_equal_score"]]
    record.target(
        f"folds on {name}: peers at whose latency ours scores as high",
        f"all {len(ran)}",
        f"{len(level)}"
        + (f" ({failed} more fail on it)" if failed else "")
        + (f" ({unsure} more within what the test split can tell: McNemar, 5 %)" if unsure else ""),
        len(level) == len(ran),
    )
    record.target(
        f"folds on {name}: faster than the fastest peer, at the score of each",
        "≥ 1.3× somewhere",
        f"{min(gains):.2f}× to {max(gains):.2f}×"
        + (f" (validation score of {', '.join(above)} not reached)" if above else ""),
        max(gains) >= 1.3,
    )
    return record


def _name(network: str) -> str:
    return f"fold_{network.replace('-', '_')}"


def _slug(part: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in part).strip("-")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="one of: " + ", ".join(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, metavar="K", help="only this one; it joins those of the record")
    parser.add_argument("--work", type=Path, default=Path("runs/fold"))
    parser.add_argument("--limit-s", type=float, default=0.0)
    parser.add_argument("--later", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--quick", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
