# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""GraphNetwork: an ONNX graph that PyTorch trains, with the Q/DQ nodes of its quantised form.

The graph is run as it is, node by node, so that a Q/DQ stands where `insert_qdq` puts it, and what
was learned goes back into the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolox_trt.compiler.int8.dynamic_ranges import INT8_MAX, SMALLEST_AMAX, DynamicRanges
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node, Value, folded


class _FakeQuantize(torch.autograd.Function):
    """Quantise and dequantise, with gradients for the values and the scale.

    The gradient of the scale is that of S. K. Esser et al., "Learned Step Size Quantization"
    (ICLR 2020, arXiv 1902.08153), equation 3; here with respect to its logarithm.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        out = torch.fake_quantize_per_tensor_affine(x, scale, zero, -INT8_MAX - 1, INT8_MAX)
        ctx.save_for_backward(x, out, scale)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, out, scale = ctx.saved_tensors
        inside = (out - x).abs() <= 0.5 * scale
        passed = gradient * inside
        return passed, ((gradient * out).sum() - (passed * x).sum()) / scale


class _Scale(nn.Module):
    """The scale of one tensor, or of several that share it, learned as a factor.

    Args:
        scale: calibrated.
    """

    start: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor(float(scale)))
        self.log_factor = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        return self.start * self.log_factor.exp()


class _Weights(nn.Module):
    """Weights and bias of a convolution, learned in units of their own size.

    So one learning rate suits the stem, whose weights act on 0..255, and every other layer.
    """

    unit: Tensor
    bias_unit: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        unit = weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        self.register_buffer("unit", unit.clamp(min=max(1e-3 * float(unit.max()), 1e-12)))
        self.register_buffer("bias_unit", bias.square().mean().sqrt().clamp(min=1e-3))
        self.weight = nn.Parameter(weight / self.unit)
        self.bias = nn.Parameter(bias / self.bias_unit)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias."""
        return self.weight * self.unit, self.bias * self.bias_unit


class GraphNetwork(nn.Module):
    """Runs a graph that ends in raw heads.

    Args:
        base: float graph.
        quantized: what insert_qdq made of it; None to run the float graph.
        ranges: scales of the activations that it quantises.
        shared: sets of tensors that have one scale together.

    Attributes:
        seen: tensors of the last run, by name; see `watch`.

    Raises:
        ModelError: an operator that it does not run.
    """

    def __init__(
        self,
        base: Graph,
        quantized: Graph | None = None,
        ranges: Mapping[str, np.float32] | None = None,
        shared: Sequence[Collection[str]] = (),
    ) -> None:
        super().__init__()
        graph = base if quantized is None else quantized
        self._input = graph.inputs[0].name
        self._outputs = [value.name for value in graph.outputs]
        self.seen: dict[str, Tensor] = {}
        self._watched: frozenset[str] = frozenset()
        self.weights = nn.ModuleList()
        self.scales = nn.ModuleList()
        self._scale_of: dict[str, int] = {}
        explicit = [node.inputs[0].name for node in graph.find("QuantizeLinear") if node.variables]
        for group in (*shared, *([name] for name in explicit)):
            members = [n for n in explicit if n in group and n not in self._scale_of]
            if members and ranges is not None:
                self._scale_of |= dict.fromkeys(members, len(self.scales))
                self.scales.append(_Scale(max(float(ranges[name]) for name in members)))
        self._layers: dict[str, int] = {}
        floats = {node.name: node for node in base.nodes}
        # Names and functions alone: an average of the network is a deep copy, whose functions must
        # find the copy's own weights.
        self._steps: list[tuple[list[str], str, _Step]] = []
        for node in graph.nodes:
            step = self._step(node, floats)
            if step is not None:
                read = [value.name for value in node.variables]
                self._steps.append((read, node.outputs[0].name, step))

    def watch(self, names: Collection[str]) -> None:
        """Keep tensors of every run in `seen`."""
        self._watched = frozenset(names)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the outputs, in the graph's order."""
        values = {self._input: images}
        for names, result, step in self._steps:
            values[result] = step(self, *(values[name] for name in names if name in values))
        self.seen = {name: values[name] for name in self._watched}
        return [values[name] for name in self._outputs]

    def ranges(self) -> DynamicRanges:
        """Return the scales that were learned."""
        found = [np.float32(scale().item()) for scale in self.scales]
        return DynamicRanges({n: found[i] for n, i in self._scale_of.items()}, "learned")

    @torch.no_grad()
    def write_into(self, graph: Graph) -> None:
        """Put the weights that were learned into the float graph, or a copy of it."""
        for node in graph.nodes:
            if node.name in self._layers:
                layer = self.weights[self._layers[node.name]]
                for index, values in enumerate(layer(), start=1):
                    array = values.float().cpu().contiguous().numpy()
                    old = node.input(index)
                    # What only this layer reads keeps its name.
                    if old is not None and len(old.readers) == 1:
                        node.set_input(index, Value.of_array(old.name, array))
                    else:
                        node.set_input(index, graph.constant(f"{node.name}_{index}", array))
        graph.sort()

    def _step(self, node: Node, floats: Mapping[str, Node]) -> _Step | None:
        """Return what a node computes of its variable inputs; None for nodes on constants."""
        op = node.op
        if op == "Conv":
            return self._conv(node, floats[node.name])
        if op == "QuantizeLinear" and node.inputs[0].name in self._scale_of:
            index = self._scale_of[node.inputs[0].name]
            return lambda network, x: _FakeQuantize.apply(x, network.scales[index]())
        if folded(node.outputs[0]) is not None or not node.variables:
            return None
        if op in ("Cast", "DequantizeLinear", "Dropout", "Identity"):
            return lambda network, x: x
        if op in _UNARY:
            function = _UNARY[op]
            return lambda network, x: function(x)
        if op in _BINARY:
            return self._binary(node)
        if op == "Clip":
            bounds = [node.constant(i) for i in (1, 2)]
            limits = [None if b is None else float(b.reshape(-1)[0]) for b in bounds]
            return lambda network, x: x.clamp(*limits)
        if op == "LeakyRelu":
            slope = float(node.attrs.get("alpha", 0.01))
            return lambda network, x: F.leaky_relu(x, slope)
        whole = len(node.variables) == len(node.inputs)
        if op == "Concat" and node.attrs.get("axis") in (1, -3) and whole:
            return lambda network, *read: torch.cat(read, 1)
        if op == "MaxPool" and (pool := _max_pool(node)) is not None:
            return pool
        if op == "Resize" and (resize := _upsample(node)) is not None:
            return resize
        raise ModelError(
            f"operator {op} ('{node.name}') in a model to train",
            expected="convolutions, activations, sums, products, concatenations, max pools and "
            "nearest upsampling",
            fix="yolox_trt optimize MODEL --target dla -o OUT writes many others in these",
        )

    def _binary(self, node: Node) -> _Step:
        compute = _BINARY[node.op]
        constants = [node.constant(index) for index in (0, 1)]
        if constants[0] is None and constants[1] is None:
            return lambda network, *read: compute(read[0], read[-1])
        first = constants[1] is None
        name = f"constant_{len(self._steps)}"
        array = constants[0] if first else constants[1]
        self.register_buffer(name, torch.tensor(array, dtype=torch.float32))

        def run(network: nn.Module, x: Tensor) -> Tensor:
            constant = network.get_buffer(name).to(x.dtype)
            return compute(constant, x) if first else compute(x, constant)

        return run

    def _conv(self, node: Node, float_node: Node) -> _Step:
        array, bias = float_node.weights(), float_node.weights(2)
        pads = list(node.attrs.get("pads", [0] * 4))
        plain = node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and pads[:2] == pads[2:]
        if array is None or array.ndim != 4 or not plain:
            raise ModelError(
                f"convolution '{node.name}'",
                expected="constant weights, two dimensions, equal padding on both sides",
                fix="yolox_trt optimize MODEL --target dla -o OUT, or export it again",
            )
        index = self._layers[node.name] = len(self.weights)
        zeros = np.zeros(len(array)) if bias is None else bias
        self.weights.append(_Weights(*(torch.tensor(a).float() for a in (array, zeros))))
        stride, dilation = (tuple(node.attrs.get(k, [1, 1])) for k in ("strides", "dilations"))
        groups, padding = int(node.attrs.get("group", 1)), tuple(pads[:2])
        is_quantized = _made_by(node, "DequantizeLinear", 1)
        pair = node.source()
        quantizer = pair.source() if pair is not None and pair.op == "DequantizeLinear" else None
        scale = None if quantizer is None else self._scale_of.get(quantizer.inputs[0].name)

        def run(network: Any, x: Tensor) -> Tensor:
            weight, bias = network.weights[index]()
            if is_quantized:
                input_scale = None if scale is None else network.scales[scale]().detach()
                weight = quantize_weights(weight, bias, input_scale)
            weight, bias = weight.to(x.dtype), bias.to(x.dtype)
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

        return run


