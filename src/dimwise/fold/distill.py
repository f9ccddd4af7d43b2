"""Knowledge distillation: a small network learns from the outputs of a large one.

Idea: the trained network (teacher) says not only which class is right but how alike the others are. A narrower or
shallower network (student) that copies these soft answers learns more from each input than from labels alone.

Mathematics: L = (1 − α) · CE(z_s, y) + α · g · D(z_t, z_s) + λ · H, with z the raw scores of student and teacher.
kd: D = T² · KL(softmax(f(z_t) / T) ‖ softmax(f(z_s) / T)), with the temperature T, and T² keeping the gradient's size
as T grows. f standardises each sample, f(z) = (z − mean(z)) / std(z): the student then copies the order and the
proportions of the scores, not their size, which a small network cannot reach; of two classes only the order would be
left, so there f = identity. dkd: D = T² · (a · TCKD + b · NCKD), in which the divergence about the right class and the
one among the others are weighted apart; kd is a = 1 and b = 1 − p_y.
H: how far the student's features are from the teacher's, see hints. Several labels at once: KL of each label's
sigmoid, f = identity. Regression: mean squared distance of the outputs, no T.

Use when: a trained teacher exists and a network of another width, depth or family shall replace it; after pruning, to
recover. Gains most where the student is much smaller and labels are few.

Cost: training the student, each step with one more forward pass of the teacher; without augmentation the teacher is
asked once for each input, with ``views`` once for each of so many augmented views. Nothing at inference.

Pitfalls: a student far too small gains little (capacity gap). The teacher must see the very same augmented batch;
where images grow during the training, it sees them whole (hints compare both at the student's size). Label
smoothing in the teacher blurs what it has to teach. With standardised scores T works between 2 and 6; α near 1
suits good teachers only. A graph as teacher has no features to give hints, and sees whole pixels. A student that
inherits owes most to that start: ask what labels alone make of it (weight=0) before the teaching is praised.

Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2 (the loss); Sun, Ren, Li, Wang, Cao 2024, "Logit
standardization in knowledge distillation", CVPR, equation 10 (f); Zhao, Cui, Song, Qiu, Liang 2022, arXiv:2203.08679
(dkd); Romero et al. 2015, arXiv:1412.6550 (hints); Beyer et al. 2022, "A good teacher is patient and consistent", CVPR
(same views).

Evidence: tests/fold/test_distill.py (the losses against torch and by hand, invariances, kd as the sum of its two
parts); the student against the same student trained alone, from fresh and from inherited weights, in
benchmarks/distill.py.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from dimwise.data.batches import TensorBatches
from dimwise.data.grow import Shrinking
from dimwise.errors import ModelError, UserError, a_kind
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._modules import working_copy
from dimwise.fold._teaching import feature_hints, teachers
from dimwise.fold._teaching.divergence import (
    KINDS,
    check_kind,
    decoupled,
    divergence,
    says_more_than_order,
    standardise,
)
from dimwise.fold._teaching.students import seeded, student
from dimwise.measure import evaluating
from dimwise.models import build
from dimwise.models.config import known
from dimwise.models.init import he_init_
from dimwise.recipe import config
from dimwise.seeds import derive
from dimwise.tasks import Task
from dimwise.train.config import TrainConfig
from dimwise.train.fit import fit
from dimwise.train.loop import StepFunction

__all__ = ["KINDS", "DistillConfig", "distill", "distillation_loss", "divergence", "standardise", "student"]


@config
class DistillConfig:
    """How a student is made and taught."""

    scale: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Width of the student as a fraction of the teacher's (of the paper's, for a named student). Default: a
    half, a quarter of the work."""
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the blocks that the student keeps of each row of repeated ones. Default: all."""
    inherit: bool = False
    """Start from the teacher's weights in what the student keeps of it. Default: no, from fresh ones."""
    loss: Literal["kd", "dkd"] = "kd"
    """kd: one divergence over all classes; dkd: right class and others weighted apart. Default: kd, for any task."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    """T of the softmax, no unit; larger shows more of the unlikely classes. Default: Hinton's middle ground."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """α, share of the teacher in the loss; the labels have the rest. Default: half, since a teacher that was trained
    shortly holds its student back where it weighs more; Hinton's and Sun's experiments have 0.9."""
    strength: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """g, factor on the teacher's part, no unit; 0 takes 2 for standardised scores, whose gradient is smaller by their
    size and T, and 1 otherwise. Default: 0; Sun et al. take 10 for teachers trained for 240 epochs."""
    standardise: bool = True
    """Compare scores after standardising each sample (classification of three classes or more; of two scores only the
    order would be left). Default: on, so that size need not be copied."""
    target_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """For dkd: a, weight of how sure the teacher is of the right class. Default: the paper's."""
    others_weight: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """For dkd: b, weight of how alike it finds the others; up to 8 for teachers that are very sure. Default: the
    paper's for thin residual networks."""
    hints: str = ""
    """Layers whose features the student is led to: auto (what goes into the last layer), or names separated by commas,
    TEACHER:STUDENT where they differ. Default: none."""
    hints_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """λ, weight of the hints beside the rest. Default: 1; their loss starts at about 1."""
    cache: bool = True
    """Ask the teacher once for each training input, where augmentation leaves them as they are. Default: on."""
    views: Annotated[int, Field(ge=0)] = 8
    """Augmented views of each input that the teacher is asked about: after so many epochs the batches repeat. 0: it is
    asked about every batch of every epoch. Default: 8; more epochs then cost the student alone."""
    epochs: Annotated[int, Field(ge=0)] = 0
    """Passes over the training split; 0 takes those of the training. Default: 0."""
    student: Annotated[str, AfterValidator(lambda name: known(name) if name else name)] = ""
    """Name of the student's architecture; empty makes a smaller copy of the teacher. Default: empty."""


