"""Problem folding: one question with K answers becomes K questions of yes and no.

Idea: many uses need one class only: is it a defect, is it my speaker? A network for K classes carries the others along.
Taken apart, each class is a small binary classifier of its own, which can be shipped, replaced or tuned alone;
together they still answer the old question.

Mathematics: z_k = log odds of class k against the rest, minimising mean BCE(σ(z_k), [y = k]); the answer is
argmax_k z_k for one label, all z_k > 0 for several. ``heads``: z_k = w_k · f + b_k on the features f that the network's
last layer takes in (or those of ``layer``), logistic regressions with C = 1 on features of unit variance.
``students``: z_k is a narrow copy of the network with one output.

Use when: classes are added, removed or thresholded one by one, or a device needs one or two of them. ``heads`` when
all run together, ``students`` when one runs alone.

Cost: ``heads`` one pass over ``samples`` training inputs and K regressions, no gradient; at inference as much as the
original. ``students``: K trainings; at inference K times the cost of a student, which pays only for few classes.

Pitfalls: K separate questions know nothing of each other: scores are not calibrated among themselves, and argmax is
usually a little worse than softmax. One against many is unbalanced: look at the recall of rare classes.

Source: Rifkin, Klautau 2004, "In defense of one-vs-all classification", JMLR 5. Deviation: none in ``heads``.

Evidence: tests/fold/test_one_vs_rest.py (each head against scikit-learn; alone equals its column).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dimwise.errors import DataError, ModelError, RecipeError
from dimwise.fold._components import logistic
from dimwise.fold._evidence import Evidence, FoldReport, compare
from dimwise.fold._extract import extractor
from dimwise.fold._factor import bare, fill_
from dimwise.fold._modules import swap_, working_copy
from dimwise.fold._teaching.students import student
from dimwise.fold.reduce import grid
from dimwise.measure import evaluating
from dimwise.recipe import config
from dimwise.seeds import derive
from dimwise.tasks import get
from dimwise.train.evaluate import predict_outputs
from dimwise.train.fit import fit


@config
class OneVsRestConfig:
    """How each class becomes a classifier."""

    way: Literal["heads", "students"] = "heads"
    """heads: a linear layer each on shared features; students: a narrow network each. Default: heads, in seconds."""
    layer: str = ""
    """For heads: name of the layer whose outputs are the features, maps averaged to 2 × 2; empty takes what the last
    dense layer takes in. Default: empty."""
    samples: Annotated[int, Field(ge=2)] = 5000
    """For heads: training inputs that are fitted to, drawn by seed. Default: enough for some hundred features."""
    scale: Annotated[float, Field(gt=0, le=1)] = 0.25
    """For students: width as a fraction of the network's. Default: a quarter; one class is an easier question."""
    epochs: Annotated[int, Field(ge=0)] = 0
    """For students: passes over the training split; 0 takes those of the training. Default: 0."""


class OneVsRest(nn.Module):
    """K binary classifiers side by side, on shared features or each on the input.

    Args:
        body: what all share; ``nn.Identity`` for students.
        heads: K modules from features to (B, 1) log odds.
        labels: K names.

    Returns of ``forward``: (B, K) log odds.

    Example:
        >>> both = OneVsRest(nn.Flatten(), [nn.Linear(4, 1), nn.Linear(4, 1)], ("cat", "dog"))
        >>> x = torch.randn(3, 4)
        >>> both(x).shape, torch.equal(both.alone("dog")(x), both(x)[:, 1:])
        (torch.Size([3, 2]), True)
    """

    def __init__(self, body: nn.Module, heads: Sequence[nn.Module], labels: Sequence[str]) -> None:
        super().__init__()
        self.body, self.heads = body, nn.ModuleList(heads)
        self.labels = tuple(labels)

    def forward(self, x: Tensor) -> Tensor:
        """Log odds of each class against the rest."""
        shared = self.body(x)
        return torch.cat([head(shared) for head in self.heads], 1)

    def alone(self, label: str | int) -> nn.Sequential:
        """A copy of one classifier with what it needs of the body: (B, 1) log odds of that class.

        Args:
            label: its name, or its place.

        Raises:
            ModelError: when there is no such class.
        """
        known = list(self.labels)
        place = known.index(label) if isinstance(label, str) and label in known else label
        if not isinstance(place, int) or not 0 <= place < len(known):
            raise ModelError(f"no class {label!r}", expected="one of: " + ", ".join(known))
        return nn.Sequential(deepcopy(self.body), deepcopy(self.heads[place])).train(self.training)


def one_vs_rest(model: nn.Module, config: OneVsRestConfig, evidence: Evidence) -> tuple[nn.Module, FoldReport]:
    """Take a classifier apart into one binary classifier a class.

    Args:
        model: a trained network with one output a class or label; it is not changed.
        config: heads or students.
        evidence: training data; the validation split for the scores of each class.

    Returns:
        (a :class:`OneVsRest` in evaluation mode, the report with precision, recall and F1 of each class on the
        validation split, before and after).

    Raises:
        UserError: when given something else than an ``nn.Module``.
        RecipeError: for a task without classes.
        ModelError: when the network has no dense layer at its end, or cannot be cut in front of it.
        DataError: without training data, or with features that are not finite.
        NonFiniteLoss: as in training.

    Source: see the card.
    """
    started = time.perf_counter()
    original, x = working_copy("one_vs_rest", model, evidence.example, evidence.seed)
    data = evidence.data
    if data.task not in ("classification", "multilabel"):
        raise RecipeError(f"one_vs_rest for the task {data.task!r}", expected="classes: classification or multilabel")
    if len(data.train) < 2:
        raise DataError(f"{data.name} has {len(data.train)} training inputs", expected="some of each class")
    made = (_heads if config.way == "heads" else _students)(original, x, config, evidence)
    made.to(x.device).eval()
    rows = _per_class(original, made, evidence)
    report = compare("one_vs_rest", config, evidence, model, made, layers=rows, untouched={}, started=started)
    return made, report


