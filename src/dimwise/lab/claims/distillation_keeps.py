"""N3: a distilled student of a fraction of the teacher's size keeps 92 % of the teacher's accuracy.

A teacher is trained on CIFAR-100, then students of several seeds learn from it. All are scored on the test set, and
the quotient of the two accuracies is what a student keeps. To see what distillation has to do with it, the same
students are also trained alone. ``benchmarks/distill.py`` goes on from the same networks.
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
    scale="ResNet-20 of twice the width into ResNet-20, networks made for 32 × 32 pixels: a quarter of the parameters, "
    "where ResNet-18 has a fifth of ResNet-152's; on the CIFAR-100 images at hand, one teacher.",
)

NAME, TEACHER_WIDTH, STUDENT_WIDTH = "resnet20", 2.0, 1.0
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
LABEL_SMOOTHING = 0.05
"""Of students trained alone, as in the recipe ``cifar100``; what a teacher has to teach would be blurred by it."""
DISTIL = DistillConfig(loss="dkd", standardise=False, weight=0.5, views=4)
"""As Zhao et al. teach thin residual networks, labels and teacher alike; four views of each image at each size."""


def measure(setup: Setup) -> dict[str, Any]:
    """Accuracies on the test set of the teacher, and of students taught and alone, one row a seed."""
    rows = [
        {"seed": seed, "taught": taught(setup, seed), "alone": alone(setup, seed, epochs(setup))}
        for seed in range(1 if setup.quick else setup.n_seeds)
    ]
    return {"network": NAME, "distillation": as_dict(DISTIL), "teacher": teacher(setup)[1], "seeds": rows}


def decide(measured: dict[str, Any]) -> Verdict:
    """Whether the mean share that is kept is surely above what was claimed."""
    shares = [row["taught"]["accuracy"] / measured["teacher"]["accuracy"] for row in measured["seeds"]]
    return at_least(shares, CLAIM.published, "share of the teacher's accuracy")


def looks(setup: Setup, seed: int) -> Evidence:
    """Data and settings of one training."""
    source = DataConfig(source="cifar100", valid_frac=0.04, train_limit=300 if setup.quick else 0)
    train = dataclasses.replace(TRAIN, seed=seed)
    if setup.quick:
        train = dataclasses.replace(train, epochs=1, precision="fp32", layout="contiguous", threads=1)
    data = load_data(source, setup.data_dir, progress=setup.progress)
    return fold.evidence(data, train=train, augment=AUGMENT, progress=setup.progress)


def epochs(setup: Setup) -> int:
    """Passes over the training split of teacher and taught student."""
    return 1 if setup.quick else TRAIN.epochs


def network(setup: Setup, width: float, seed: int) -> nn.Module:
    """The untrained network of that width."""
    torch.manual_seed(derive(seed, "init"))
    return he_init_(models.build(NAME, (3, 32, 32), 100, width=width / 4 if setup.quick else width))


def teacher(setup: Setup) -> tuple[nn.Module, dict[str, Any]]:
    """The trained teacher and how good it is; its run is kept in the folder of work, and goes on from there."""
    evidence = looks(setup, 0)
    fitted = fit(
        network(setup, TEACHER_WIDTH, 0),
        evidence.data,
        evidence.task,
        evidence.train,
        augment=AUGMENT,
        run_dir=setup.work / "teacher",
        resume=True,
        progress=setup.progress,
    )
    part = kept(setup.work, "teacher", _told(evidence), lambda: _scored(fitted.model, evidence, 0.0))
    return fitted.model, {key: value for key, value in part.items() if key != "seconds_s"}


def taught(setup: Setup, seed: int) -> dict[str, Any]:
    """A student that learnt from the teacher, scored; kept in the folder of work."""
    evidence = looks(setup, seed)

    def make() -> dict[str, Any]:
        student = network(setup, STUDENT_WIDTH, seed)
        made, report = fold.distill(teacher(setup)[0], DISTIL, evidence, student=student)
        return _scored(made, evidence, report.seconds)

    return kept(setup.work, f"taught-{seed}", _told(evidence) | {"distil": as_dict(DISTIL)}, make)


def alone(setup: Setup, seed: int, n_epochs: int) -> dict[str, Any]:
    """The same student trained on labels alone for so many passes, scored; kept in the folder of work."""
    evidence = looks(setup, seed)
    train = dataclasses.replace(evidence.train, epochs=n_epochs, label_smoothing=LABEL_SMOOTHING)
    evidence = fold.evidence(evidence.data, train=train, augment=AUGMENT, progress=setup.progress)

    def make() -> dict[str, Any]:
        model = network(setup, STUDENT_WIDTH, seed)
        fitted = fit(model, evidence.data, evidence.task, train, augment=AUGMENT, progress=setup.progress)
        return _scored(fitted.model, evidence, fitted.seconds)

    return kept(setup.work, f"alone-{n_epochs}-{seed}", _told(evidence), make)


def _told(evidence: Evidence) -> dict[str, Any]:
    """Everything a training depends on."""
    told: dict[str, Any] = {"train": as_dict(evidence.train), "augment": as_dict(AUGMENT)}
    return told | {"network": NAME, "widths": [TEACHER_WIDTH, STUDENT_WIDTH], "n_train": len(evidence.data.train)}


def _scored(model: nn.Module, evidence: Evidence, seconds_s: float) -> dict[str, Any]:
    """Accuracy on the test set, and size."""
    accuracy = evaluate(model, evidence.data.test, evidence.data.normalise, evidence.task)[1]
    return {
        "accuracy": round(accuracy, 4),
        "params": n_params(model),
        "macs": evidence.cost(model)["macs"],
        "epochs": evidence.train.epochs,
        "seconds_s": round(seconds_s, 1),
    }