def distill(
    model: Any,
    config: DistillConfig,
    evidence: Evidence,
    *,
    student: nn.Module | None = None,
) -> tuple[nn.Module, FoldReport]:
    """Train a student to answer as ``model`` does; ``model`` is not changed.

    Args:
        model: the trained teacher: an ``nn.Module`` that takes normalised inputs and returns (B, K), or an exported
            graph (``onnx.ModelProto``) that takes raw ones.
        config: the student's size and the loss.
        evidence: data to learn from, and how the teacher was trained.
        student: the network to teach, instead of one made from ``config``; a copy of it is trained.

    Returns:
        (the trained student in evaluation mode, the report).

    Raises:
        UserError: when the teacher is neither, or a graph is asked for what only a network has.
        ModelError: when no student can be made, or its outputs have another shape than the teacher's.
        RecipeError: for a task without this distillation loss.
        NonFiniteLoss: as in training.
    """
    _check_teacher(model, config, evidence, has_student=student is not None)
    kind = evidence.data.task
    check_kind(kind, config.loss)
    started = time.perf_counter()
    network, example = None, evidence.example
    if isinstance(model, nn.Module):
        network, pair = working_copy("distill", model, example, evidence.seed)
        example = example.to(pair.device)
    device = example.device
    pupil = copy.deepcopy(student) if student is not None else make_student(model, config, evidence)
    if network is not None:
        ask = teachers.network_teacher(network.requires_grad_(False))
    else:
        ask = teachers.graph_teacher(model, evidence.data.normalise)
    _check_outputs(ask, pupil.to(device), example)
    settings = dataclasses.replace(
        evidence.train,
        epochs=config.epochs or evidence.train.epochs,
        seed=derive(evidence.seed, "distill"),
        compile="no" if config.hints else evidence.train.compile,  # what is compiled is not looked into
    )
    looks, small = _at_full_size(evidence, settings) if not config.hints else (evidence, None)
    lesson = teachers.by_asking(ask)
    if config.cache and config.weight > 0 and not config.hints:
        keeps = network if network is not None else model
        looks, lesson = teachers.lessons(keeps, ask, looks, views=config.views, epochs=settings.epochs)
    with _with_hints(pupil, network, config, evidence, device) as (learner, features):
        step = taught_by(lesson, config, kind, features, small)
        fit(learner, looks.data, looks.task, settings, augment=looks.augment, step=step, progress=evidence.progress)
    made = pupil.to(device).eval()
    layers, untouched = _compare(model, made, inherited=config.inherit and not config.student and student is None)
    report = compare("distill", config, evidence, model, made, layers=layers, untouched=untouched, started=started)
    return made, report


