# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How far each layer's output is from the float model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.session import Session
from yolox_trt.graph.graph import Graph


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
