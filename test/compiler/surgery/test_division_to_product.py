# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Divisions by constants become products, as the DLA takes them."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph
from support.passes import check

from yolox_trt.compiler.dla import check as dla_check
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.surgery.division_to_product import DivisionToProduct
from yolox_trt.graph.graph import Graph

#: PyTorch's two orders of a hard swish.
HARD_SWISH = {
    "x * clip / 6": [("Mul", ["x", "c"], ["p"], {}), ("Div", ["p", "six"], ["h"], {})],
    "x * (clip / 6)": [("Div", ["c", "six"], ["p"], {}), ("Mul", ["x", "p"], ["h"], {})],
}

EXPECTED = {"Conv": 2, "Add": 1, "Clip": 1, "Mul": 2}


@pytest.mark.parametrize("form", HARD_SWISH)
def test_a_hard_swish_runs_on_the_dla(form) -> None:
    nodes = [
        ("Conv", ["i", "w"], ["x"], {}),
        ("Add", ["x", "three"], ["a"], {}),
        ("Clip", ["a", "zero", "six"], ["c"], {}),
        *HARD_SWISH[form],
        ("Conv", ["h", "w"], ["y"], {}),
    ]
    numbers = {"zero": 0, "three": 3, "six": 6}
    constants = {name: np.float32(number) for name, number in numbers.items()}
    constants["w"] = np.ones((4, 4, 1, 1), np.float32)
    model = make_graph(nodes, {"i": (1, 4, 4, 4)}, ["y"], constants)
    before = dla_check(model, DlaTarget(tensorrt="8.6"))
    assert [v.mended_by for n in before.fallback_nodes for v in n.reasons] == ["div-to-mul"]
    result = check(DivisionToProduct(), model, expected=EXPECTED)
    assert dla_check(result.model, DlaTarget(tensorrt="8.6")).passes


@pytest.mark.parametrize("divisor", [np.float32(0), np.int64(2)])
def test_what_has_no_reciprocal_stays(divisor) -> None:
    dtype = {"int64": 7, "float32": 1}[divisor.dtype.name]
    model = make_graph(
        [("Div", ["x", "d"], ["y"], {})], {"x": (2,)}, ["y"], {"d": divisor}, dtype=dtype
    )
    assert not DivisionToProduct().run(Graph(model)).changes