def _made_by(node: Node, op: str, index: int) -> bool:
    source = node.source(index)
    return source is not None and source.op == op


def quantize_weights(weight: Tensor, bias: Tensor, input_scale: Tensor | None) -> Tensor:
    """Quantise and dequantise weights per output channel, as compiler.int8.qdq.weight_scales does.

    Args:
        weight: (O, I, kh, kw).
        bias: (O,).
        input_scale: of the convolution's input; None leaves the bias out of account.
    """
    with torch.no_grad():
        scale = weight.abs().amax((1, 2, 3)).clamp(min=SMALLEST_AMAX) / INT8_MAX
        if input_scale is not None:
            scale = torch.maximum(scale, bias.abs() / (input_scale * 2.0**30))
        # Of integers PyTorch checks the range on the host, which no CUDA graph allows.
        zero = torch.zeros_like(scale)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -INT8_MAX, INT8_MAX)


#: A node: the network that it belongs to, and its variable inputs.
_Step = Callable[..., Tensor]

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh
}  # fmt: skip
_BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div
}  # fmt: skip


def _max_pool(node: Node) -> _Step | None:
    kernel, pads = list(node.attrs.get("kernel_shape", [])), list(node.attrs.get("pads", [0] * 4))
    strides = list(node.attrs.get("strides", [1, 1]))
    plain = node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and not node.attrs.get("ceil_mode", 0)
    if not plain or pads[:2] != pads[2:] or len(kernel) != 2 or len(node.outputs) > 1:
        return None
    return lambda network, x: F.max_pool2d(x, kernel, strides, pads[:2])


def _upsample(node: Node) -> _Step | None:
    scales = node.constant(2)
    form = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
    if (
        scales is None
        or scales.size != 4
        or node.attrs.get("mode", "nearest") != "nearest"
        or (form, rounding) != ("asymmetric", "floor")
    ):
        return None
    factors = [float(scale) for scale in scales[2:]]
    return lambda network, x: F.interpolate(x, scale_factor=factors, mode="nearest")
