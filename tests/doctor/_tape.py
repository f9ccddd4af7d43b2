"""Observations written by hand: a tape of a training loop, event by event."""

from __future__ import annotations

from typing import Any

from dimwise.doctor.finding import Finding, NotChecked, Place
from dimwise.doctor.seen import BatchesSeen, Event, LayerSeen, OptimizerSeen, RootSeen, Seen

FORWARD, LOSS, BACKWARD, STEP, ZERO, CLIP, TEST = 46, 47, 48, 50, 45, 49, 60


def line(n: int, function: str = "") -> Place:
    return Place("/home/someone/train.py", n, function)


class Tape:
    """Writes events as the watcher does; ``seen`` is what the rules get."""

    def __init__(self, *, kind: str = "SGD", n_mode_modules: int = 2, lr: float = 0.1) -> None:
        self.seen = Seen()
        self.seen.roots[0] = RootSeen(0, "Net", n_params=1000, n_trainable=1000, n_mode_modules=n_mode_modules)
        self.seen.roots[0].place = line(FORWARD)
        self.add_optimizer(0, kind, lr)

    def add_optimizer(
        self, key: int, kind: str = "SGD", lr: float = 0.1, roots: tuple[int, ...] = (0,)
    ) -> OptimizerSeen:
        made = OptimizerSeen(key, kind, line(12 + key), n_params=1000, n_tensors=4, roots=roots)
        made.groups = [{"lr": lr, "weight_decay": 0.0, "momentum": 0.0, "n_tensors": 4, "n_small": 2}]
        made.lr_history = [(0, (lr,))]
        self.seen.optimizers[key] = made
        return made

    def event(self, kind: str, who: int | None, place: Place | None, **facts: Any) -> Event:
        made = Event(kind, self.seen.n_steps, who, place, facts)
        self.seen.events.append(made)
        return made

    def forward(
        self, root: int = 0, *, training: bool = True, grad: bool = True, at: int = FORWARD, **facts: Any
    ) -> None:
        n = self.seen.roots[root].n_mode_modules
        facts = {"modes": (n, 0) if training else (0, n), "batch": None, **facts}
        self.event("forward", root, line(at), training=training, grad=grad, **facts)

    def loss(
        self, root: int = 0, *, value: float = 1.0, grad: bool = True, training: bool = True, **facts: Any
    ) -> None:
        facts = {"name": "cross_entropy", "input_shape": (32, 10), **facts}
        self.event("loss", root, line(LOSS), value=value, grad=grad, training=training, **facts)

    def backward(
        self,
        reached: tuple[int, ...] = (0,),
        *,
        who: int | None = 0,
        value: float = 1.0,
        at: int = BACKWARD,
        **facts: Any,
    ) -> None:
        facts = {
            "grad_fn": "NllLossBackward0",
            "loss": "cross_entropy",
            "reduction": "mean",
            "scaled": False,
            "retain": False,
            "alive": 0,
            **facts,
        }
        self.event("backward", who, line(at), value=value, reached=reached, **facts)
        self.seen.n_backward += 1
        self.seen.loss_history.append((self.seen.n_steps, value, who))
        if who is not None:
            self.seen.roots[who].n_train_forwards += 1

    def zero(self, key: int | None = 0, *, at: int = ZERO, had_grads: bool = True) -> None:
        self.event("zero_grad", key, line(at), had_grads=had_grads)

    def clip(self, *, fresh: bool, max_norm: float = 1.0, total_norm: float = 5.0) -> None:
        self.event("clip", 0, line(CLIP), method="norm", fresh=fresh, max_norm=max_norm, total_norm=total_norm)

    def step(
        self, key: int = 0, *, grads: str = "some", stale: bool = False, n_backward: int = 1, **facts: Any
    ) -> None:
        told = self.seen.optimizers[key]
        facts = {"grad_norm": 1.0, "closure": False, "lrs": told.lr_history[-1][1], **facts}
        self.event("step", key, line(STEP), grads=grads, stale=stale, n_backward=n_backward, **facts)
        told.n_steps += 1
        self.seen.n_steps += 1
        self.seen.n_watched_steps += 1

    def healthy(self, n: int, **backward: Any) -> Tape:
        for _ in range(n):
            self.zero()
            self.forward()
            self.loss()
            self.backward(**backward)
            self.step()
        return self

    def batches(self, key: int, **facts: Any) -> BatchesSeen:
        made = BatchesSeen(key, **{"purpose": "eval", "root": 0, "n_batches": 4, "n_hashed": 128, **facts})
        self.seen.batches[key] = made
        return made

    def layer(self, path: str, order: int, *, root: int = 0, kind: str = "Linear", **facts: Any) -> LayerSeen:
        made = LayerSeen(
            path,
            kind,
            order=order + 1,  # as the watcher counts: 0 was never called
            **{
                "shape": (64, 64),
                "n_params": 4096,
                "optimizers": (0,),
                "n_grad": 20,
                "calls_train": 20,
                "changed": True,
                "init": {"std": 0.125 / 3**0.5, "absmax": 0.1249, "mean": 0.0, "fan_in": 64, "fan_out": 64},
                **facts,
            },
        )
        self.seen.roots[root].layers[path] = made
        return made


def only(said: Any) -> Finding:
    """The one finding a rule made; every finding names its numbers, its remedy and its rule."""
    found = said if isinstance(said, list) else [said]
    assert len(found) == 1, found
    assert isinstance(found[0], Finding), found
    assert any(c.isdigit() for c in found[0].evidence)
    assert found[0].remedy
    return found[0]


def silent(said: Any) -> bool:
    """Whether a rule found nothing wrong."""
    return said is None or said == [] or isinstance(said, NotChecked)
