# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""InputFolding: channel order and normalisation go into the first convolution."""

from __future__ import annotations

import numpy as np

from yolox_trt.compiler.surgery.convolutions import bias_of, per_channel, set_weights
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, Preprocessing
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Array, Node, Value, slice_bounds

#: An image has 3, behind a Focus 12, of hyperspectral cameras some hundred.
_MOST_CHANNELS = 1024


class InputFolding(SurgeryPass):
    """Channel swaps, factors and offsets between the image and the first convolution go into it.

    With value_k = a_k x[order_k] + b_k, the convolution of the values is a convolution of x with
    the weights a_k W[:, k] at channel order_k, and the bias grows by the sum of b_k W[:, k]. Order
    and factors are exact. An offset is exact only inside: at the border the network pads
    with 0 AFTER the offset, which is the colour -b / a before it. Where the convolution pads, a Pad
    by that colour is put in front if the channels share it and the target is no DLA, which has no
    Pad; otherwise one Add of b / a stays before the convolution (a per-channel Scale layer).

    Where it is asked for, what the metadata `yolox_trt.preprocessing` say is folded too, so that
    the network takes BGR 0..255; the metadata follow.
    """

    name = "fold-input"
    summary = "RGB/BGR swap, scale and mean before the first conv -> its weights"

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        image = graph.image
        channels = image.shape[1] if image.shape is not None else None
        if not isinstance(channels, int):
            log.note(f"input {image.name}: its channel count is open")
            return
        if channels > _MOST_CHANNELS:
            log.note(f"input {image.name}: {channels} channels, which are no image's")
            return
        start: Value = image
        cast = image.only_reader
        if cast is not None and cast.op == "Cast":
            start = cast.outputs[0]
        chain = _Chain(channels)
        outside = self._outside(graph, chain, log)
        tensor, steps = _follow(start, chain)
        if not steps and outside is None:
            return
        convs = tensor.readers
        reason = _refusal(tensor, convs, chain)
        padded = [c for c in convs if any(_pads(c))] if not reason else []
        colour: float | None = None
        source = start
        if padded and np.any(chain.offset):
            colours = -chain.offset / chain.factor
            if float(np.ptp(colours)) < 1e-5 and self.options.target != "dla":
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
            pad = colour is not None and conv in padded
            conv.set_input(0, _pad(graph, conv, source, colour or 0.0) if pad else source)
        if outside is not None:
            graph.metadata[METADATA_PREPROCESSING] = outside.to_json()
            steps.insert(0, "preprocessing metadata")
        log.change(
            f"{', '.join(steps)} folded into {', '.join(c.name for c in convs)}"
            + ("" if colour is None else f" behind a Pad by {colour:g}")
            + ("" if source is start else "; the mean stays as one Add, for the border's sake")
        )

    def _outside(self, graph: Graph, chain: _Chain, log: PassLog) -> Preprocessing | None:
        """Put the metadata's preprocessing at the front of the chain; return what is left of it."""
        text = graph.metadata.get(METADATA_PREPROCESSING)
        asked = self.options.fold_preprocessing or self.options.uint8_input
        if not asked or not text:
            return None
        given = Preprocessing.from_json(text)
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
        return Preprocessing(pad=given.pad, resize=given.resize)


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


def _follow(start: Value, chain: _Chain) -> tuple[Value, list[str]]:
    """Walk from the image over operators that a convolution can take up; return where it ends."""
    steps: list[str] = []
    value = start
    while (node := value.only_reader) is not None and (after := _step(node, value, chain)):
        steps.append(node.op)
        value = after
    return value, steps


def _step(node: Node, value: Value, chain: _Chain) -> Value | None:
    """Take an operator on the image into the chain and return its result; None for others."""
    if node.op == "Split":
        return _swap_by_split(node, chain)
    if node.op in ("Gather", "Slice"):
        order = _swap_order(node, chain.channels)
        if order is None:
            return None
        chain.reorder(order)
    elif node.op in ("Mul", "Div", "Add", "Sub"):
        index = 1 if node.inputs[0] is value else 0
        operand = per_channel(node.constant(index), chain.channels)
        if operand is None or (index == 0 and node.op in ("Div", "Sub")):
            return None
        if node.op in ("Mul", "Div"):
            chain.scale(operand if node.op == "Mul" else 1.0 / operand)
        else:
            chain.shift(operand if node.op == "Add" else -operand)
    else:
        return None
    return node.outputs[0]


