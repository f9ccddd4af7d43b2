"""Make an exported ONNX graph lean without changing what it computes.

The exporter writes into each node where it came from, and names values by their history. On a network of some ten
kilobytes that is a quarter of the file, and the file is what gets downloaded, hashed and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def slim(proto: Any) -> None:
    """Remove records and descriptions, shorten names of what flows, name nodes by their layer. In place.

    Names of graph inputs, outputs and initializers stay: they are how weights are found again.

    Args:
        proto: an ``onnx.ModelProto``.
    """
    del proto.metadata_props[:]
    proto.ClearField("doc_string")
    for graph in _graphs(proto.graph):
        _strip(graph)
    _shorten_values(proto.graph)
    _name_nodes(proto.graph)


def rename_initializers(proto: Any, names: dict[str, str]) -> None:
    """Give initializers other names, everywhere they are used; one whose new name is taken keeps the old."""
    taken = {tensor.name for graph in _graphs(proto.graph) for tensor in graph.initializer}
    taken |= {value.name for value in (*proto.graph.input, *proto.graph.output)}
    done: dict[str, str] = {}
    for tensor in proto.graph.initializer:
        new = names.get(tensor.name, tensor.name)
        if new not in taken:
            done[tensor.name] = new
            taken.add(new)
            tensor.name = new
    _rename(proto.graph, done)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its nodes (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _strip(graph: Any) -> None:
    del graph.value_info[:]
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")


def _shorten_values(graph: Any) -> None:
    """Intermediate values become a … z, a1, b1, …; one table for inner graphs too, since ONNX forbids shadowing."""
    kept = {value.name for g in _graphs(graph) for value in (*g.input, *g.output, *g.initializer)} | {""}
    short = (name for name in _short_names() if name not in kept)
    renamed: dict[str, str] = {}
    for inner in _graphs(graph):
        for node in inner.node:
            for name in node.output:
                if name not in kept and name not in renamed:
                    renamed[name] = next(short)
    _rename(graph, renamed)


def _short_names() -> Iterator[str]:
    number = 0
    while True:
        yield chr(ord("a") + number % 26) + (str(number // 26) if number >= 26 else "")
        number += 1


def _rename(graph: Any, renamed: dict[str, str]) -> None:
    for inner in _graphs(graph):
        for node in inner.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


def _name_nodes(graph: Any) -> None:
    """A node that uses ``conv1.weight`` is called ``conv1``; any other by its operator and its place."""
    layers = {t.name: t.name.rpartition(".")[0] for t in graph.initializer}
    used: set[str] = set()
    for place, node in enumerate(graph.node):
        name = next((layers[n] for n in node.input if layers.get(n)), "")
        if not name or name in used:
            name = f"{name or node.op_type}_{place}"
        while name in used:  # a layer of the model may itself be called Conv_3
            name += "_"
        used.add(name)
        node.name = name
