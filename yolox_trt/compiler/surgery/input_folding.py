# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""InputFolding: channel order and normalisation go into the first convolution."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Array = npt.NDArray[Any]


class InputFolding(SurgeryPass):
    """Channel swaps, factors and offsets between the image and the first convolution go into it.

    With value_k = a_k x[order_k] + b_k, the convolution of the values is a convolution of x with
    the weights a_k W[:, k] at channel order_k, and the bias grows by the sum of b_k W[:, k]. Order
    and factors are exact. An offset is exact only inside: at the border the network pads
    with 0 AFTER the offset, which is the colour -b / a before it. Where the convolution pads, a Pad
    by that colour is put in front if the channels share it and `allow_pad` is set; otherwise
    one Add of b / a stays before the convolution (a per-channel Scale layer, which a DLA takes).

    Args:
        metadata: also fold what `yolox_trt.preprocessing` says, so that the network takes BGR
            0..255; the metadata follow.
        allow_pad: whether a Pad may be written (TensorRT takes it on the GPU; the DLA does not).
    """

    name = "fold-input"
    summary = "RGB/BGR swap, scale and mean before the first conv -> its weights"

    def __init__(self, *, metadata: bool = False, allow_pad: bool = True) -> None:
        self.metadata, self.allow_pad = metadata, allow_pad

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        image = graph.image
        channels = image.shape[1] if image.shape is not None else None
        if not isinstance(channels, int):
            log.note(f"input {image.name}: its channel count is open")
            return
        start: gs.Tensor = image
        cast = graph.single_consumer(image)
        if cast is not None and cast.op == "Cast":
            start = cast.outputs[0]
        chain = _Chain(channels)
        outside = self._outside(graph, chain, log)
        tensor, steps = _follow(graph, start, chain)
        if not steps and outside is None:
            return
        convs = list({id(n): n for n in tensor.outputs}.values())
        reason = _refusal(graph, tensor, convs, chain)
        padded = [c for c in convs if any(_pads(c))] if not reason else []
        colour: float | None = None
        source = start
        if padded and np.any(chain.offset):
            colours = -chain.offset / chain.factor
            if float(np.ptp(colours)) < 1e-5 and self.allow_pad:
                colour = float(colours[0])
            elif steps in (["Add"], ["Sub"]) and outside is None:
                return  # in its final form already
            else:
                source = _shifted(graph, start, chain, colours)
                chain.offset = np.zeros(channels)
        if reason:
            log.note(f"input {image.name}: {' '.join(steps) or 'preprocessing'} kept, {reason}")
            return
        for conv in convs:
            _fold(graph, conv, chain)
            inputs = list(conv.inputs)
            pad = colour is not None and conv in padded
            first = _pad(graph, conv, source, colour or 0.0) if pad else source
            conv.inputs = [first, *inputs[1:]]
        if outside is not None:
            graph.metadata[METADATA_PREPROCESSING] = outside.to_json()
            steps.insert(0, "preprocessing metadata")
        log.change(
            f"{', '.join(steps)} folded into {', '.join(c.name for c in convs)}"
            + ("" if colour is None else f" behind a Pad by {colour:g}")
            + ("" if source is start else "; the mean stays as one Add, for the border's sake")
        )

    def _outside(self, graph: ModelGraph, chain: _Chain, log: PassLog) -> Preprocessing | None:
        """Put the metadata's preprocessing at the front of the chain; return what is left of it."""
        text = graph.metadata.get(METADATA_PREPROCESSING)
        if not self.metadata or not text:
            return None
        given = Preprocessing.from_json(json.dumps(json.loads(text)))
        if given.is_identity and given.color_order == "bgr":
            return None
        if chain.channels != 3:
            log.note(f"preprocessing for 3 channels, the input has {chain.channels}")
            return None
        if given.color_order == "rgb":
            chain.reorder([2, 1, 0])
        multiplier, offset = given.factors
        chain.scale(np.asarray(multiplier))
        chain.shift(np.asarray(offset))
        return Preprocessing(pad=given.pad)


