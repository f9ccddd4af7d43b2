"""The traced network as folds of neighbouring layers read it: which node is which layer."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn.modules.conv import _ConvNd

from dimwise.fold._channels.trace import exported


@dataclass(frozen=True)
class Look:
    """The traced network: its nodes, and which tensor each placeholder is."""

    model: nn.Module
    nodes: list[fx.Node]
    tensors: dict[fx.Node, str]

    @classmethod
    def at(cls, model: nn.Module, x: Tensor) -> Look:
        program = exported(deepcopy(model).eval(), x)
        nodes = list(program.graph.nodes)
        holders = [n for n in nodes if n.op == "placeholder"]
        ours = (InputKind.PARAMETER, InputKind.BUFFER)
        tensors = {
            node: str(spec.target)
            for spec, node in zip(program.graph_signature.input_specs, holders, strict=True)
            if spec.kind in ours
        }
        return cls(model, nodes, tensors)

    def caller(self, node: fx.Node) -> str:
        """Qualified name of the innermost module in which a node was called."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return str(stack[-1][0]).partition("@")[0] if stack else ""  # "@1": called a second time

    def layer(self, node: fx.Node) -> str:
        """Name of the convolution or dense layer that this node is and nobody else uses; empty for anything else."""
        if kind(node) not in _LAYERS or len(node.args) < 2:
            return ""
        weight = node.args[1]
        if not isinstance(weight, fx.Node) or weight not in self.tensors or len(weight.users) > 1:
            return ""
        name, _, attribute = self.tensors[weight].rpartition(".")
        module = self.model.get_submodule(name)
        plain = attribute == "weight" and isinstance(module, (nn.Linear, _ConvNd))
        return name if plain and not _shared(self.model, module) else ""


_LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def kind(node: fx.Node) -> str:
    """Name of an operator without overload: ``conv2d``; empty for anything else than an operator."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).removesuffix("_")


def _shared(model: nn.Module, module: nn.Module) -> bool:
    """Whether a parameter of ``module`` is held elsewhere too."""
    mine = {id(p) for p in module.parameters()}
    return any(id(p) in mine for other in model.modules() if other is not module for p in other._parameters.values())
