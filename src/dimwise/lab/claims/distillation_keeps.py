"""N3: a distilled student of a fraction of the teacher's size keeps 92 % of the teacher's accuracy.

A teacher is trained on CIFAR-100, then students of several seeds learn from it. All are scored on the test set, and
the quotient of the two accuracies is what a student keeps. To see what distillation has to do with it, the same
students are also trained alone for equal time: a step that asks the teacher takes longer than one that looks its
answers up, as in epochs whose views were seen before. How much longer is measured first, the steps in turn, and the
student that is alone trains so many epochs more, with its learning rate spread over all of them. Taught students start
from blocks of the teacher; how far that start alone leads is measured too.
``benchmarks/distill.py`` makes its record of the same networks.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dimwise import fold, models
from dimwise.data import load as load_data
from dimwise.data.augment import AugmentConfig
from dimwise.data.config import DataConfig
from dimwise.data.grow import side_frac
from dimwise.fold import DistillConfig, Evidence
from dimwise.fold._teaching.teachers import ByIndex, by_asking, by_table, network_teacher
from dimwise.fold.distill import make_student, taught_by
from dimwise.lab.claims._frame import Claim, Setup, Verdict, at_least, kept
from dimwise.measure import n_params
from dimwise.models.init import he_init_
from dimwise.recipe import as_dict
from dimwise.seeds import derive
from dimwise.train import TrainConfig, evaluate, fit
from dimwise.train.loop import plain_step
from dimwise.train.optimizer import optimizer as optimizer_of
from dimwise.train.precision import choose

CLAIM = Claim(
    id="N3",
    statement="Distilling ResNet-152 into ResNet-18 keeps 92 % of its accuracy on CIFAR-100.",
    published=0.92,
    unit="share of the teacher's accuracy",
    scale="ResNet-56 into ResNet-20, networks made for 32 × 32 pixels: a third of the parameters, where ResNet-18 has "
    "a fifth of ResNet-152's; the student starts from those blocks of the teacher that it keeps; on the CIFAR-100 "
    "images at hand, one teacher that trains twice as long.",
)

TEACHER, STUDENT = "resnet56", "resnet20"
TRAIN = TrainConfig(
    epochs=20,
    batch_size=128,
    optimizer="nesterov",
    lr=0.2,
    weight_decay=5e-4,
    schedule="onecycle",
    init="he",
    keep="last",
)
TEACHER_EPOCHS = 40
"""Twice those of a student: deep and thin, it is not done after as many."""
AUGMENT = AugmentConfig(flip=True, crop=3, grow_from=0.625)
LABEL_SMOOTHING = 0.05
"""Of students trained alone, as in the recipe ``cifar100``; what a teacher has to teach would be blurred by it."""
DISTIL = DistillConfig(depth=1 / 3, scale=1.0, inherit=True, loss="dkd", standardise=False, weight=0.5, views=4)
"""As Zhao et al. teach thin residual networks, labels and teacher alike; the teacher sees four views of each image. Of
nine blocks a stage three stay: ResNet-20, with the weights that the teacher has there."""


def measure(setup: Setup) -> dict[str, Any]:
    """Accuracies on the test set of the teacher, and of students taught, started alike but not taught, and alone, one
    row a seed."""
    told = {"networks": [TEACHER, STUDENT], "distillation": as_dict(DISTIL), "step_ratio": step_ratio(setup)}
    rows = [
        {"seed": seed} | {way.__name__: way(setup, seed) for way in (taught, started, alone)}
        for seed in range(1 if setup.quick else setup.n_seeds)
    ]
    return told | {"teacher": teacher(setup)[1], "seeds": rows}


def decide(measured: dict[str, Any]) -> Verdict:
    """Whether the mean share that is kept is surely above what was claimed."""
    shares = [row["taught"]["accuracy"] / measured["teacher"]["accuracy"] for row in measured["seeds"]]
    return at_least(shares, CLAIM.published, "share of the teacher's accuracy")


def looks(setup: Setup, seed: int, n_epochs: int, *, label_smoothing: float = 0.0) -> Evidence:
    """Data and settings of one training."""
    source = DataConfig(source="cifar100", valid_frac=0.04, train_limit=300 if setup.quick else 0)
    train = dataclasses.replace(TRAIN, seed=seed, epochs=n_epochs, label_smoothing=label_smoothing)
    if setup.quick:
        train = dataclasses.replace(train, precision="fp32", layout="contiguous", threads=1)
    data = load_data(source, setup.data_dir, progress=setup.progress)
    return fold.evidence(data, train=train, augment=AUGMENT, progress=setup.progress)


def epochs(setup: Setup) -> int:
    """Passes over the training split of a taught student."""
    return 1 if setup.quick else TRAIN.epochs


def network(setup: Setup, name: str, seed: int) -> nn.Module:
    """The untrained network of that name."""
    torch.manual_seed(derive(seed, "init"))
    return he_init_(models.build(name, (3, 32, 32), 100, width=0.25 if setup.quick else 1.0))


def epochs_alone(ratio: dict[str, Any], n_epochs: int, views: int) -> int:
    """Epochs of the student alone that take as long as ``n_epochs`` with a teacher who is asked about new views only.

    The teacher sees images at their full size; a step of the student takes time as their area, which grows.

    >>> epochs_alone({"taught": {"median": 1.5}, "looked_up": {"median": 1.0}}, 30, views=0)
    53
    """
    areas = [side_frac(epoch, n_epochs, AUGMENT.grow_from) ** 2 for epoch in range(n_epochs)]
    taught, looked_up = ratio["taught"]["median"], ratio["looked_up"]["median"]
    n_asked = min(views, n_epochs) if views else n_epochs
    work = looked_up * sum(areas) + (taught - looked_up) * n_asked
    return math.ceil(n_epochs * work / sum(areas))


def step_ratio(setup: Setup, n_pairs: int = 25) -> dict[str, Any]:
    """How much longer a step takes that asks the teacher, or looks its answers up; in turn with a step of the student
    alone, on one batch at the full size of the images, in the arithmetic that trains fastest; kept."""
    evidence = looks(setup, 0, epochs(setup))
    return kept(setup.work, "ratio", _told(evidence), lambda: _ratios(setup, evidence, 3 if setup.quick else n_pairs))


def _ratios(setup: Setup, evidence: Evidence, n_pairs: int) -> dict[str, Any]:
    x = evidence.data.normalise(evidence.data.train.inputs[: evidence.train.batch_size])  # (B, 3, 32, 32)
    y = evidence.data.train.targets[: len(x)]
    student = network(setup, STUDENT, 0)
    arithmetic = choose(student, x, y, evidence.task, evidence.train, device=torch.device("cpu")).arithmetic
    student, x = arithmetic.model_(student).train(), arithmetic.inputs(x)
    ask = network_teacher(network(setup, TEACHER, 0))
    with arithmetic.context():
        table = ask(x)
    asked = taught_by(by_asking(ask), DISTIL, "classification")
    looked_up = taught_by(by_table(table), DISTIL, "classification")
    ways = (
        ("taught", asked, y, evidence.task),
        ("looked_up", looked_up, torch.arange(len(x)), ByIndex(evidence.task, y)),
        ("alone", plain_step, y, evidence.task),
    )
    rule = optimizer_of(student, dataclasses.replace(evidence.train, lr=1e-4))
    times: dict[str, list[float]] = {name: [] for name, *_ in ways}
    for _ in range(n_pairs + 2):
        for name, step, targets, task in ways:
            start = time.perf_counter()
            rule.zero_grad()
            with arithmetic.context():
                loss = step(student, x, targets, task)
            loss.backward()
            rule.step()
            times[name].append(time.perf_counter() - start)
    found = {name: _quotients(times[name][2:], times["alone"][2:]) for name in ("taught", "looked_up")}
    return found | {"arithmetic": arithmetic.name}


def _quotients(these: list[float], others: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(these, others, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "median": round(statistics.median(ratios), 4),
        "quartiles": [round(low, 4), round(high, 4)],
        "n": len(ratios),
    }


def teacher(setup: Setup) -> tuple[nn.Module, dict[str, Any]]:
    """The trained teacher and how good it is; its run is kept in the folder of work, and goes on from there."""
    evidence = looks(setup, 0, 1 if setup.quick else TEACHER_EPOCHS)
    fitted = fit(
        network(setup, TEACHER, 0),
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
    evidence = looks(setup, seed, epochs(setup))

    def make() -> dict[str, Any]:
        made, report = fold.distill(teacher(setup)[0], DISTIL, evidence)
        return _scored(made, evidence, report.seconds)

    return kept(
        setup.work,
        f"taught-{seed}",
        _told(evidence) | {"distil": as_dict(DISTIL), "teacher sees": "whole images"},
        make,
    )


def alone(setup: Setup, seed: int) -> dict[str, Any]:
    """The student from fresh weights, trained on labels alone for equal time, scored; kept in the folder of work."""
    return _untaught(setup, seed, "alone", lambda evidence: network(setup, STUDENT, seed))


def started(setup: Setup, seed: int) -> dict[str, Any]:
    """As :func:`alone`, from the weights that the taught student starts from: what inheriting does without teaching."""
    return _untaught(setup, seed, "started", lambda evidence: make_student(teacher(setup)[0], DISTIL, evidence))


def _untaught(setup: Setup, seed: int, name: str, build: Callable[[Evidence], nn.Module]) -> dict[str, Any]:
    n_epochs = epochs_alone(step_ratio(setup), epochs(setup), DISTIL.views)
    evidence = looks(setup, seed, n_epochs, label_smoothing=LABEL_SMOOTHING)

    def make() -> dict[str, Any]:
        model, data = build(evidence), evidence.data
        fitted = fit(model, data, evidence.task, evidence.train, augment=AUGMENT, progress=setup.progress)
        return _scored(fitted.model, evidence, fitted.seconds)

    return kept(setup.work, f"{name}-{n_epochs}-{seed}", _told(evidence), make)


def _told(evidence: Evidence) -> dict[str, Any]:
    """Everything a training depends on."""
    return {
        "train": as_dict(evidence.train),
        "augment": as_dict(AUGMENT),
        "teacher_epochs": TEACHER_EPOCHS,
        "networks": [TEACHER, STUDENT],
        "n_train": len(evidence.data.train),
    }


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
