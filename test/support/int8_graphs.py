# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs for the tests of INT8, and running them on images."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from support.onnx_graphs import Node, make_graph
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.graph.float16 import to_float16
from yolox_trt.graph.graph import Graph

SILU = Graph(build_yolox(depth=0.33, depthwise=True))  # with residual Adds
RELU6 = Graph(
    build_yolox(width=0.125, activation="relu6", stem="conv", spp="chained", head="raw_levels")
)


def images(graph: Graph, count: int = 3) -> Iterator[np.ndarray]:
    for seed in range(count):
        (image,) = random_images(graph.to_model(), batch=1, seed=seed).values()
        yield image


def run(graph: Graph, image: np.ndarray) -> list[np.ndarray]:
    model = graph.to_model()
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def relative_error(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    return max(
        float(np.linalg.norm(f - e) / np.linalg.norm(e))
        for e, f in zip(expected, found, strict=True)
    )


def small(**options: object) -> Graph:
    return Graph(build_yolox(width=0.125, num_classes=3, style="opset13", **options))


def linked(nodes: list[Node], shape: tuple[int, ...], output: str, constants: object) -> Graph:
    return Graph(make_graph(nodes, {"images": shape}, [output], constants))


def convolution(**shape: int) -> Graph:
    weights = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
    batch = shape.get("batch", 1)
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    return Graph(make_graph(nodes, {"x": (batch, 3, 4, 4)}, ["y"], {"w": weights}))


def half_input() -> Graph:
    graph = convolution()
    to_float16(graph, float16_input=True, float16_outputs=True)
    return graph
