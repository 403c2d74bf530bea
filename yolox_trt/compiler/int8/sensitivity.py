# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What quantising does to each layer's output, and each layer alone to the network's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.options import parse_float_layers
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.session import Session
from yolox_trt.core.progress import Progress, no_progress, track
from yolox_trt.graph.graph import Graph


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer's share in the quantisation error.

    Attributes:
        layer: its name.
        error: sum over the network's outputs of ||quantised - float||^2 / ||float||^2 with this
            layer alone in INT8; box channels and score channels of a joint output apart.
        macs: multiply-accumulates of the layer for one image.
    """

    layer: str
    error: float
    macs: int


def layer_macs(graph: Graph) -> dict[str, int]:
    """Return multiply-accumulates of each layer with weights, for one image, by layer name.

    Output positions x weights an output position: H_out * W_out * C_out * C_in / groups * K * K.
    """
    graph.infer_shapes()
    macs = {}
    for node in weighted_layers(graph):
        weights, shape = node.weights(), node.outputs[0].shape or ()
        if weights is not None and len(shape) >= 3:
            positions = math.prod(d if isinstance(d, int) else 0 for d in shape[2:])
            macs[node.name] = positions * int(weights.size)
    return macs


def layer_sensitivity(
    graph: Graph,
    ranges: DynamicRanges,
    images: Sequence[npt.NDArray[np.float32]],
    *,
    threads: int = 0,
    on_progress: Progress = no_progress,
) -> list[LayerSensitivity]:
    """Quantise each layer alone and compare the outputs with the float model's.

    Args:
        graph: float model.
        ranges: activation scales.
        images: preprocessed inputs, float32 (1, 3, H, W); 4 to 16 are enough for a ranking.
        threads: ONNX Runtime's intra-op threads, 0 for its default.
        on_progress: told of each layer.

    Returns:
        One record a layer, largest error first.
    """
    layers = [node.name for node in weighted_layers(graph)]
    macs = layer_macs(graph)
    reference = _run(graph, images, threads)
    result = []
    for layer in track("sensitivity", layers, on_progress):
        others = [name for name in layers if name != layer]
        quantized = insert_qdq(graph, ranges, keep_float=others, quantize_residual=False)
        outputs = _run(quantized, images, threads)
        result.append(LayerSensitivity(layer, _error(reference, outputs), macs.get(layer, 0)))
    return sorted(result, key=lambda record: record.error, reverse=True)


def _run(
    graph: Graph, images: Sequence[npt.NDArray[np.float32]], threads: int
) -> list[npt.NDArray[np.float32]]:
    session = Session(graph, purpose="the sensitivity search", threads=threads)
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
    amount, is_share = parse_float_layers(request)
    if not is_share:
        ordered = sorted(sensitivities, key=lambda record: record.error, reverse=True)
        return [record.layer for record in ordered[: int(amount)]]
    room = amount / 100.0 * sum(record.macs for record in sensitivities)
    chosen = []
    for record in sorted(sensitivities, key=lambda r: r.error / max(r.macs, 1), reverse=True):
        if record.macs <= room:
            chosen.append(record.layer)
            room -= record.macs
    return chosen


def layer_errors(
    graph: Graph,
    quantized: Graph,
    images: Sequence[npt.NDArray[np.float32]],
    *,
    threads: int = 0,
) -> dict[str, float]:
    """Compare the outputs of the layers with weights, errors of earlier layers included.

    Args:
        graph: float model.
        quantized: the same network with Q/DQ; layers are matched by the names of their outputs.
        images: preprocessed inputs, float32 (1, 3, H, W).
        threads: ONNX Runtime's intra-op threads, 0 for its default.

    Returns:
        Layer name -> ||quantised - float|| / ||float||, in the order of the network.
    """
    present = quantized.values()
    layers = {
        node.outputs[0].name: node.name
        for node in weighted_layers(graph)
        if node.outputs[0].name in present
    }
    outputs = list(layers)
    sessions = [
        Session(g, outputs, purpose="comparing layers", threads=threads) for g in (graph, quantized)
    ]
    signal, noise = np.zeros(len(outputs)), np.zeros(len(outputs))
    for image in images:
        expected, found = (s.run(image) for s in sessions)
        for i, (e, f) in enumerate(zip(expected, found, strict=True)):
            signal[i] += float(np.sum(np.square(e, dtype=np.float64)))
            noise[i] += float(np.sum(np.square(f.astype(np.float64) - e)))
    return {
        layers[name]: float(np.sqrt(n / max(s, 1e-30)))
        for name, n, s in zip(outputs, noise, signal, strict=True)
    }
