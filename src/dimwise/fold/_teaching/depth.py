"""Fewer of the blocks that a network repeats: the layers of a Transformer, the stages of a ResNet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dimwise.errors import ModelError, first_line
from dimwise.measure import evaluating


@dataclass(frozen=True)
class Row:
    """Blocks of one container that follow one another and can be left out one by one."""

    container: str
    """Name of the ``nn.Sequential`` or ``nn.ModuleList``; empty when it is the network itself."""
    blocks: tuple[str, ...]
    """Their names inside it, in order: alike, and each gives back the shape it takes."""
    leader: str = ""
    """A block of the same build that stands before them and changes the shape: the first of a ResNet's stage."""

    @property
    def n(self) -> int:
        """Blocks of the row, its leader counted."""
        return len(self.blocks) + bool(self.leader)


def shallower(model: nn.Module, depth: float, example: Tensor) -> nn.Module:
    """A copy of ``model`` in which every row of repeated blocks has ``depth`` of them, at least one.

    A block that leads a row and changes the shape counts as one of it, and stays. Those that stay are spread evenly.

    Args:
        model: any module; not changed.
        depth: share of the blocks to keep, 0 < depth < 1.
        example: (1, ...) input of the network.

    Returns:
        The copy, with the weights of the blocks that stay.

    Raises:
        ModelError: when nothing repeats, no block can leave at this depth, or the network does not run without them.

    Source: Sanh, Debut, Chaumond, Wolf 2019, "DistilBERT", section 3 (a student made of every second layer).

    Example:
        >>> net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        >>> made = shallower(net, 0.5, torch.zeros(1, 3))
        >>> len(made), torch.equal(made[1].weight, net[3].weight)
        (2, True)
    """
    found = rows(model, example)
    if not found:
        raise ModelError(
            f"nothing in {type(model).__name__} repeats",
            expected="a Sequential or ModuleList with two blocks alike whose input and output have one shape",
            next_step="Set distill.depth=1, or name another student: distill.student, or student=.",
        )
    leaving = {name: blocks for name, blocks in _by_container(found, depth).items() if blocks}
    if not leaving:
        sizes = ", ".join(f"{row.container or 'the network'}: {row.n}" for row in found)
        raise ModelError(
            f"at depth {depth:g} no block of {type(model).__name__} leaves ({sizes})",
            expected="rows long enough for this share",
            next_step="Lower distill.depth.",
        )
    made = deepcopy(model)
    places = [(made.get_submodule(name), made.get_submodule(name.rpartition(".")[0])) for name in leaving]
    for (place, owner), blocks in zip(places, leaving.values(), strict=True):
        _remove(place, owner, blocks)
    problem = _problem(model, made, example)
    if problem is not None:
        raise ModelError(
            f"{type(model).__name__} cannot be made shallower: {problem}",
            expected="a forward pass without the number of blocks written into it",
            next_step="Set distill.depth=1, or name another student: distill.student, or student=.",
        )
    return made


def rows(model: nn.Module, example: Tensor) -> list[Row]:
    """The rows of repeated blocks in a network, found by running it once.

    Raises:
        ModelError: when the network does not run on the example.
    """
    shapes: dict[int, tuple[Any, Any]] = {}
    with _observing(model, shapes), evaluating(model):
        try:
            model(example)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            raise ModelError(
                f"{type(model).__name__} does not take {tuple(example.shape)}: {first_line(error)}"
            ) from None
    found: list[Row] = []
    repeated: list[str] = []  # containers inside of a block that may leave are left alone
    for name, container in model.named_modules():
        inside = any(name == block or name.startswith(block + ".") for block in repeated)
        if inside or not isinstance(container, nn.Sequential | nn.ModuleList):
            continue
        for row in _rows_of(name, container, shapes):
            found.append(row)
            members = (row.leader, *row.blocks) if row.leader else row.blocks
            repeated += [f"{name}.{block}" if name else block for block in members]
    return found


def _rows_of(name: str, container: nn.Module, shapes: dict[int, tuple[Any, Any]]) -> Iterator[Row]:
    blocks: list[str] = []
    leader, before_name = "", ""
    before: nn.Module | None = None
    before_keeps = False
    for child_name, child in container.named_children():
        given, made = shapes.get(id(child), (None, None))
        keeps = given is not None and given == made and _learns(child)
        if blocks and before is not None and keeps and _alike(before, child):
            blocks.append(child_name)
        else:
            yield from _long_enough(Row(name, tuple(blocks), leader))
            blocks = [child_name] if keeps else []
            leads = keeps and before is not None and not before_keeps and _leads(before, child)
            leader = before_name if leads else ""
        before, before_name, before_keeps = child, child_name, keeps
    yield from _long_enough(Row(name, tuple(blocks), leader))


def _long_enough(row: Row) -> Iterator[Row]:
    if row.blocks and row.n >= 2:
        yield row


def _learns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """Of one class, with parameters of the same names and shapes."""
    shapes = [[(name, p.shape) for name, p in m.named_parameters()] for m in (a, b)]
    return type(a) is type(b) and shapes[0] == shapes[1]


def _leads(first: nn.Module, block: nn.Module) -> bool:
    """Of one class, and whatever ``block`` has, ``first`` has too, with kernels of the same size."""
    theirs = {name: p.shape for name, p in first.named_parameters()}
    ours = [(name, p.shape) for name, p in block.named_parameters()]
    return type(first) is type(block) and all(name in theirs and theirs[name][2:] == s[2:] for name, s in ours)


@contextmanager
def _observing(model: nn.Module, shapes: dict[int, tuple[Any, Any]]) -> Iterator[None]:
    """Write down the shapes of the first input and of the output of each block, by ``id(block)``."""

    def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given = args[0] if args else None
        pair = tuple(tuple(t.shape) if isinstance(t, Tensor) else None for t in (given, output))
        shapes[id(module)] = (pair[0], pair[1])

    handles = [m.register_forward_hook(look) for m in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_container(found: list[Row], depth: float) -> dict[str, list[str]]:
    leaving: dict[str, list[str]] = {}
    for row in found:
        leaving.setdefault(row.container, []).extend(_leaving(row, depth))
    return leaving


def _leaving(row: Row, depth: float) -> list[str]:
    n_kept = max(1, round(depth * row.n)) - bool(row.leader)
    n = len(row.blocks)
    if n_kept >= n:
        return []
    kept = {round(i * (n - 1) / max(1, n_kept - 1)) for i in range(n_kept)}
    return [block for i, block in enumerate(row.blocks) if i not in kept]


def _remove(place: nn.Module, owner: nn.Module, blocks: list[str]) -> None:
    """Take blocks out of a container; where all names are numbers, the rest is numbered anew."""
    n_before = len(place._modules)
    for block in blocks:
        del place._modules[block]
    if all(name.isdigit() for name in place._modules):
        rest = list(place._modules.values())
        place._modules.clear()
        place._modules.update({str(i): module for i, module in enumerate(rest)})
    if isinstance(owner, nn.TransformerEncoder | nn.TransformerDecoder) and owner.num_layers == n_before:
        owner.num_layers = len(place._modules)


def _problem(model: nn.Module, made: nn.Module, example: Tensor) -> str | None:
    with evaluating(model), evaluating(made), torch.no_grad():
        want = model(example)
        try:
            got = made(example)
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            return first_line(error)
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in (got, want)]
    return None if shapes[0] == shapes[1] else f"output {shapes[0]} instead of {shapes[1]}"
