"""Weights that were meant to be one parameter and are two."""

from __future__ import annotations

from collections.abc import Iterator

from dimwise.doctor.finding import Finding
from dimwise.doctor.rules.trace import count, number
from dimwise.doctor.seen import RootSeen, Seen


def shared_weights_untied(seen: Seen) -> list[Finding] | None:
    """Two names were one parameter when the network was built, and are two now; each learns for itself.

    Read off the parameters themselves. A warning when an embedding and a linear layer never were one parameter but
    began with the very same values and have drifted apart: a tie by ``.data`` or ``clone()`` is a copy. Silent: copies
    of a network (each has its own ties); tied weights in use; layers of one kind that begin as copies (encoders).
    """
    said: list[Finding] = []
    for root in seen.trained_roots():
        if not root.untied:
            said += _copied(root)
            continue
        one, other = root.untied[0]
        more = f" and {count(len(root.untied) - 1, 'pair')} more" if len(root.untied) > 1 else ""
        norms = [_last_norm(root, name) for name in (one, other)]
        apart = f" (norms now {number(norms[0])} and {number(norms[1])})" if norms[0] and norms[1] else ""
        said.append(
            Finding(
                "shared-weights-untied",
                "error",
                "weights that were shared are no longer",
                f"'{one}' and '{other}'{more} were one parameter when {root.kind} was built and are two in "
                f"{root.n_train_forwards} training passes{apart}",
                f"after the line that replaced one of them insert: model.{other} = model.{one}",
                root.place,
                module=one.rpartition(".")[0] or None,
                step=0,
            )
        )
    return said or None


def _copied(root: RootSeen) -> Iterator[Finding]:
    for one, other in root.copied:
        layer = root.layers.get(one.rpartition(".")[0])
        yield Finding(
            "shared-weights-untied",
            "warning",
            "weights that began as copies of each other are not shared",
            f"'{one}' and '{other}' held the same {number(layer.n_params if layer else 0)} numbers when {root.kind} "
            f"was first called, are two parameters, and differ after {root.n_train_forwards} training passes",
            f"if they are meant to be shared, assign the parameter itself: model.{other} = model.{one} (.data, clone() "
            "and copy_() copy values once)",
            root.place,
            module=other.rpartition(".")[0] or None,
            step=0,
        )


def _last_norm(root: RootSeen, name: str) -> float | None:
    layer = root.layers.get(name.rpartition(".")[0])
    return layer.weight_norm[-1][1] if layer and layer.weight_norm else None