def _swap_order(node: Node, channels: int) -> list[int] | None:
    """Return the order in which a Gather or Slice takes all channels; None for other uses."""
    identity = list(range(channels))
    if node.op == "Gather":
        indices = node.constant(1)
        if node.attrs.get("axis", 0) != 1 or indices is None or indices.ndim != 1:
            return None
        order = [int(i) % channels for i in indices]
    else:
        bounds = slice_bounds(node)
        if bounds is None or len(bounds) != 1 or bounds[0][0] != 1:
            return None
        _, first, last, step = bounds[0]
        order = identity[slice(first, None if last < -channels else last, step)]
    return order if sorted(order) == identity else None


def _swap_by_split(node: Node, chain: _Chain) -> Value | None:
    """Take a Split into single channels and a Concat in another order into the chain."""
    readers = {reader for value in node.outputs for reader in value.readers}
    if node.attrs.get("axis", 0) != 1 or len(node.outputs) != chain.channels or len(readers) != 1:
        return None
    concat = readers.pop()
    if concat.op != "Concat" or concat.attrs.get("axis") != 1:
        return None
    if set(concat.inputs) != set(node.outputs) or len(concat.inputs) != chain.channels:
        return None
    chain.reorder([node.outputs.index(value) for value in concat.inputs])
    return concat.outputs[0]


def _refusal(tensor: Value, convs: list[Node], chain: _Chain) -> str:
    if tensor.is_output:
        return "it is an output too"
    if not np.all(chain.factor):
        return "a factor is 0"
    for conv in convs:
        if conv.op != "Conv" or conv.inputs[0] is not tensor:
            return f"{conv.op} '{conv.name}' reads it"
        weights = conv.constant(1)
        if weights is None or conv.attrs.get("group", 1) != 1:
            return f"convolution '{conv.name}' has groups or computed weights"
        if len(conv.inputs) > 2 and conv.constant(2) is None:
            return f"convolution '{conv.name}' has a computed bias"
        if conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return f"convolution '{conv.name}' has automatic padding"
    return "" if convs else "nothing reads it"


def _shifted(graph: Graph, start: Value, chain: _Chain, colours: Array) -> Value:
    """Subtract each channel's colour from the image."""
    shift = np.zeros(chain.channels)
    shift[chain.order] = -colours
    constant = graph.constant(f"{start.name}_mean", shift.reshape(1, -1, 1, 1), start.dtype)
    return graph.add_node("Add", f"{start.name}_shift", [start, constant])


def _pads(conv: Node) -> list[int]:
    if conv.attrs.get("auto_pad", "NOTSET") == "VALID":
        return [0] * 4
    return list(conv.attrs.get("pads", [0] * 4))


def _fold(graph: Graph, conv: Node, chain: _Chain) -> None:
    weights = conv.constant(1)
    assert weights is not None
    wide = np.asarray(weights, np.float64)
    folded = np.zeros_like(wide)
    for k, channel in enumerate(chain.order):
        folded[:, channel] = wide[:, k] * chain.factor[k]
    total = bias_of(conv, len(wide)) + (wide.sum((2, 3)) * chain.offset).sum(1)
    set_weights(graph, conv, folded, total, "folded")


def _pad(graph: Graph, conv: Node, source: Value, colour: float) -> Value:
    """Put a convolution's padding in front of it, in a colour."""
    top, left, bottom, right = _pads(conv)
    conv.attrs["pads"] = [0] * 4
    pads = graph.constant(f"{conv.name}_pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
    value = graph.constant(f"{conv.name}_pad_value", colour, source.dtype)
    return graph.add_node("Pad", f"{conv.name}_pad", [source, pads, value], {"mode": "constant"})
