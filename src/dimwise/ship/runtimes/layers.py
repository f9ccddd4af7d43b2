"""Milliseconds of each layer: by hooks on a network in PyTorch, by the profiler of the runtime itself on a graph.

What a layer is follows from the subject: for a network what :func:`dimwise.measure.profile` calls one, for a graph each
node that multiplies, together with what is done to its output before the next one.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dimwise.errors import ModelError
from dimwise.fold import _onnx
from dimwise.ort import session_options
from dimwise.ship.runtimes import content_of
from dimwise.ship.runtimes.pytorch import evaluated_copy, using_threads

BEFORE = "(before the first layer)"
"""What a graph does to its input: preprocessing."""
WARM_UP = 3
"""First runs that are not counted."""


class Watched(Protocol):
    """A subject whose layers are timed whenever it runs."""

    def run(self, inputs: np.ndarray) -> None:
        """One run."""

    def ms(self) -> dict[str, float]:
        """Layer -> milliseconds of one run, in order; the watching is over."""


TELLS_LAYERS = ("pytorch", "onnxruntime", "openvino")
"""Runtimes that say which layer took how long. A compiled network is one program, whose loops cannot be led back to its
layers without guessing."""


def watch(subject: Any, runtime: str, *, threads: int = 1) -> Watched:
    """Open a subject so that its layers are timed.

    Args:
        subject: an ``nn.Module`` from what ``run`` will be given for pytorch, a graph for the others.
        runtime: of :data:`TELLS_LAYERS`.
        threads: of one run.

    Raises:
        ModelError: for another runtime, whose layers cannot be told apart, or a graph that it cannot open.
        MissingExtra: for openvino where it is not installed.

    Example:
        >>> watched = watch(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "pytorch")
        >>> for _ in range(5):
        ...     watched.run(np.zeros((1, 4), np.float32))
        >>> list(watched.ms())
        ['0', '1']
    """
    if runtime not in TELLS_LAYERS:
        raise ModelError(f"layers cannot be timed on {runtime}", expected=" or ".join(TELLS_LAYERS))
    if runtime == "pytorch":
        return _Modules(subject, threads)
    return (_Nodes if runtime == "onnxruntime" else _Kernels)(content_of(subject, runtime), threads)


class _Modules:
    """Hooks around every module; a layer is charged what it took without the modules inside it."""

    def __init__(self, network: nn.Module, threads: int) -> None:
        self._network, self._threads = evaluated_copy(network), threads
        self._stack: list[list[int]] = []
        """For each running module: when it began, what the modules inside it took, ns."""
        self._taken: dict[str, int] = {}
        self._runs: list[dict[str, int]] = []
        for name, module in self._network.named_modules():
            holds = next(module.children(), None) is not None and not list(module.parameters(recurse=False))
            module.register_forward_pre_hook(self._before)
            # What a mere container takes is mostly the hooks of what it contains.
            module.register_forward_hook(self._after("" if holds else name or "model"))

    def run(self, inputs: np.ndarray) -> None:
        self._taken = {}
        with using_threads(self._threads), torch.inference_mode():
            self._network(torch.from_numpy(inputs))
        self._runs.append(self._taken)

    def ms(self) -> dict[str, float]:
        counted = self._runs[WARM_UP:] or self._runs
        names = list(dict.fromkeys(name for run in counted for name in run if name))
        return {name: middle([run.get(name, 0) for run in counted]) / 1e6 for name in names}

    def _before(self, module: nn.Module, args: Any) -> None:
        self._stack.append([perf_counter_ns(), 0])

    def _after(self, charged: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            began, inside = self._stack.pop()
            spent = perf_counter_ns() - began
            if self._stack:
                self._stack[-1][1] += spent
            self._taken[charged] = self._taken.get(charged, 0) + spent - inside

        return hook


class _Nodes:
    """onnxruntime's profile: kernels of the graph as it was optimised, led back to the layers of the graph as given."""

    def __init__(self, content: bytes, threads: int) -> None:
        import onnx
        import onnxruntime as ort

        self._proto = onnx.load_from_string(content)
        self._folder = tempfile.TemporaryDirectory(prefix="dimwise-")
        options = session_options(threads=threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        options.optimized_model_filepath = str(Path(self._folder.name) / "optimised.onnx")
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            self._folder.cleanup()
            raise ModelError(f"the graph cannot be profiled: {str(error).strip().splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, inputs: np.ndarray) -> None:
        self._session.run(None, {self._input: inputs})

    def ms(self) -> dict[str, float]:
        import onnx

        with self._folder:
            events = json.loads(Path(self._session.end_profiling()).read_text("utf-8"))
            optimised = onnx.load(str(Path(self._folder.name) / "optimised.onnx"))
        taken = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                taken[event["name"].removesuffix("_kernel_time")].append(event["dur"])
        return _by_layer(self._proto, kernel_homes(self._proto, optimised), taken)


class _Kernels:
    """OpenVINO's profile: each kernel names the nodes that became it."""

    def __init__(self, content: bytes, threads: int) -> None:
        import onnx

        from dimwise.ship.runtimes.openvino import Profiled

        self._proto = onnx.load_from_string(content)
        self._profiled = Profiled(content, threads)
        self._taken: dict[str, list[float]] = defaultdict(list)

    def run(self, inputs: np.ndarray) -> None:
        for kernel, taken_us in self._profiled.run(inputs).items():
            self._taken[kernel].append(taken_us)

    def ms(self) -> dict[str, float]:
        homes = named_homes(self._proto, self._profiled.nodes(), self._profiled.readers())
        return _by_layer(self._proto, homes, self._taken)


def _by_layer(proto: Any, homes: Mapping[str, str], taken_us: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Layer -> milliseconds, from kernel -> microseconds of each run."""
    found = dict.fromkeys([BEFORE, *(layer.name for layer in graph_layers(proto))], 0.0)
    for kernel, durations in taken_us.items():
        home = homes.get(kernel, BEFORE)
        found[home] = found.get(home, 0.0) + middle(durations[WARM_UP:] or durations) / 1e3
    return {name: ms for name, ms in found.items() if ms or name != BEFORE}


def named_homes(
    proto: Any, kernels: Mapping[str, Sequence[str]], readers: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Kernel -> name of the layer it computes, or follows.

    Args:
        proto: the graph as given.
        kernels: name -> nodes or values of the graph that became it, with ``/...`` behind where they were changed.
        readers: name -> kernels that read what it makes: where its own names tell nothing, theirs do.
    """
    layers, values = graph_layers(proto), homes_of_values(proto)
    values |= {node.name: values[node.output[0]] for node in proto.graph.node if node.name}
    known: dict[str, frozenset[int]] = {}
    for kernel, names in kernels.items():
        stems = [stem for stem in (_stem_of(name, values) for name in (kernel, *names)) if stem]
        if stems:  # one that is known and has no home stands before all layers
            known[kernel] = next((values[stem] for stem in stems if values[stem]), frozenset())

    def home_of(kernel: str, seen: frozenset[str]) -> frozenset[int]:
        if kernel in known:
            return known[kernel]
        theirs = (home_of(reader, seen | {reader}) for reader in readers.get(kernel, ()) if reader not in seen)
        return next(filter(None, theirs), frozenset())

    homes = {kernel: home_of(kernel, frozenset([kernel])) for kernel in kernels}
    return {kernel: layers[max(home)].name for kernel, home in homes.items() if home}


def _stem_of(name: str, values: Mapping[str, Any]) -> str:
    """What is left of a name without its last parts, when that is known; else nothing."""
    while name and name not in values:
        name = name.rpartition("/")[0]
    return name


def middle(values: Sequence[float]) -> float:
    """Mean of the middle half: outliers do not count, and a clock of whole microseconds averages out.

    Example:
        >>> middle([1, 2, 3, 100]), middle([5])
        (2.5, 5.0)
    """
    ordered = sorted(values)
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


class GraphLayer:
    """A node that multiplies, with the name of the layer it came from."""

    def __init__(self, name: str, node: Any, position: int) -> None:
        self.name, self.node, self.position = name, node, position


def graph_layers(proto: Any) -> list[GraphLayer]:
    """The layers of a graph, in its order.

    A name is that of the layer's weight or bias without its last part, else the node's own, written with dots.
    """
    macs = _onnx.counts(proto).macs
    weights = _weights(proto.graph)
    biases = {
        value: _stem(weights[other])
        for node in proto.graph.node
        if node.op_type == "Add"
        for value, other in (node.input, reversed(node.input))
        if other in weights
    }
    found: list[GraphLayer] = []
    taken: set[str] = set()
    for position, node in enumerate(proto.graph.node):
        if not macs[position]:
            continue
        name = next(filter(None, (_stem(weights.get(value, "")) for value in node.input[1:])), "")
        name = name or biases.get(node.output[0], "") or _own_name(node)
        while name in taken:
            name += "'"
        taken.add(name)
        found.append(GraphLayer(name, node, position))
    return found


def _stem(constant: str) -> str:
    """``conv1.weight`` -> ``conv1``; nothing for names that exporters made up."""
    stem, dot, last = constant.rpartition(".")
    return stem if dot and last in ("weight", "bias") else ""


def _own_name(node: Any) -> str:
    return node.name.strip("/").replace("/", ".").removesuffix("." + node.op_type) or node.op_type


def _weights(graph: Any) -> dict[str, str]:
    """Value -> name of the constant it is, or is made of by nothing but conversions."""
    found = {tensor.name: tensor.name for tensor in graph.initializer}
    for node in graph.node:
        looked_up = node.op_type == "Gather" and set(node.input) <= found.keys()  # weights of a palette
        if (looked_up or node.op_type in _CONVERSIONS) and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def homes_of_values(proto: Any) -> dict[str, frozenset[int]]:
    """Value -> the nearest layers before it, by their place among :func:`graph_layers`."""
    places = {layer.position: place for place, layer in enumerate(graph_layers(proto))}
    found: dict[str, frozenset[int]] = {}
    for position, node in enumerate(proto.graph.node):
        if position in places:
            home = frozenset([places[position]])
        else:
            home = frozenset().union(*(found.get(name, frozenset()) for name in node.input))
        found.update(dict.fromkeys(node.output, home))
    return found


def kernel_homes(proto: Any, optimised: Any) -> dict[str, str]:
    """Kernel of the optimised graph -> name of the layer it computes, or follows.

    Optimisation fuses, renames and inserts nodes, but what a node returns often keeps its name. A kernel that
    multiplies takes the last layer before its output that no other kernel has; all others follow the last one.
    """
    layers = graph_layers(proto)
    by_name = {node.name: node for node in proto.graph.node if node.name}
    values = homes_of_values(proto)
    multiplies = {layer.node.name for layer in layers}
    heavy: list[tuple[str, frozenset[int]]] = []
    found: dict[str, str] = {}
    for node in optimised.graph.node:
        bare = node.name.partition("_token_")[0].removesuffix("_nchwc")
        home: frozenset[int] = frozenset()
        if bare in by_name:
            home = values[by_name[bare].output[0]]
        for name in (*node.output, bare, *node.input):
            home = home or values.get(name, frozenset())
        for name in node.output:
            values.setdefault(name, home)
        if not home:
            continue
        if bare in multiplies or node.op_type.removeprefix("Fused").startswith(_HEAVY):
            heavy.append((node.name, home))
        else:
            found[node.name] = layers[max(home)].name
    free = set(range(len(layers)))
    for kernel, home in sorted(heavy, key=lambda pair: len(pair[1])):
        place = max(home & free or home)
        free.discard(place)
        found[kernel] = layers[place].name
    return found


_CONVERSIONS = ("DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Identity")
_HEAVY = ("Conv", "Gemm", "MatMul", "QLinearConv", "QGemm", "QLinearMatMul", "LSTM", "GRU", "DynamicQuantize", "RNN")
