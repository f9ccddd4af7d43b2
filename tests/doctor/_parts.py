"""Observations written by hand: what a healthy run gives, so that a test says only what is odd about its own."""

from __future__ import annotations

import math
from typing import Any

from dimwise.doctor.examine import _listed
from dimwise.doctor.finding import Finding, NotChecked, Place
from dimwise.doctor.seen import ActivationSeen, BatchesSeen, LayerSeen, LoaderSeen, LossSeen, RootSeen, Seen

AT = Place("/home/me/train.py", 48)


def layer(path: str, kind: str = "Linear", order: int = 1, **facts: Any) -> LayerSeen:
    usual: dict[str, Any] = {
        "shape": (64, 64),
        "n_params": 4096,
        "n_grad": 20,
        "init": {"mean": 0.0, "std": 0.07, "constant": False, "zero": False, "fan_in": 64},
    }
    return LayerSeen(path, kind, order=order, **{**usual, **facts})


def root(*layers: LayerSeen, activations: tuple[ActivationSeen, ...] = (), **facts: Any) -> RootSeen:
    usual: dict[str, Any] = {"n_params": 9000, "n_trainable": 9000, "n_train_forwards": 20, "place": AT}
    return RootSeen(0, "Net", layers={x.path: x for x in layers}, activations=list(activations), **{**usual, **facts})


def loss(name: str = "cross_entropy", **facts: Any) -> LossSeen:
    usual: dict[str, Any] = {
        "place": AT,
        "root": 0,
        "n_calls": 20,
        "n_watched": 20,
        "n_outputs": 10,
        "input_fn": "AddmmBackward0",
        "input_shape": (32, 10),
        "target_shape": (32,),
        "first_value": 2.31,
        "chance": math.log(10),
    }
    return LossSeen(name, **{**usual, **facts})


def batches(purpose: str = "train", key: int = 0, **facts: Any) -> BatchesSeen:
    """640 images of 3 × 32 × 32, standardised, ten labels in random order."""
    usual: dict[str, Any] = {
        "root": 0,
        "place": AT,
        "n_batches": 20,
        "n_rows": 640,
        "sizes": [32] * 20,
        "shape": (3, 32, 32),
        "mean": 0.0,
        "std": 1.0,
        "low": -2.1,
        "high": 2.6,
        "first_layer": "Conv2d",
        "channel_mean": [0.0, 0.0, 0.0],
        "channel_std": [1.0, 1.0, 1.0],
        "n_hashed": 640,
        "n_distinct_of": 640,
        "dataset_rows": 0 if purpose == "train" else 640,
    }
    if purpose == "train":
        usual |= {
            "label_counts": dict.fromkeys(range(10), 64),
            "n_classes": 10,
            "label_dims": 1,
            "classes_per_batch": [(9, 32)] * 20,
            "batch_labels": [i * 7 % 10 for i in range(20)],
            "label_changes": 558,
            "label_pairs": 620,
        }
    return BatchesSeen(key, purpose, **{**usual, **facts})


def loader(**facts: Any) -> LoaderSeen:
    usual: dict[str, Any] = {"place": AT, "trains": True, "shuffle": True, "sampler": "RandomSampler", "n_batches": 20}
    return LoaderSeen(0, **{**usual, **facts})


def seen(
    *groups: BatchesSeen,
    net: RootSeen | None = None,
    losses: tuple[LossSeen, ...] = (),
    loaders: tuple[LoaderSeen, ...] = (),
    **facts: Any,
) -> Seen:
    usual: dict[str, Any] = {"n_steps": 20, "n_watched_steps": 20, "n_backward": 20}
    return Seen(
        roots={0: net or root()},
        batches=dict(enumerate(groups)),
        losses=list(losses),
        loaders=dict(enumerate(loaders)),
        **{**usual, **facts},
    )


def findings(said: Any) -> list[Finding]:
    return [f for f in _listed(said) if isinstance(f, Finding)]


def one(said: Any) -> Finding:
    """The only finding, which has what every finding must have."""
    found = findings(said)
    assert len(found) == 1, said
    assert any(c.isdigit() for c in found[0].evidence), "evidence without a number"
    assert found[0].remedy
    return found[0]


def why(said: Any) -> str:
    """The reason of a rule that could not speak."""
    (reason,) = _listed(said)
    assert isinstance(reason, NotChecked), reason
    return reason.why


def silent(said: Any) -> bool:
    """Checked, and nothing found."""
    return _listed(said) == []
