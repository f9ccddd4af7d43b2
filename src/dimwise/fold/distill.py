"""Knowledge distillation: a small network learns from the outputs of a large one.

Idea: the trained network (teacher) says not only which class is right but how alike the others are. A narrower
network (student) that copies these soft answers learns more from each input than from labels alone.

Mathematics: L = (1 − α) · CE(z_s, y) + α · T² · KL(softmax(f(z_t) / T) ‖ softmax(f(z_s) / T)), with z the raw
scores of student and teacher, T the temperature, and T² keeping the gradient's size as T grows. f standardises
each sample, f(z) = (z − mean(z)) / std(z): the student then copies the order and the proportions of the scores,
not their size, which a small network cannot reach. Several labels at once: KL of each label's sigmoid, f =
identity. Regression: mean squared distance of the outputs, no T.

Use when: a trained teacher exists and a network of another width (or another family) shall replace it; after
pruning, to recover. Gains most where the student is much smaller and labels are few.

Cost: training the student, each step with one more forward pass of the teacher. Nothing at inference.

Pitfalls: a student far too small gains little (capacity gap). The teacher must see the very same augmented
batch. Label smoothing in the teacher blurs what it has to teach. With standardised scores T works between 2 and
6; α near 1 suits good teachers only.

Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2 (the loss); Sun, Ren, Li, Wang, Cao 2024, "Logit
standardization in knowledge distillation", CVPR, equation 10 (f); Beyer et al. 2022, "A good teacher is patient
and consistent", CVPR (same views).

Evidence: tests/fold/test_distill.py (the loss against torch and by hand, invariances); the student against the
same student trained alone in benchmarks/.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from dimwise.errors import ModelError, RecipeError, UserError, nearest
from dimwise.fold._cut import cut, disagreement
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._trace import trace
from dimwise.measure import evaluating
from dimwise.models import build
from dimwise.models.config import known
from dimwise.models.init import he_init_
from dimwise.recipe import config
from dimwise.seeds import derive
from dimwise.tasks import Task
from dimwise.train.fit import fit
from dimwise.train.loop import StepFunction


@config
class DistillConfig:
    """How a student is made and taught."""

    scale: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Width of the student as a fraction of the teacher's (of the paper's, for a named student). Default: a
    half, a quarter of the work."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    """T of the softmax, no unit; larger shows more of the unlikely classes. Default: Hinton's middle ground."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.9
    """α, share of the teacher in the loss; the labels have the rest. Default: as in Hinton's and Sun's
    experiments."""
    standardise: bool = True
    """Compare scores after standardising each sample (classification only). Default: on, so that size need not
    be copied."""
    epochs: Annotated[int, Field(ge=0)] = 0
    """Passes over the training split; 0 takes those of the training. Default: 0."""
    student: Annotated[str, AfterValidator(lambda name: known(name) if name else name)] = ""
    """Name of the student's architecture; empty makes a narrower copy of the teacher. Default: empty."""


KINDS = ("classification", "multilabel", "regression")
"""Tasks that have a distillation loss."""