class _Chain:
    """value_k = factor_k x[order_k] + offset_k."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.order = list(range(channels))
        self.factor: Array = np.ones(channels)
        self.offset: Array = np.zeros(channels)

    def reorder(self, order: list[int]) -> None:
        self.order = [self.order[k] for k in order]
        self.factor, self.offset = self.factor[order], self.offset[order]

    def scale(self, factor: Array) -> None:
        self.factor, self.offset = self.factor * factor, self.offset * factor

    def shift(self, offset: Array) -> None:
        self.offset = self.offset + offset


def _follow(graph: ModelGraph, start: gs.Tensor, chain: _Chain) -> tuple[gs.Tensor, list[str]]:
    """Walk from the image over operators that a convolution can take up; return where it ends."""
    steps: list[str] = []
    tensor = start
    while True:
        node = graph.single_consumer(tensor)
        if node is None or node.op == "Conv":
            return tensor, steps
        if node.op == "Split":
            merged = _swap_by_split(graph, node, chain)
            if merged is None:
                return tensor, steps
            tensor = merged
        elif node.op in ("Gather", "Slice"):
            order = _swap_order(graph, node, chain.channels)
            if order is None:
                return tensor, steps
            chain.reorder(order)
            tensor = node.outputs[0]
        elif node.op in ("Mul", "Div", "Add", "Sub"):
            value = _per_channel(graph, node, tensor, chain.channels)
            if value is None:
                return tensor, steps
            if node.op == "Mul":
                chain.scale(value)
            elif node.op == "Div":
                chain.scale(1.0 / value)
            else:
                chain.shift(value if node.op == "Add" else -value)
            tensor = node.outputs[0]
        else:
            return tensor, steps
        steps.append(node.op)


def _swap_order(graph: ModelGraph, node: gs.Node, channels: int) -> list[int] | None:
    if node.op == "Gather":
        indices = graph.input_constant(node, 1)
        if node.attrs.get("axis", 0) != 1 or indices is None or indices.ndim != 1:
            return None
        order = [int(i) % channels for i in indices]
    else:
        values = [graph.input_constant(node, i) for i in range(1, 5)]
        if any(v is None or v.size != 1 for v in values):
            return None
        first, last, axis, step = (int(v.ravel()[0]) for v in values if v is not None)
        if axis != 1:
            return None
        order = list(range(channels))[slice(first, None if last < -channels else last, step)]
    return order if sorted(order) == list(range(channels)) else None


def _swap_by_split(graph: ModelGraph, node: gs.Node, chain: _Chain) -> gs.Tensor | None:
    """Split into single channels and Concat in another order."""
    readers = {id(r): r for t in node.outputs for r in t.outputs}
    if node.attrs.get("axis", 0) != 1 or len(node.outputs) != chain.channels or len(readers) != 1:
        return None
    concat = next(iter(readers.values()))
    if concat.op != "Concat" or concat.attrs.get("axis") != 1:
        return None
    position = {t.name: i for i, t in enumerate(node.outputs)}
    order = [position.get(t.name, -1) for t in concat.inputs]
    if sorted(order) != list(range(chain.channels)):
        return None
    chain.reorder(order)
    return concat.outputs[0]


def _per_channel(
    graph: ModelGraph, node: gs.Node, tensor: gs.Tensor, channels: int
) -> Array | None:
    index = 1 if node.inputs[0] is tensor else 0
    if index == 0 and node.op in ("Div", "Sub"):
        return None
    constant = graph.input_constant(node, index)
    if constant is None:
        return None
    array = np.asarray(constant, np.float64)
    shape = (1,) * (4 - array.ndim) + array.shape
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != (1, 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(array.ravel(), (channels,))


def _refusal(graph: ModelGraph, tensor: gs.Tensor, convs: list[gs.Node], chain: _Chain) -> str:
    if graph.is_output(tensor):
        return "it is an output too"
    if not np.all(chain.factor):
        return "a factor is 0"
    for conv in convs:
        if conv.op != "Conv" or conv.inputs[0] is not tensor:
            return f"{conv.op} '{conv.name}' reads it"
        weights = graph.input_constant(conv, 1)
        if weights is None or conv.attrs.get("group", 1) != 1:
            return f"convolution '{conv.name}' has groups or computed weights"
        if len(conv.inputs) > 2 and graph.input_constant(conv, 2) is None:
            return f"convolution '{conv.name}' has a computed bias"
        if conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return f"convolution '{conv.name}' has automatic padding"
    return "" if convs else "nothing reads it"


def _shifted(graph: ModelGraph, start: gs.Tensor, chain: _Chain, colours: Array) -> gs.Tensor:
    """Subtract each channel's colour from the image."""
    shift = np.zeros(chain.channels)
    for k, channel in enumerate(chain.order):
        shift[channel] = -colours[k]
    dtype = start.dtype or np.float32
    constant = graph.constant(f"{start.name}_mean", shift.reshape(1, -1, 1, 1), dtype)
    name = f"{start.name}_shift"
    return graph.add_node("Add", name, [start, constant], dtype=dtype, shape=start.shape)


def _pads(conv: gs.Node) -> list[int]:
    if conv.attrs.get("auto_pad", "NOTSET") == "VALID":
        return [0] * 4
    return list(conv.attrs.get("pads", [0] * 4))


def _fold(graph: ModelGraph, conv: gs.Node, chain: _Chain) -> None:
    weights, bias = graph.input_constant(conv, 1), graph.input_constant(conv, 2)
    assert weights is not None
    wide = np.asarray(weights, np.float64)
    folded = np.zeros_like(wide)
    for k, channel in enumerate(chain.order):
        folded[:, channel] = wide[:, k] * chain.factor[k]
    start = np.zeros(len(wide)) if bias is None else np.asarray(bias, np.float64)
    total = start + (wide.sum((2, 3)) * chain.offset).sum(1)
    name = conv.inputs[1].name
    new_weights = graph.constant(f"{name}_folded", folded.astype(weights.dtype))
    new_bias = graph.constant(f"{name}_folded_bias", total.astype(weights.dtype))
    source = conv.inputs[0]
    conv.inputs = [source, new_weights, new_bias]


def _pad(graph: ModelGraph, conv: gs.Node, source: gs.Tensor, colour: float) -> gs.Tensor:
    top, left, bottom, right = _pads(conv)
    conv.attrs["pads"] = [0] * 4
    pads = graph.constant(f"{conv.name}_pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
    value = graph.constant(f"{conv.name}_pad_value", np.asarray(colour, source.dtype or np.float32))
    shape = list(source.shape or [])
    if len(shape) == 4 and all(isinstance(d, int) for d in shape[2:]):
        shape[2:] = [shape[2] + top + bottom, shape[3] + left + right]
    return graph.add_node(
        "Pad",
        f"{conv.name}_pad",
        [source, pads, value],
        {"mode": "constant"},
        dtype=source.dtype,
        shape=shape or None,
    )
