"""How far a student's answers are from its teacher's: the losses of distillation on outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dimwise.errors import RecipeError, nearest

KINDS = ("classification", "multilabel", "regression")
"""Tasks that have a distillation loss."""


def check_kind(kind: str, loss: str = "kd") -> None:
    """Make sure that the task has the loss.

    Raises:
        RecipeError: for a task without any, and for ``dkd`` where no single class is the right one.
    """
    if kind not in KINDS:
        raise RecipeError(
            f"no distillation loss for the task {kind!r}",
            expected="one of: " + ", ".join(KINDS),
            next_step=nearest(kind, KINDS),
        )
    if loss == "dkd" and kind != "classification":
        raise RecipeError(
            f"distill.loss is 'dkd' for the task {kind!r}",
            expected="classification, where one class is the right one",
            next_step="Set distill.loss='kd'.",
        )


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
        standardised: f is :func:`standardise` instead of the identity; classification of three classes or more.

    Returns:
        () float32; nats per sample (per label; squared units).

    Raises:
        RecipeError: for a task that has none.

    Deviation: Sun et al. divide by the deviation with K − 1; so does this, but constant scores are only centred, and
    two scores stay as they are, see :func:`says_more_than_order`.
    """
    check_kind(kind)
    z_s, z_t = student_outputs.float(), teacher_outputs.float()  # (B, K, ...); half precision has too few digits
    if kind == "regression":
        return F.mse_loss(z_s, z_t)
    if kind == "multilabel":
        z_s, z_t = z_s / temperature, z_t / temperature
        yes = z_t.sigmoid() * (F.logsigmoid(z_t) - F.logsigmoid(z_s))
        no = (-z_t).sigmoid() * (F.logsigmoid(-z_t) - F.logsigmoid(-z_s))
        return temperature**2 * (yes + no).mean()
    if standardised and says_more_than_order(z_s.shape[1]):
        z_s, z_t = standardise(z_s), standardise(z_t)
    log_s, log_t = (z_s / temperature).log_softmax(1), (z_t / temperature).log_softmax(1)
    kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)  # (B, ...)
    return temperature**2 * kl.mean()


def decoupled(
    student_outputs: Tensor,
    teacher_outputs: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    standardised: bool,
    target_weight: float,
    others_weight: float,
) -> Tensor:
    """The divergence in two parts that are weighted apart, T² · mean_B (α · TCKD + β · NCKD).

    With p = softmax(f(z_t)/T), q = softmax(f(z_s)/T) and y the right class: TCKD = KL((p_y, 1 − p_y) ‖ (q_y, 1 − q_y)),
    how sure the teacher is; NCKD = KL(p̂ ‖ q̂) with p̂_k = p_k / (1 − p_y), k ≠ y, how alike it finds the others. The
    plain divergence is TCKD + (1 − p_y) · NCKD: where the teacher is sure, the second part counts for nothing.

    Args:
        student_outputs: (B, K) or (B, K, ...) raw scores.
        teacher_outputs: the same shape.
        targets: (B, ...) integer classes; of mixed (B, K, ...) targets the heaviest class counts.
        temperature: T > 0, no unit.
        standardised: f is :func:`standardise` instead of the identity, for three classes or more.
        target_weight: α.
        others_weight: β.

    Returns:
        () float32, nats per sample.

    Source: Zhao, Cui, Song, Qiu, Liang 2022, "Decoupled knowledge distillation", arXiv:2203.08679, equations 5 to 7.

    Example:
        >>> z_s, z_t, y = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
        >>> half = {"temperature": 1.0, "standardised": False}
        >>> sure, alike = (
        ...     decoupled(z_s, z_t, y, target_weight=a, others_weight=1 - a, **half).item() for a in (1.0, 0.0)
        ... )
        >>> p_y = z_t.softmax(1)[0, 0].item()
        >>> whole = divergence(z_s, z_t, kind="classification", **half).item()
        >>> abs(sure + (1 - p_y) * alike - whole) < 1e-6
        True
    """
    z_s, z_t = student_outputs.float(), teacher_outputs.float()
    if z_s.shape[1] < 2:
        return (z_s - z_s).sum()  # one class only: nothing to be sure of
    if standardised and says_more_than_order(z_s.shape[1]):
        z_s, z_t = standardise(z_s), standardise(z_t)
    z_s, z_t = z_s / temperature, z_t / temperature
    if targets.is_floating_point():
        targets = targets.argmax(1)
    right = torch.zeros_like(z_t, dtype=torch.bool).scatter_(1, targets.long().unsqueeze(1), True)  # (B, K, ...)
    (target_t, others_t), (target_s, others_s) = _parted(z_t, right), _parted(z_s, right)
    sure = F.kl_div(target_s, target_t, reduction="none", log_target=True).sum(1)  # (B, ...)
    alike = F.kl_div(others_s, others_t, reduction="none", log_target=True).sum(1)  # the right class is 0 in both
    return temperature**2 * (target_weight * sure + others_weight * alike).mean()


def _parted(z: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2, ...) of the right class and of any other, and (B, K, ...) among the others alone."""
    log_all = z.logsumexp(1, keepdim=True)
    log_others = z.masked_fill(right, -torch.inf).logsumexp(1, keepdim=True)
    log_right = z.masked_fill(~right, -torch.inf).logsumexp(1, keepdim=True)
    parts = torch.cat([log_right - log_all, log_others - log_all], 1)
    return parts, (z - log_others).masked_fill(right, 0)


def says_more_than_order(n_classes: int) -> bool:
    """Whether standardised scores tell more than which is larger: of two they are always ±1/√2, and have no gradient.

    Example:
        >>> hardly_and_very_sure = standardise(torch.tensor([[0.0, 0.1], [0.0, 9.0]]))[:, 1]
        >>> [round(z, 4) for z in hardly_and_very_sure.tolist()]
        [0.7071, 0.7071]
        >>> says_more_than_order(2), says_more_than_order(3)
        (False, True)
    """
    return n_classes > 2


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