def distill(
    model: nn.Module,
    config: DistillConfig,
    evidence: Evidence,
    *,
    student: nn.Module | None = None,
) -> tuple[nn.Module, FoldReport]:
    """Train a student to answer as ``model`` does; ``model`` is not changed.

    Args:
        model: the trained teacher; takes normalised inputs, returns (B, K).
        config: the student's size and the loss.
        evidence: data to learn from, and how the teacher was trained.
        student: the network to teach, instead of one made from ``config``; a copy of it is trained.

    Returns:
        (the trained student in evaluation mode, the report).

    Raises:
        UserError: when the teacher is no ``nn.Module``.
        ModelError: when no student can be made, or its outputs have another shape than the teacher's.
        RecipeError: for a task without a distillation loss.
        NonFiniteLoss: as in training.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"distill was given a {type(model).__name__}",
            expected="a trained torch.nn.Module as teacher",
            next_step="Distill before exporting.",
        )
    _check_kind(evidence.data.task)
    started = time.perf_counter()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    pupil = copy.deepcopy(student) if student is not None else make_student(model, config, evidence)
    _check_outputs(teacher, pupil.to(device), evidence.example.to(device))
    settings = dataclasses.replace(
        evidence.train,
        epochs=config.epochs or evidence.train.epochs,
        seed=derive(evidence.seed, "distill"),
    )
    fitted = fit(
        pupil,
        evidence.data,
        evidence.task,
        settings,
        augment=evidence.augment,
        step=teaching_step(teacher, config, evidence.data.task),
        progress=evidence.progress,
    )
    made = fitted.model.to(device)
    layers, untouched = _compare(model, made)
    report = compare("distill", config, evidence, model, made, layers=layers, untouched=untouched, started=started)
    return made, report


def teaching_step(teacher: nn.Module, config: DistillConfig, kind: str) -> StepFunction:
    """A training step whose loss asks the teacher about the very batch that the student sees.

    Args:
        teacher: in evaluation mode, without gradients.
        config: the loss.
        kind: the task's name.
    """
    place: list[torch.device] = []  # where the teacher is: moved once, to where the batches are

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        outputs = model(x)
        if config.weight == 0:
            return task.loss(outputs, y)
        if place != [x.device]:
            teacher.to(x.device)
            place[:] = [x.device]
        with torch.no_grad():
            taught = teacher(x)
        return distillation_loss(outputs, taught, targets=y, task=task, kind=kind, config=config)

    return step


def distillation_loss(
    student_outputs: Tensor,
    teacher_outputs: Tensor,
    *,
    targets: Tensor,
    task: Task,
    kind: str,
    config: DistillConfig,
) -> Tensor:
    """The loss of distillation, L = (1 − α) · task loss + α · divergence from the teacher.

    Args:
        student_outputs: (B, K) raw scores z_s.
        teacher_outputs: (B, K) raw scores z_t, without gradient.
        targets: as the task takes them; mixed (float) targets too.
        task: whose loss compares outputs with targets.
        kind: classification | multilabel | regression.
        config: α = ``weight``, T = ``temperature``, f = ``standardise``.

    Returns:
        () float32, nats per sample (squared units for regression).

    Source: Hinton et al. 2015, section 2; Sun et al. 2024, equation 10.

    Example:
        >>> from dimwise.tasks import get
        >>> z, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> half = DistillConfig(weight=0.5)
        >>> loss = distillation_loss(
        ...     z, 3 * z + 1, targets=y, task=get("classification"), kind="classification", config=half
        ... )
        >>> round(loss.item(), 4)  # the standardised scores agree: half the cross-entropy of 0.1269 is left
        0.0635
    """
    soft = divergence(
        student_outputs,
        teacher_outputs,
        kind=kind,
        temperature=config.temperature,
        standardised=config.standardise,
    )
    if config.weight == 1:
        return soft
    return (1 - config.weight) * task.loss(student_outputs, targets) + config.weight * soft


def divergence(
    student_outputs: Tensor, teacher_outputs: Tensor, *, kind: str, temperature: float, standardised: bool
) -> Tensor:
    """How far the student's answers are from the teacher's; 0 when they agree.

    classification: T² · mean_B KL(softmax(f(z_t)/T) ‖ softmax(f(z_s)/T));
    multilabel: T² · mean over samples and labels of KL(σ(z_t/T) ‖ σ(z_s/T)) of yes and no;
    regression: mean (z_s − z_t)².

    Args:
        student_outputs: (B, K) or (B, K, ...) raw scores.
        teacher_outputs: the same shape.
        kind: the task's name.
        temperature: T > 0, no unit.
        standardised: f is :func:`standardise` instead of the identity; classification only.

    Returns:
        () float32; nats per sample (per label; squared units).

    Raises:
        RecipeError: for a task that has none.

    Deviation: Sun et al. divide by the deviation with K − 1; so does this, but constant scores are only centred.
    """
    _check_kind(kind)
    z_s, z_t = student_outputs.float(), teacher_outputs.float()  # (B, K, ...); half precision has too few digits
    if kind == "regression":
        return F.mse_loss(z_s, z_t)
    if kind == "multilabel":
        z_s, z_t = z_s / temperature, z_t / temperature
        yes = z_t.sigmoid() * (F.logsigmoid(z_t) - F.logsigmoid(z_s))
        no = (-z_t).sigmoid() * (F.logsigmoid(-z_t) - F.logsigmoid(-z_s))
        return temperature**2 * (yes + no).mean()
    if standardised:
        z_s, z_t = standardise(z_s), standardise(z_t)
    log_s, log_t = (z_s / temperature).log_softmax(1), (z_t / temperature).log_softmax(1)
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)  # (B, ...)
    return temperature**2 * kl.mean()


def standardise(scores: Tensor) -> Tensor:
    """Zero mean and unit deviation over the classes of each sample, f(z) = (z − mean) / std.

    Args:
        scores: (B, K, ...) float.

    Returns:
        The same shape; scores that are all equal become 0, with a finite gradient.

    Source: Sun et al. 2024, algorithm 1.

    Example:
        >>> standardise(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
        tensor([[-1.,  0.,  1.], [ 0.,  0.,  0.]])
    """
    if scores.shape[1] < 2:
        return scores - scores
    centred = scores - scores.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / (scores.shape[1] - 1)
    flat = variance < 1e-12  # √ has no gradient at 0
    return centred / torch.where(flat, 1.0, variance).sqrt()


def make_student(model: nn.Module, config: DistillConfig, evidence: Evidence) -> nn.Module:
    """The untrained student that a config asks for: of a named architecture, or a narrower copy of the teacher."""
    seed = derive(evidence.seed, "student")
    if not config.student:
        made = student(model, config.scale, evidence.example, seed=seed)
    else:
        with _seeded(seed):
            data = evidence.data
            made = build(config.student, data.input_shape, data.n_outputs, width=config.scale)
    if evidence.train.init == "he":
        he_init_(made, generator=torch.Generator().manual_seed(seed))
    return made


def student(model: nn.Module, scale: float, example: Tensor, *, seed: int = 0) -> nn.Module:
    """A narrower network of the same build as any given one, with fresh weights.

    Every set of channels that belong together keeps the same share of them; layers keep their number and kind.

    Args:
        model: any module that can be traced; not changed.
        scale: share of the channels to keep, 0 < scale <= 1; above 8, a multiple of 4.
        example: (1, ...) input of the network.
        seed: of the fresh weights.

    Returns:
        A new network on the device of ``example``, in training mode. Parameters that stand alone, outside any
        layer, keep (part of) the values they had, as nothing says how they were drawn.

    Raises:
        ModelError: when the network cannot be traced, or none of its channels can leave.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> [p.shape[0] for p in student(net, 0.5, torch.zeros(1, 4)).parameters()]
        [3, 3, 2, 2]
    """
    if not 0 < scale <= 1:
        raise ModelError(f"the student's scale is {scale}", expected="above 0 and at most 1")
    pair = torch.cat([example, example])  # two samples keep the batch apart from dimensions of size one
    channels = trace(model, pair)
    if not channels.groups:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in channels.untouched.items())
        raise ModelError(
            f"no channel of {type(model).__name__} can leave" + (f" ({why})" if why else ""),
            expected="a network with a hidden layer",
            next_step="Name another student: distill.student, or student=.",
        )
    alive = channels.all_alive()
    for group in channels.groups:
        alive[group.classes[_n_kept(len(group.classes), scale) :]] = False
    problem = disagreement(model, channels, alive, pair)
    if problem is not None:
        raise ModelError(
            f"{type(model).__name__} cannot be made narrower: {problem}",
            expected="a forward pass without channel numbers written into it",
            next_step="Name another student: distill.student, or student=.",
        )
    made = cut(model, channels, alive).cpu().train().requires_grad_(True)
    with _seeded(seed):  # on the CPU, so that every device starts from the same weights
        for module in made.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
    return made.to(example.device)


def _n_kept(n: int, scale: float) -> int:
    kept = max(1, round(n * scale))
    return min(n, 4 * round(kept / 4)) if 8 < kept < n else kept


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generator on the CPU seeded inside, as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RecipeError(
            f"no distillation loss for the task {kind!r}",
            expected="one of: " + ", ".join(KINDS),
            next_step=nearest(kind, KINDS),
        )


def _check_outputs(teacher: nn.Module, pupil: nn.Module, example: Tensor) -> None:
    with evaluating(pupil):
        try:
            given, wanted = tuple(pupil(example).shape), tuple(teacher(example).shape)
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


def _compare(teacher: nn.Module, made: nn.Module) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Weights of the student beside those of the same name in the teacher."""
    before = {name: list(p.shape) for name, p in teacher.named_parameters()}
    rows, same = [], {}
    for name, parameter in made.named_parameters():
        layer, shape = name.rpartition(".")[0] or name, list(parameter.shape)
        if parameter.dim() < 2:
            continue
        if before.get(name) == shape:
            same[layer] = "as wide as the teacher's; trained anew"
        else:
            rows.append({"name": layer, "shape_before": before.get(name), "shape_after": shape})
    return rows, same
