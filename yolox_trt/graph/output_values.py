# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the outputs of any network before and after a rewrite, as they are.

A detector of a known form is compared by its boxes and scores (graph.predictions); here are all
others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require
from yolox_trt.graph.graph import Graph, is_plugin
from yolox_trt.graph.image_input import ImageInput
from yolox_trt.graph.predictions import run_in_batches
from yolox_trt.graph.values import Array, Node, Value

#: Operators that choose among numbers: one that is as large as another changes with any rounding,
#: so what they choose from is compared in their place.
_CHOOSERS = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "TopK"})
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FLOAT, _DOUBLE = 1, 11  # onnx.TensorProto.FLOAT, DOUBLE


def output_values(graph: Graph, image: ImageInput, images: Array) -> list[Array]:
    """Run a network and return what it gives, or what its last choices are made from.

    Args:
        graph: the network, with a fixed H x W.
        image: its input.
        images: uint8 (N, 3, H, W), BGR, of the network's size.

    Raises:
        ModelError: ONNX Runtime does not run it.
    """
    twin = _compared(graph)
    feed = image.normalize(images)
    found = run_in_batches(twin.to_model(), image.input_name, feed, image.batch)
    return [found[value.name] for value in twin.outputs]


def exact_values(graph: Graph, image: ImageInput, images: Array) -> list[Array] | None:
    """Return what output_values does, computed in float64; None where onnx cannot do that.

    It is onnx's reference implementation, which takes seconds to minutes.
    """
    twin = _compared(graph)
    for value in {v for node in twin.nodes for v in (*node.inputs, *node.outputs)} | {*twin.inputs}:
        if value.elem_type == _FLOAT:
            if value.is_constant and value.values is not None:
                wide = Value.of_array(value.name, value.values.astype(np.float64))
                for node in value.readers:
                    node.replace_input(value, wide)
            else:
                value.elem_type = _DOUBLE
    for node in twin.find("Cast"):
        if node.attrs.get("to") == _FLOAT:
            node.attrs["to"] = _DOUBLE
    reference = require("onnx.reference", purpose="checking a rewritten model")
    feed = image.normalize(images)
    feed = feed.astype(np.float64) if feed.dtype == np.float32 else feed
    with contextlib.suppress(Exception), np.errstate(all="ignore"):  # an operator that it lacks
        evaluator = reference.ReferenceEvaluator(twin.to_model())
        found = evaluator.run(None, {image.input_name: feed})
        return [np.asarray(value) for value in found]
    return None


def worst_difference(before: Sequence[Array], after: Sequence[Array]) -> float:
    """Return max |after - before| / max |before|, the largest over the outputs.

    Of whole numbers it is the share that differs.

    Raises:
        ModelError: the outputs have other shapes.
    """
    shapes = [[each.shape for each in values] for values in (before, after)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"outputs of shapes {shapes[1]} after the surgery",
            expected=f"{shapes[0]}, as before",
            fix="leave the last pass out",
        )
    return max((_difference(a, b) for a, b in zip(before, after, strict=True)), default=0.0)


def _difference(before: Array, after: Array) -> float:
    if before.dtype.kind != "f" or not before.size:
        return float(np.mean(before != after)) if before.size else 0.0
    first, second = before.astype(np.float64), after.astype(np.float64)
    # NaN and infinity that were there before are no difference.
    apart = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0.0, second - first)
    largest = float(np.abs(first, where=np.isfinite(first), out=np.zeros_like(first)).max())
    worst = float(np.abs(apart).max()) / (largest or 1.0)
    return worst if np.isfinite(worst) else float("inf")


def _compared(graph: Graph) -> Graph:
    """Return a copy of a graph whose outputs are those that are compared."""
    twin = graph.copy()
    found: dict[Value, None] = {}
    for output in twin.outputs:
        chooser = _chooser_behind(output)
        inputs = (output,) if chooser is None else chooser.inputs
        found.update(dict.fromkeys(v for v in inputs if v.name and not _is_fixed(v)))
    twin.outputs = list(found) or list(twin.outputs)
    twin.sort()
    return twin


def _is_fixed(value: Value) -> bool:
    return value.is_constant or (value.producer is not None and value.producer.op == "Constant")


def _chooser_behind(output: Value) -> Node | None:
    """Return the last node before an output, on any way to it, that chooses."""
    seen: set[Node] = set()
    row = [] if output.producer is None else [output.producer]
    while row:
        for node in row:
            if node.op in _CHOOSERS or is_plugin(node.op):
                return node
        seen.update(row)
        behind = dict.fromkeys(source for node in row for source in node.sources)
        # What lies before a convolution is the network, not what is made of its results.
        row = [node for node in behind if node not in seen and node.op not in _WEIGHTED]
    return None
