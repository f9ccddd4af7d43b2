"""Feature hints: inner layers of the student are led towards inner layers of the teacher (FitNets).

At each pair of layers a regressor r, a 1 × 1 convolution or a dense layer, brings the student's features h_s to the
teacher's channels; maps of another size are averaged to the smaller one. The loss is the mean over the pairs of
‖r(h_s) − h_t‖² / ‖h_t‖², 1 for a regressor that says nothing, 0 for features that can be read off. The regressors learn
along and are thrown away.

Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2015, "FitNets: hints for thin deep nets", arXiv:1412.6550,
equation 3. Deviation: no stage of its own before the training, and a scale-free distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimwise.errors import ModelError, first_line, nearest
from dimwise.measure import evaluating


@dataclass(frozen=True)
class Place:
    """A tensor on the way through a network."""

    layer: str
    at: Literal["input", "output"] = "output"


Pair = tuple[Place, Place]
"""Where the teacher and where the student is looked at."""


def pairs(told: str, teacher: nn.Module, student: nn.Module, example: Tensor) -> list[Pair]:
    """What ``distill.hints`` asks for.

    Args:
        told: ``auto``: what goes into the last layer; else layers separated by commas, each one name for both
            networks or ``TEACHER:STUDENT``.
        teacher: a network, on the device of ``example``.
        student: likewise.
        example: (1, ...) input of both.

    Raises:
        ModelError: for a layer that is not there, that is never called or whose features cannot be compared.
    """
    words = [word.strip() for word in told.split(",") if word.strip()]
    found = []
    for word in words:
        if word == "auto":
            found.append((_last(teacher, example), _last(student, example)))
            continue
        first, colon, second = word.partition(":")
        names = (first.strip(), (second if colon else first).strip())
        for network, name, whose in ((teacher, names[0], "teacher"), (student, names[1], "student")):
            _require(network, name, whose)
        found.append((Place(names[0]), Place(names[1])))
    return found


def _require(network: nn.Module, name: str, whose: str) -> None:
    known = [n for n, _ in network.named_modules() if n]
    if name not in known:
        raise ModelError(
            f"the {whose} has no layer {name!r} for a hint",
            expected="one of its modules, as in: " + ", ".join(known[:6]),
            next_step=nearest(name, known) or "See: dimwise model show.",
        )


def _last(network: nn.Module, example: Tensor) -> Place:
    """What goes into the layer that makes the outputs: the last one called that has a weight matrix or kernel."""
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in network.named_modules()
        if any(p is not None and p.dim() >= 2 for p in module._parameters.values())
    ]
    try:
        with evaluating(network):
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    if not called or not called[-1]:
        raise ModelError(
            f"{type(network).__name__} has no last layer that a hint could look into",
            expected="a network of layers",
            next_step="Name the layers: distill.hints='TEACHER_LAYER:STUDENT_LAYER', or set distill.hints=''.",
        )
    return Place(called[-1], "input")


@contextmanager
def watching(network: nn.Module, places: Sequence[Place]) -> Iterator[dict[int, Tensor]]:
    """Inside, what passes the places of each forward pass, by their number; no hook is left behind.

    Outputs are copies with their gradient, one activation more in memory for each place.
    """
    seen: dict[int, Tensor] = {}
    handles = []
    try:
        for number, place in enumerate(places):
            layer = network.get_submodule(place.layer)
            if place.at == "input":

                def before(_: nn.Module, args: tuple[Any, ...], number: int = number) -> None:
                    if args and isinstance(args[0], Tensor):
                        seen[number] = args[0]  # no copy: a layer with weights does not write over it

                handles.append(layer.register_forward_pre_hook(before))
            else:

                def after(_: nn.Module, __: Any, output: Any, number: int = number) -> None:
                    if isinstance(output, Tensor):
                        seen[number] = output.clone()  # an activation behind it may write over it

                handles.append(layer.register_forward_hook(after))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        seen.clear()


class Hinted(nn.Module):
    """A student with the regressors of its hints, so that both are trained; it answers as the student does."""

    def __init__(self, student: nn.Module, regressors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.regressors = nn.ModuleList(regressors)

    def forward(self, x: Tensor) -> Tensor:
        """The student's answer."""
        outputs: Tensor = self.student(x)
        return outputs


