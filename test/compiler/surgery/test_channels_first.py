# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Channels-last images, and the Transposes that their exporters write."""

from __future__ import annotations

import numpy as np
import onnx
from support.onnx_graphs import make_graph, operators, run
from support.passes import apply

from yolox_trt.compiler.surgery import optimize
from yolox_trt.compiler.surgery.channels_first import ChannelsFirst

RNG = np.random.default_rng(0)


def channels_last() -> onnx.ModelProto:
    """Return convolutions as tf2onnx writes them: Transposes around each, biases channels last."""
    first, last = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    nodes = [
        ("Mul", ["x", "scale"], ["s"], {}),
        ("Transpose", ["s"], ["t1"], first),
        ("Conv", ["t1", "w1"], ["c1"], {"pads": [1] * 4}),
        ("Transpose", ["c1"], ["t2"], last),
        ("Add", ["t2", "bias"], ["b"], {}),
        ("Relu", ["b"], ["r"], {}),
        ("Transpose", ["r"], ["t3"], first),
        ("Conv", ["t3", "w2"], ["c2"], {}),
        ("Transpose", ["c2"], ["y"], last),
    ]
    constants = {
        "scale": np.float32(1 / 255),
        "w1": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "bias": RNG.normal(size=4).astype(np.float32),
        "w2": RNG.normal(size=(5, 4, 1, 1)).astype(np.float32),
    }
    return make_graph(nodes, {"x": (1, 8, 12, 3)}, ["y"], constants)


def test_the_input_is_channels_first() -> None:
    model = channels_last()
    result = apply(ChannelsFirst(), model)
    image = RNG.uniform(0, 255, (1, 8, 12, 3)).astype(np.float32)
    before = run(model, {"x": image})["y"]
    after = run(result.model, {"x": image.transpose(0, 3, 1, 2).copy()})["y"]
    np.testing.assert_array_equal(before, after)
    assert not apply(ChannelsFirst(), result.model).changes


def test_one_transpose_is_left_of_a_whole_network() -> None:
    result = optimize(channels_last())
    assert operators(result.model)["Transpose"] == 1  # the output stays channels last
    assert [d.dim_value for d in result.model.graph.input[0].type.tensor_type.shape.dim] == [
        1, 3, 8, 12,
    ]  # fmt: skip
    assert result.report.difference is not None and result.report.difference < 1e-5