def taught_by(
    lesson: teachers.Lesson,
    config: DistillConfig,
    kind: str,
    features: Callable[[], Tensor] | None = None,
    small: Callable[[Tensor], Tensor] | None = None,
) -> StepFunction:
    """The training step of distillation.

    Args:
        lesson: where the teacher's answers to a batch come from.
        config: the loss.
        kind: the task's name.
        features: the loss of the hints, asked for after both forward passes; None without hints.
        small: what the student sees of a batch that the teacher sees whole; None: the same.
    """

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        outputs = model(x if small is None else small(x))
        if config.weight == 0 and features is None:
            return task.loss(outputs, y)
        taught, targets, real = lesson(x, y, task)
        loss = distillation_loss(outputs, taught, targets=targets, task=real, kind=kind, config=config)
        return loss if features is None else loss + config.hints_weight * features()

    return step


def _at_full_size(evidence: Evidence, settings: TrainConfig) -> tuple[Evidence, Shrinking | None]:
    """Where images grow, they do so for the student alone: a teacher answers worse about smaller ones."""
    augment, rows = evidence.augment, evidence.data.train.targets
    if augment is None or augment.grow_from == 1:
        return evidence, None
    n_batches = TensorBatches(rows, rows, settings.batch_size, seed=0).n_batches
    small = Shrinking(augment.grow_from, settings.epochs, n_batches)
    return dataclasses.replace(evidence, augment=dataclasses.replace(augment, grow_from=1.0)), small


@contextmanager
def _with_hints(
    pupil: nn.Module, network: nn.Module | None, config: DistillConfig, evidence: Evidence, device: torch.device
) -> Iterator[tuple[nn.Module, Callable[[], Tensor] | None]]:
    """What is trained, and the loss of the hints after each pair of forward passes; no hook is left afterwards."""
    if not config.hints or network is None:
        yield pupil, None
        return
    example = evidence.example.to(device)
    found = feature_hints.pairs(config.hints, network, pupil, example)
    with seeded(derive(evidence.seed, "hints")):
        learner = feature_hints.hinted(pupil, network, found, example)
    with (
        feature_hints.watching(network, [t for t, _ in found]) as seen_t,
        feature_hints.watching(pupil, [s for _, s in found]) as seen_s,
    ):
        yield learner, lambda: feature_hints.hint_loss(learner.regressors, seen_s, seen_t)


def distillation_loss(
    student_outputs: Tensor,
    teacher_outputs: Tensor,
    *,
    targets: Tensor,
    task: Task,
    kind: str,
    config: DistillConfig,
) -> Tensor:
    """The loss of distillation, L = (1 − α) · task loss + α · g · divergence from the teacher.

    Args:
        student_outputs: (B, K) raw scores z_s.
        teacher_outputs: (B, K) raw scores z_t, without gradient.
        targets: as the task takes them; mixed (float) targets too.
        task: whose loss compares outputs with targets.
        kind: classification | multilabel | regression.
        config: α = ``weight``, g = :func:`strength`, T = ``temperature``, f = ``standardise``, kd or dkd.

    Returns:
        () float32, nats per sample (squared units for regression).

    Source: Hinton et al. 2015, section 2; Sun et al. 2024, equation 10; Zhao et al. 2022, equation 7.

    Example:
        >>> from dimwise.tasks import get
        >>> z, y = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> half = DistillConfig(weight=0.5)
        >>> loss = distillation_loss(
        ...     z, 3 * z + 1, targets=y, task=get("classification"), kind="classification", config=half
        ... )
        >>> round(loss.item(), 4)  # the standardised scores agree: half the cross-entropy of 0.2395 is left
        0.1198
    """
    if config.loss == "dkd":
        check_kind(kind, config.loss)
        soft = decoupled(
            student_outputs,
            teacher_outputs,
            targets,
            temperature=config.temperature,
            standardised=config.standardise,
            target_weight=config.target_weight,
            others_weight=config.others_weight,
        )
    else:
        soft = divergence(
            student_outputs,
            teacher_outputs,
            kind=kind,
            temperature=config.temperature,
            standardised=config.standardise,
        )
    soft = strength(config, kind, student_outputs.shape[1]) * soft
    if config.weight == 1:
        return soft
    return (1 - config.weight) * task.loss(student_outputs, targets) + config.weight * soft