def hinted(student: nn.Module, teacher: nn.Module, found: Sequence[Pair], example: Tensor) -> Hinted:
    """The student with a fresh regressor for each pair; weights come from PyTorch's generator.

    Raises:
        ModelError: when a layer gives no tensor, or the two have different kinds of features.
    """
    sides = []
    for network, places in ((teacher, [t for t, _ in found]), (student, [s for _, s in found])):
        with watching(network, places) as seen, evaluating(network):
            try:
                network(example)
            except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
                raise ModelError(f"{type(network).__name__} cannot be looked into: {first_line(error)}") from None
            silent = next((p.layer for i, p in enumerate(places) if i not in seen), None)
            if silent is not None:
                raise ModelError(
                    f"the layer {silent!r} gives no tensor for a hint", expected="a module that is called once"
                )
            sides.append([seen[i] for i in range(len(places))])
    regressors = []
    for (place_t, place_s), h_t, h_s in zip(found, *sides, strict=True):
        if h_t.dim() != h_s.dim() or h_t.dim() < 2:
            raise ModelError(
                f"a hint compares {place_t.layer!r} of shape {tuple(h_t.shape)} with {place_s.layer!r} of shape "
                f"{tuple(h_s.shape)}",
                expected="features of as many dimensions",
                next_step="Name other layers.",
            )
        regressors.append(_regressor(h_s, h_t).to(example.device))
    return Hinted(student, regressors)


def _channels_last(h_s: Tensor, h_t: Tensor) -> bool:
    """(B, L, D) tokens rather than (B, C, L) a signal: the two agree about L."""
    return h_t.dim() == 3 and h_s.shape[1] == h_t.shape[1]


def _regressor(h_s: Tensor, h_t: Tensor) -> nn.Module:
    if h_t.dim() == 2 or _channels_last(h_s, h_t):
        return nn.Linear(h_s.shape[-1], h_t.shape[-1])
    kinds: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    return kinds[h_t.dim()](h_s.shape[1], h_t.shape[1], 1)


def hint_loss(
    regressors: Sequence[nn.Module] | nn.ModuleList, student: dict[int, Tensor], teacher: dict[int, Tensor]
) -> Tensor:
    """Mean over the pairs of ‖r(h_s) − h_t‖² / ‖h_t‖².

    Args:
        regressors: r of each pair.
        student: number of the pair -> h_s (B, C_s, ...).
        teacher: number of the pair -> h_t (B, C_t, ...), without gradient.

    Returns:
        () float32, no unit.

    Example:
        >>> h = torch.tensor([[3.0, 4.0]])
        >>> round(hint_loss([nn.Identity()], {0: torch.zeros(1, 2)}, {0: h}).item(), 3)
        1.0
    """
    parts = []
    for number, regressor in enumerate(regressors):
        h_s, h_t = student[number], teacher[number].detach().float()
        if not (h_t.dim() == 2 or _channels_last(h_s, h_t)):
            sizes = tuple(min(a, b) for a, b in zip(h_s.shape[2:], h_t.shape[2:], strict=True))
            h_s, h_t = _averaged(h_s, sizes), _averaged(h_t, sizes)
        h_s = regressor(h_s).float()
        parts.append((h_s - h_t).square().sum() / (h_t.square().sum() + 1e-6 * h_t.numel()))  # dead features are 0
    return torch.stack(parts).mean()


def _averaged(h: Tensor, sizes: tuple[int, ...]) -> Tensor:
    if tuple(h.shape[2:]) == sizes:
        return h
    pools = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
    made: Tensor = pools[len(sizes)](h, sizes)  # type: ignore[arg-type]
    return made
