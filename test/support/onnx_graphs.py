# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Small ONNX graphs for tests, and running them.

model = make_graph(
    [("MaxPool", ["x"], ["y"], {"kernel_shape": [9, 9], "pads": [4] * 4})],
    {"x": (1, 3, 20, 24)}, ["y"],
)
outputs = run(model, {"x": array})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from yolox_trt.graph.float16 import to_float16
from yolox_trt.graph.graph import Graph

Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]


def make_graph(
    nodes: Sequence[Node],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 13,
    dtype: int = TensorProto.FLOAT,
    check: bool = True,
) -> onnx.ModelProto:
    """Build a model; output shapes are inferred, nodes are named after their first output."""
    graph = helper.make_graph(
        [
            helper.make_node(op, list(ins), list(outs), f"n_{outs[0]}", **attrs)
            for op, ins, outs, attrs in nodes
        ],
        "test",
        [helper.make_tensor_value_info(n, dtype, list(s)) for n, s in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if check:
        onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model with ONNX Runtime on the CPU; returns its outputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def random_feeds(model: onnx.ModelProto, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    """Return normal random arrays for a model with fixed input sizes."""
    rng = np.random.default_rng(seed)
    constants = {i.name for i in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = (scale * rng.normal(size=shape)).astype(np.float32)
    return feeds


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """Return operator -> number of nodes."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def worst(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Return max |after - before| / max |before| over outputs of the same names."""
    assert before.keys() == after.keys()
    found = 0.0
    for name, a in before.items():
        b = after[name]
        assert a.shape == b.shape, name
        scale = float(np.abs(a).max()) or 1.0
        found = max(found, float(np.abs(a.astype(np.float64) - b).max()) / scale)
    return found


def in_float16(
    model: onnx.ModelProto, *, float16_input: bool = False, float16_outputs: bool = False
) -> onnx.ModelProto:
    """Return a copy that computes in FP16 up to its last convolutions."""
    graph = Graph(model)
    to_float16(graph, float16_input=float16_input, float16_outputs=float16_outputs)
    return graph.to_model()
