# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""spp-to-chain: chains of small pools give the bits of large pools."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph, operators, random_feeds, run
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery.pool_to_chain import PoolToChain


def pools(*windows: int, size=(20, 23), **attrs) -> object:
    nodes = [
        (
            "MaxPool",
            ["x"],
            [f"y{k}"],
            {"kernel_shape": [k, k], "pads": [k // 2] * 4, "strides": [1, 1], **attrs},
        )
        for k in windows
    ]
    return make_graph(nodes, {"x": (1, 3, *size)}, [f"y{k}" for k in windows])


@pytest.mark.parametrize("window", [9, 11, 13, 15, 21])
def test_every_odd_window_is_bit_exact(window) -> None:
    model = pools(window)
    result = apply(PoolToChain(), model)
    kernels = [a.ints[0] for n in result.model.graph.node for a in n.attribute
               if a.name == "kernel_shape"]  # fmt: skip
    assert max(kernels) <= 5 and sum(k - 1 for k in kernels) == window - 1
    # All values negative: a padding of 0 instead of minus infinity would win.
    feeds = {"x": -np.abs(random_feeds(model)["x"]) - 1}
    for name, before in run(model, feeds).items():
        np.testing.assert_array_equal(run(result.model, feeds)[name], before)


def test_windows_larger_than_the_map() -> None:
    model = pools(9, 13, size=(2, 3))
    result = apply(PoolToChain(), model)
    feeds = random_feeds(model)
    for name, before in run(model, feeds).items():
        np.testing.assert_array_equal(run(result.model, feeds)[name], before)


def test_spp_shares_its_chain() -> None:
    model = build_yolox()
    result = apply(PoolToChain(), model)
    # 5, 5 of 5, 5 of 5 of 5: three pools, as there were.
    assert operators(result.model)["MaxPool"] == 3
    assert len(result.changes) == 2
    feeds = random_images(model)
    for name, before in run(model, feeds).items():
        np.testing.assert_array_equal(run(result.model, feeds)[name], before)


@pytest.mark.parametrize("attrs", [{"strides": [2, 2]}, {"pads": [0] * 4}, {"dilations": [2, 2]}])
def test_other_forms_are_left_alone_with_the_reason(attrs) -> None:
    model = pools(9, size=(40, 40), **attrs)
    result = apply(PoolToChain(), model)
    assert not result.changes
    assert "left as it is" in result.notes[0]


def test_small_pools_are_not_touched() -> None:
    assert not apply(PoolToChain(), pools(3, 5, 7)).changes
