# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a file of some hundred bytes claims to be large takes neither memory nor time in a pass."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from support.onnx_graphs import make_graph
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.surgery import SurgeryPass
from yolox_trt.compiler.surgery.batch_norm_fusion import BatchNormFusion
from yolox_trt.compiler.surgery.input_folding import InputFolding
from yolox_trt.compiler.surgery.pool_to_chain import PoolToChain
from yolox_trt.compiler.surgery.upsample_to_scales import UpsampleToScales
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.scatter import written_channels
from yolox_trt.graph.spec import read_spec

MOST = 50 << 20


@pytest.fixture(autouse=True)
def within_bounds() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


POOL = {"kernel_shape": [20_001] * 2, "pads": [10_000] * 4, "strides": [1, 1]}
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
           "nearest_mode": "floor"}  # fmt: skip
CASES: tuple[tuple[SurgeryPass, list[Any], Mapping[str, Any], tuple[int, ...]], ...] = (
    (PoolToChain(), [("MaxPool", ["x"], ["y"], POOL)], {}, (1, 3, 8, 8)),
    (
        BatchNormFusion(),
        [("ConvTranspose", ["x", "w"], ["c"], {"group": 10**8}), ("Mul", ["c", "k"], ["y"], {})],
        {"w": np.ones((3, 1, 1, 1), np.float32), "k": np.float32(2)},
        (1, 3, 8, 8),
    ),
    (
        UpsampleToScales(),
        [("Resize", ["x", "", "", "sizes"], ["y"], NEAREST)],
        {"sizes": np.array([1, 3, 1 << 23, 8])},
        (1, 3, 8, 8),
    ),
    (
        InputFolding(),
        [("Mul", ["x", "k"], ["m"], {}), ("Conv", ["m", "w"], ["y"], {})],
        {"w": np.ones((3, 3, 1, 1), np.float32), "k": np.float32(2)},
        (1, 1 << 22, 8, 8),
    ),
)


@pytest.mark.parametrize(
    ("rewrite", "nodes", "constants", "size"), CASES, ids=lambda value: getattr(value, "name", "")
)
def test_a_pass(
    rewrite: SurgeryPass, nodes: list[Any], constants: Mapping[str, Any], size: tuple[int, ...]
) -> None:
    graph = Graph(make_graph(nodes, {"x": size}, ["y"], constants, check=False))
    graph.infer_shapes()
    assert rewrite.run(graph).changes == []


def test_the_places_of_a_head() -> None:
    """They would be 70 million values of eight bytes."""
    model = build_yolox(num_classes=2, head="raw_levels")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 1 << 14
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    assert read_spec(model).input_size == (1 << 14, 1 << 14)


def test_the_grid_of_an_old_size() -> None:
    nodes = [("Mul", ["x", "k"], ["y"], {})]
    constants = {"k": np.ones((1, 1), np.float32)}
    graph = Graph(make_graph(nodes, {"x": (1, 3, 1 << 14, 1 << 14)}, ["y"], constants))
    fix_size(graph, 1, 64, 64)
    assert graph.outputs[0].shape == (1, 3, 64, 64)


def test_the_places_that_a_scatter_writes() -> None:
    constants = {"i": np.zeros((1, 1, 1, 1, 4), np.int64), "u": np.ones((1, 1, 1, 1), np.float32)}
    nodes = [("ScatterND", ["x", "i", "u"], ["y"], {})]
    size = (1, 1 << 10, 1 << 10, 3)
    graph = Graph(make_graph(nodes, {"x": size}, ["y"], constants, check=False))
    assert written_channels(graph.nodes[0], size) is None