def _heads(model: nn.Module, x: Tensor, config: OneVsRestConfig, evidence: Evidence) -> OneVsRest:
    data = evidence.data
    if config.layer:
        parts = [extractor(model, config.layer)]
        with torch.no_grad():
            shrink = grid(tuple(parts[0](x).shape), 2)
        parts += [shrink] if shrink is not None else []
    else:
        parts = [extractor(model, _last_dense(model, x, data.n_outputs), before=True)]
    body = nn.Sequential(*parts, nn.Flatten()).eval()
    generator = torch.Generator().manual_seed(derive(evidence.seed, "one_vs_rest"))
    rows = torch.randperm(len(data.train), generator=generator)[: config.samples]
    seen = predict_outputs(body, data.train.inputs[rows], data.normalise).double()
    if not seen.isfinite().all():
        raise DataError("the features hold NaN or infinity", expected="finite numbers")
    mean, size = seen.mean(0), seen.std(0, correction=0)
    size = torch.where(size > 1e-9, size, 1.0)
    z, answers = ((seen - mean) / size).numpy(), _answers(data.train.targets[rows], data.n_outputs, data.task)
    heads = []
    for k in range(data.n_outputs):
        weight, bias = logistic(z, answers[:, k].numpy())
        w = torch.from_numpy(weight) / size
        head = bare(nn.Linear, len(w), 1)
        head.weight = nn.Parameter(w[None].float())
        head.bias = nn.Parameter(torch.tensor([bias - float(w @ mean)], dtype=torch.float32))
        heads.append(head)
    return OneVsRest(body, heads, data.labels)


def _students(model: nn.Module, x: Tensor, config: OneVsRestConfig, evidence: Evidence) -> OneVsRest:
    data = evidence.data
    last = _last_dense(model, x, data.n_outputs)
    heads = []
    for k in range(data.n_outputs):
        seed = derive(evidence.seed, "one_vs_rest", k)
        small = student(model, config.scale, evidence.example, seed=seed)
        old = small.get_submodule(last)
        assert isinstance(old, nn.Linear)
        new = bare(nn.Linear, old.in_features, 1)
        fill_(new, old.weight[:1], None if old.bias is None else old.bias[:1], old)  # as random as any row
        small = swap_(small, old, new)
        settings = dataclasses.replace(evidence.train, epochs=config.epochs or evidence.train.epochs, seed=seed)
        asked = dataclasses.replace(
            data,
            task="multilabel",
            labels=data.labels[k : k + 1],
            **{part: _question(getattr(data, part), k, data.n_outputs, data.task) for part in ("train", "valid")},
        )
        task = get("multilabel", label_smoothing=evidence.train.label_smoothing)
        fitted = fit(small, asked, task, settings, augment=evidence.augment, progress=evidence.progress)
        heads.append(fitted.model.cpu())
    return OneVsRest(nn.Identity(), heads, data.labels)


def _question(split: Any, k: int, n_outputs: int, kind: str) -> Any:
    return dataclasses.replace(split, targets=_answers(split.targets, n_outputs, kind)[:, k : k + 1].float())


def _answers(targets: Tensor, n_outputs: int, kind: str) -> Tensor:
    """(N, K) whether each input is of each class."""
    if kind == "multilabel":
        return targets > 0.5
    return targets[:, None] == torch.arange(n_outputs, device=targets.device)


def _last_dense(model: nn.Module, x: Tensor, n_outputs: int) -> str:
    """Name of the dense layer that puts out the scores."""
    order: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: order.append(name)

    dense = {name: m for name, m in model.named_modules() if type(m) is nn.Linear and name}
    handles = [module.register_forward_hook(note(name)) for name, module in dense.items()]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    last = order[-1] if order else ""
    if not last or dense[last].out_features != n_outputs:
        raise ModelError(
            f"{type(model).__name__} does not end in a dense layer with {n_outputs} outputs",
            expected="one output a class",
            next_step="Name the layer whose outputs are the features: one_vs_rest.layer, with way = heads.",
        )
    return last


def _per_class(before: nn.Module, after: nn.Module, evidence: Evidence) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class on the validation split, of both networks."""
    data = evidence.data
    if not len(data.valid):
        return [{"name": label} for label in data.labels]
    truth = _answers(data.valid.targets, data.n_outputs, data.task).cpu().numpy()
    said = []
    for model in (before, after):
        outputs = predict_outputs(model, data.valid.inputs, data.normalise)
        multi = data.task == "multilabel"
        said.append((outputs > 0 if multi else _answers(outputs.argmax(1), data.n_outputs, data.task)).numpy())
    rows = []
    for k, label in enumerate(data.labels):
        row: dict[str, Any] = {"name": label, "inputs": int(truth[:, k].sum())}
        row["f1_before"] = round(_scores(truth[:, k], said[0][:, k])[2], 6)
        after_all = _scores(truth[:, k], said[1][:, k])
        row |= {name: round(s, 6) for name, s in zip(("precision", "recall", "f1"), after_all, strict=True)}
        rows.append(row)
    return rows


def _scores(truth: np.ndarray, said: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where there is nothing to count."""
    right = int((truth & said).sum())
    precision, recall = right / max(1, int(said.sum())), right / max(1, int(truth.sum()))
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)