def strength(config: DistillConfig, kind: str, n_classes: int) -> float:
    """g of the loss: stronger where scores are standardised.

    Source: Sun et al. 2024, section 5, take 9 beside 0.1 of the labels' loss: g = 10 with α = 0.9.
    Deviation: 2, with α = 0.5. After the short trainings that are usual here, theirs cost half a point.

    Example:
        >>> strength(DistillConfig(), "classification", 10), strength(DistillConfig(), "regression", 1)
        (2.0, 1.0)
    """
    standardised = config.standardise and kind == "classification" and says_more_than_order(n_classes)
    return config.strength or (2.0 if standardised else 1.0)


def keeps_part(config: DistillConfig) -> bool:
    """Whether the student is made of the teacher's blocks or weights, so that the teacher must be a network.

    Example:
        >>> keeps_part(DistillConfig(scale=0.5)), keeps_part(DistillConfig(depth=0.5))
        (False, True)
    """
    return not config.student and (config.depth < 1 or config.inherit)


def make_student(model: nn.Module, config: DistillConfig, evidence: Evidence) -> nn.Module:
    """The untrained student that a config asks for: of a named architecture, or a smaller copy of the teacher."""
    seed = derive(evidence.seed, "student")
    if not config.student:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        example = evidence.example.to(device)
        made = student(model, config.scale, example, depth=config.depth, inherit=config.inherit, seed=seed)
    else:
        with seeded(seed):
            data = evidence.data
            made = build(
                config.student, data.input_shape, data.n_outputs, width=config.scale, vocabulary=data.vocabulary
            )
    if evidence.train.init == "he" and not (config.inherit and not config.student):
        he_init_(made, generator=torch.Generator().manual_seed(seed))
    return made


def _check_teacher(model: Any, config: DistillConfig, evidence: Evidence, *, has_student: bool) -> None:
    if isinstance(model, nn.Module):
        return
    if type(model).__name__ != "ModelProto":
        raise UserError(
            f"distill was given {a_kind(model)}",
            expected="a trained torch.nn.Module or an onnx.ModelProto as teacher",
            next_step="Load an artifact's graph with onnx.load(path).",
        )
    if not has_student and not config.student:
        raise UserError(
            "the teacher is an exported graph, which has no layers to make a smaller copy of",
            expected="the student's architecture",
            next_step="Name it: distill.student, or student=.",
        )
    if config.hints:
        raise UserError(
            f"distill.hints is {config.hints!r} and the teacher is an exported graph, of which only outputs are known",
            expected="a torch.nn.Module as teacher",
            next_step="Set distill.hints=''.",
        )


def _check_outputs(ask: teachers.Teacher, pupil: nn.Module, example: Tensor) -> None:
    with evaluating(pupil):
        try:
            given, wanted = tuple(pupil(example).shape), tuple(ask(example).shape)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ModelError(
                f"the student cannot take an input of shape {tuple(example.shape)}: {str(error).splitlines()[0]}",
                expected="the teacher's input",
            ) from None
    if given != wanted:
        raise ModelError(
            f"the student returns {given} for one input",
            expected=f"the teacher's {wanted}",
            next_step="Build it with the same number of outputs.",
        )


def _compare(teacher: Any, made: nn.Module, *, inherited: bool) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Weights of the student beside those of the same name in the teacher."""
    named = teacher.named_parameters() if isinstance(teacher, nn.Module) else ()
    before = {name: list(p.shape) for name, p in named}
    rows, same = [], {}
    for name, parameter in made.named_parameters():
        layer, shape = name.rpartition(".")[0] or name, list(parameter.shape)
        if parameter.dim() < 2:
            continue
        if before.get(name) == shape:
            same[layer] = f"as wide as the teacher's; trained {'on' if inherited else 'anew'}"
        else:
            rows.append({"name": layer, "shape_before": before.get(name), "shape_after": shape})
    return rows, same
