"""N16: compression makes inference three to five times as fast.

A network is trained on Fashion-MNIST and compressed in several ways. Which way counts is chosen on the validation
split: the fastest that loses at most half a point. It is then timed beside the trained network on the same runtime,
which is what compression alone gives, and beside the trained network in eager PyTorch, which is what users compare.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from dimwise import fold, models
from dimwise import measure as ruler
from dimwise.data import load as load_data
from dimwise.data.augment import AugmentConfig
from dimwise.data.config import DataConfig
from dimwise.fold._steps import parse
from dimwise.lab.claims._frame import Claim, Setup, Verdict, at_least, kept
from dimwise.lab.claims._served import score, speed_ups
from dimwise.models.init import he_init_
from dimwise.plan.apply import Once, Subject, apply
from dimwise.recipe import as_dict
from dimwise.seeds import derive
from dimwise.train import TrainConfig, evaluate, evaluating, fit, guards

CLAIM = Claim(
    id="N16",
    statement="Compression speeds up inference 3 to 5 times.",
    published=3.0,
    unit="×",
    scale="A small convolutional network on Fashion-MNIST, onnxruntime on one thread, at most half a point lost.",
)
WAYS = (
    "quantize(int8)",
    "prune(macs=0.5)",
    "prune(macs=0.5) quantize(int8)",
    "prune(macs=0.25)",
    "prune(macs=0.25) quantize(int8)",
    "distill(scale=0.5)",
    "distill(scale=0.5) quantize(int8)",
)
MOST_LOST = 0.005
TRAIN = TrainConfig(
    epochs=8, batch_size=128, optimizer="adamw", lr=0.01, schedule="onecycle", label_smoothing=0.05, init="he"
)
AUGMENT = AugmentConfig(flip=True, crop=1)


def measure(setup: Setup) -> dict[str, Any]:
    """Score on the test split and milliseconds of the trained and the compressed network, one row a seed."""
    seeds = range(1 if setup.quick else setup.n_seeds)
    return {"ways": list(WAYS), "seeds": [_row(setup, seed) for seed in seeds]}


def decide(measured: dict[str, Any]) -> Verdict:
    """On the same runtime: what the trained network gains by the runtime is not compression's."""
    rows = measured["seeds"]
    verdict = at_least([row["same_runtime"] for row in rows], CLAIM.published, "on the same runtime", "×")
    eager = sum(row["against_eager"] for row in rows) / len(rows)
    lost = max(row["trained"] - row["compressed"] for row in rows)
    ways = ", ".join(sorted({row["way"] for row in rows}))
    more = f" Against eager PyTorch {eager:.3g}×; at most {100 * lost:.2f} points of test accuracy lost, by {ways}."
    return Verdict(verdict.word, verdict.reason + more)


def _row(setup: Setup, seed: int) -> dict[str, Any]:
    source = DataConfig(source="fashion", valid_frac=0.0834, train_limit=1000 if setup.quick else 0)
    data = load_data(source, setup.data_dir, progress=setup.progress)
    train = dataclasses.replace(TRAIN, seed=seed, epochs=1 if setup.quick else TRAIN.epochs)
    looks = fold.evidence(data, train=train, augment=AUGMENT, progress=setup.progress)
    settings = {"data": as_dict(source), "train": as_dict(train), "augment": as_dict(AUGMENT), "ways": list(WAYS)}

    def row() -> dict[str, Any]:
        torch.manual_seed(derive(seed, "init"))
        model = he_init_(models.build("small_cnn", data.input_shape, data.n_outputs))
        model = fit(model, data, looks.task, train, augment=AUGMENT, progress=setup.progress).model.eval()
        subject, once = Subject(model), Once()
        base = evaluate(model, data.valid, data.normalise, looks.task)[1]
        files, valid = {}, {}
        for way in ("", *(WAYS[:2] if setup.quick else WAYS)):
            content = apply(parse(way), subject, looks, once=once).proto.SerializeToString()
            files[way], valid[way] = content, score(content, data.valid, looks)
        timed = speed_ups(files, data, repeats=1)
        within = [way for way in files if valid[way] >= base - MOST_LOST]
        way = min(within or [""], key=lambda name: timed["latency_ms"][name][0])
        last = speed_ups({"": files[""], way: files[way]}, data, repeats=3)
        return {
            "seed": seed,
            "way": way or "as it is",
            "trained": evaluate(model, data.test, data.normalise, looks.task)[1],
            "compressed": score(files[way], data.test, looks),
            "same_runtime": sorted(last["ratio"][way])[1],
            "against_eager": _eager_ms(model, looks.example) / sorted(last["latency_ms"][way])[1],
            "smaller": len(files[""]) / len(files[way]),
            "ways": {
                name: {"valid": valid[name], "latency_ms": timed["latency_ms"][name][0], "bytes": len(content)}
                for name, content in files.items()
            },
        }

    return kept(setup.work, f"seed-{seed}", settings, row)


def _eager_ms(model: nn.Module, example: torch.Tensor) -> float:
    with guards.threads(1), evaluating(model):
        return ruler.latency({"eager": lambda: model(example)}, budget_s=1.0, threads=1)["eager"].p50_ms
