"""N3: a distilled student of a fraction of the teacher's size keeps 92 % of the teacher's accuracy.

A teacher is trained on CIFAR-100, then a student learns from its outputs. Both are scored on the test set, and the
quotient of the two accuracies is what the student keeps. To see what distillation has to do with it, the same student
is also trained alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from dimwise import fold, models
from dimwise.data import load as load_data
from dimwise.data.augment import AugmentConfig
from dimwise.data.config import DataConfig
from dimwise.fold import DistillConfig, Evidence
from dimwise.lab.claims._frame import Claim, Setup, Verdict, at_least, kept
from dimwise.measure import n_params
from dimwise.models.init import he_init_
from dimwise.recipe import as_dict
from dimwise.seeds import derive
from dimwise.train import TrainConfig, evaluate, fit

CLAIM = Claim(
    id="N3",
    statement="Distilling ResNet-152 into ResNet-18 keeps 92 % of its accuracy on CIFAR-100.",
    published=0.92,
    unit="share of the teacher's accuracy",
    scale="ResNet-56 into ResNet-20, the networks made for 32 × 32 pixels, on the CIFAR-100 images at hand.",
)

TEACHER, STUDENT = "resnet56", "resnet20"
TRAIN = TrainConfig(
    epochs=30,
    batch_size=128,
    optimizer="nesterov",
    lr=0.2,
    weight_decay=5e-4,
    schedule="onecycle",
    init="he",
    keep="last",
)
AUGMENT = AugmentConfig(flip=True, crop=3, grow_from=0.625)
DISTIL = DistillConfig(student=STUDENT, scale=1.0)


def measure(setup: Setup) -> dict[str, Any]:
    """Accuracies on the test set of the teacher, the student alone and the taught student, one row a seed."""
    data = DataConfig(source="cifar100", train_limit=300 if setup.quick else 0)
    train = TRAIN
    if setup.quick:
        train = dataclasses.replace(TRAIN, epochs=1, precision="fp32", layout="contiguous", threads=1)
    rows = []
    for seed in range(1 if setup.quick else setup.n_seeds):
        rows.append(_row(setup, data, dataclasses.replace(train, seed=seed)))
    return {"teacher": TEACHER, "student": STUDENT, "distillation": as_dict(DISTIL), "seeds": rows}


def decide(measured: dict[str, Any]) -> Verdict:
    """Whether the mean share that is kept is surely above what was claimed."""
    shares = [row["taught"]["accuracy"] / row["teacher"]["accuracy"] for row in measured["seeds"]]
    return at_least(shares, CLAIM.published, "share of the teacher's accuracy")


def _row(setup: Setup, source: DataConfig, train: TrainConfig) -> dict[str, Any]:
    """All of one seed; each training is kept as soon as it is done."""
    data = load_data(source, setup.data_dir, progress=setup.progress)
    looks = fold.evidence(data, train=train, augment=AUGMENT, progress=setup.progress)
    told = {"data": as_dict(source), "train": as_dict(train), "augment": as_dict(AUGMENT), "distil": as_dict(DISTIL)}
    width = 0.25 if setup.quick else 1.0

    def taught() -> dict[str, Any]:
        distil = dataclasses.replace(DISTIL, scale=width)
        return scored(fold.distill(trained(setup, TEACHER, width, looks), distil, looks)[0], looks)

    parts = {
        "teacher": lambda: scored(trained(setup, TEACHER, width, looks), looks),
        "taught": taught,
        "alone": lambda: scored(trained(setup, STUDENT, width, looks), looks),
    }
    made = {name: kept(setup.work, f"{name}-{train.seed}", told, make) for name, make in parts.items()}
    return {"seed": train.seed, **made}


def trained(setup: Setup, name: str, width: float, looks: Evidence) -> nn.Module:
    """A network of the table, trained; its run is kept in the folder of work, and goes on from there."""
    data, train = looks.data, looks.train
    torch.manual_seed(derive(train.seed, "init"))
    model = he_init_(models.build(name, data.input_shape, data.n_outputs, width=width))
    run = setup.work / f"{name}-{train.seed}"
    return fit(
        model, data, looks.task, train, augment=looks.augment, run_dir=run, resume=True, progress=setup.progress
    ).model


def scored(model: nn.Module, looks: Evidence) -> dict[str, Any]:
    """Accuracy on the test set, and size."""
    accuracy = evaluate(model, looks.data.test, looks.data.normalise, looks.task)[1]
    return {"accuracy": round(accuracy, 4), "params": n_params(model), "macs": looks.cost(model)["macs"]}
