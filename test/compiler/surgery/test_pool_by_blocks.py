# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Global and adaptive pools as chains of small ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.onnx_graphs import make_graph
from support.passes import apply, check

from yolox_trt.compiler.surgery import SurgeryOptions
from yolox_trt.compiler.surgery.pool_by_blocks import PoolByBlocks

DLA = SurgeryOptions(target="dla")


def pool(op: str, height: int, width: int, attrs: Mapping[str, Any] | None = None) -> Any:
    return make_graph([(op, ["x"], ["y"], attrs or {})], {"x": (1, 2, height, width)}, ["y"])


@pytest.mark.parametrize(
    ("op", "attrs", "height", "width", "pools"),
    [
        ("GlobalAveragePool", {}, 5, 7, 1),
        ("GlobalAveragePool", {}, 64, 48, 2),
        ("GlobalAveragePool", {}, 60, 7, 3),  # 6 x 5 x 2
        ("GlobalAveragePool", {}, 1, 1, 1),
        ("GlobalMaxPool", {}, 24, 9, 2),
        ("ReduceMean", {"axes": [2, 3]}, 16, 16, 2),
        ("ReduceMean", {"axes": [-1, 2], "keepdims": 1}, 16, 16, 2),
        ("AveragePool", {"kernel_shape": [30, 20], "strides": [30, 20]}, 60, 60, 2),
        ("AveragePool", {"kernel_shape": [10, 10], "strides": [10, 10]}, 37, 21, 2),
        ("MaxPool", {"kernel_shape": [15, 15], "strides": [15, 15]}, 30, 45, 2),
    ],
)
def test_chains(op: str, attrs: Mapping[str, Any], height: int, width: int, pools: int) -> None:
    wanted = "MaxPool" if "Max" in op else "AveragePool"
    model = pool(op, height, width, attrs)
    result = check(PoolByBlocks(DLA), model, expected={wanted: pools})
    assert all(
        max(a.ints) <= 8 for node in result.model.graph.node for a in node.attribute if a.ints
    )


def test_what_has_no_chain_stays_and_says_why() -> None:
    result = apply(PoolByBlocks(DLA), pool("GlobalAveragePool", 11, 8))
    assert not result.changes and "11x8 does not divide" in result.notes[0]


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("AveragePool", {"kernel_shape": [8, 8], "strides": [8, 8]}),
        ("AveragePool", {"kernel_shape": [9, 9], "strides": [1, 1]}),
        ("AveragePool", {"kernel_shape": [9, 9], "strides": [9, 9], "pads": [1] * 4}),
        ("ReduceMean", {"axes": [1]}),
        ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
    ],
)
def test_others_are_not_meant(op: str, attrs: Mapping[str, Any]) -> None:
    result = apply(PoolByBlocks(DLA), pool(op, 18, 18, attrs))
    assert not result.changes and not result.notes


def test_only_for_a_dla() -> None:
    assert PoolByBlocks(DLA).is_wanted and not PoolByBlocks().is_wanted
