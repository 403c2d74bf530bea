# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Sensitivity: what quantising each layer alone does to the network's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.session import Session
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.int8_graph import Graph, with_opset


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer's share in the quantisation error.

    Attributes:
        layer: its name (or output, where it has none).
        error: sum over the network's outputs of ||quantised - float||^2 / ||float||^2 with this
            layer alone in INT8; box channels and score channels of a joint output apart.
        macs: multiply-accumulates of the layer for one image.
    """

    layer: str
    error: float
    macs: int


def layer_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Return multiply-accumulates of each layer with weights, for one image, by layer name.

    Output positions x weights an output position: H_out * W_out * C_out * C_in / groups * K * K.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    graph = Graph(model)
    macs = {}
    for node in graph.weighted_nodes():
        weights = graph.weights(node)
        shape = shapes.get(node.output[0], [])
        if weights is None or len(shape) < 3:
            continue
        positions = int(np.prod(shape[2:]))
        macs[node.name or node.output[0]] = positions * int(weights.size)
    return macs


def layer_sensitivity(
    model: onnx.ModelProto,
    ranges: DynamicRanges,
    images: Sequence[npt.NDArray[np.float32]],
    *,
    threads: int = 0,
    on_layer: Callable[[], None] | None = None,
) -> list[LayerSensitivity]:
    """Quantise each layer alone and compare the outputs with the float model's.

    Args:
        model: float model.
        ranges: activation scales.
        images: preprocessed inputs, float32 (1, 3, H, W); 4 to 16 are enough for a ranking.
        threads: ONNX Runtime's intra-op threads, 0 for its default.
        on_layer: called after each layer, for a progress bar.

    Returns:
        One record a layer, largest error first.
    """
    model = with_opset(model, 13)
    graph = Graph(model)
    layers = [node.name or node.output[0] for node in graph.weighted_nodes()]
    macs = layer_macs(model)
    reference = _run(model, images, threads)
    result = []
    for layer in layers:
        others = [name for name in layers if name != layer]
        quantized = insert_qdq(model, ranges, keep_float=others, quantize_residual=False)
        outputs = _run(quantized, images, threads)
        result.append(LayerSensitivity(layer, _error(reference, outputs), macs.get(layer, 0)))
        if on_layer is not None:
            on_layer()
    return sorted(result, key=lambda record: record.error, reverse=True)


def _run(
    model: onnx.ModelProto,
    images: Sequence[npt.NDArray[np.float32]],
    threads: int,
) -> list[npt.NDArray[np.float32]]:
    session = Session(model, purpose="the sensitivity search", threads=threads)
    runs = [session.run(image) for image in images]
    return [np.concatenate([run[i] for run in runs]) for i in range(len(runs[0]))]


def _error(
    reference: Sequence[npt.NDArray[np.float32]], outputs: Sequence[npt.NDArray[np.float32]]
) -> float:
    total = 0.0
    for expected, found in zip(reference, outputs, strict=True):
        # A joint (N, A, 5 + C) output: boxes are hundreds of times larger than scores.
        joint = expected.ndim == 3 and expected.shape[2] > 5
        for part in (slice(0, 4), slice(4, None)) if joint else (slice(None),):
            e, f = expected[..., part].astype(np.float64), found[..., part].astype(np.float64)
            total += float(np.sum((f - e) ** 2) / max(float(np.sum(e * e)), 1e-12))
    return total


def choose_float_layers(sensitivities: Sequence[LayerSensitivity], request: str) -> list[str]:
    """Choose layers to keep in FP16.

    Args:
        sensitivities: what layer_sensitivity returned.
        request: "N" for the N most sensitive layers; "P%" for the layers that take away the most
            error for each multiply-accumulate, as long as they fit into P percent of all.

    Raises:
        ConfigurationError: `request` is neither.
    """
    text = request.strip()
    try:
        amount = float(text.removesuffix("%"))
        if amount < 0 or (text.endswith("%") and amount > 100):
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            f"--keep-fp16 auto:{request}", expected="auto:N layers or auto:P% of the operations"
        ) from None
    if not text.endswith("%"):
        ordered = sorted(sensitivities, key=lambda record: record.error, reverse=True)
        return [record.layer for record in ordered[: int(amount)]]
    budget = amount / 100.0 * sum(record.macs for record in sensitivities)
    chosen, used = [], 0.0
    for record in sorted(
        sensitivities, key=lambda record: record.error / max(record.macs, 1), reverse=True
    ):
        if used + record.macs <= budget:
            chosen.append(record.layer)
            used += record.macs
    return chosen
