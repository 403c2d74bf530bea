# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Whole powers as products."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph
from support.passes import apply, check

from yolox_trt.compiler.surgery.power_to_product import PowerToProduct


@pytest.mark.parametrize(("power", "products"), [(1, 0), (2, 1), (3, 2), (4, 2), (7, 4), (8, 3)])
def test_by_repeated_squaring(power: int, products: int) -> None:
    nodes = [("Pow", ["x", "n"], ["p"], {}), ("Neg", ["p"], ["y"], {})]
    model = make_graph(nodes, {"x": (1, 3, 4, 5)}, ["y"], {"n": np.float32(power)})
    expected = {"Mul": products, "Neg": 1} if products else {"Neg": 1}
    assert check(PowerToProduct(), model, expected=expected).changes


@pytest.mark.parametrize(
    "exponent",
    [*map(np.float32, (0.5, 9, -1, np.nan, np.inf)), np.ones((1, 1, 1, 1, 2), np.float32)],
)
def test_others_stay(exponent: np.ndarray) -> None:
    model = make_graph(
        [("Pow", ["x", "n"], ["y"], {})], {"x": (1, 3, 4, 2)}, ["y"], {"n": exponent}
    )
    assert not apply(PowerToProduct(), model).changes
