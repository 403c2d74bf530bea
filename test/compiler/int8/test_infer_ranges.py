# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges of tensors that no calibration saw."""

import numpy as np
import pytest
from support.int8_graphs import RELU6, SILU, convolution, images, relative_error, run
from support.onnx_graphs import make_graph

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.infer_ranges import (
    fixed_ranges,
    infer_missing,
    override_ranges,
    unify_for_dla,
)
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import quantize
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.graph import Graph


def test_the_dla_gets_a_range_for_every_tensor_of_a_relu6_network():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    implicit = remove_qdq(insert_qdq(RELU6, ranges), for_dla=True)
    # The last convolutions carry no Q/DQ behind them and no bounded neighbour: they stay in FP16.
    missing = {n for n in float_tensors(implicit.graph) if n not in implicit.ranges}
    layers = weighted_layers(implicit.graph)
    last = {n.outputs[0].name for n in layers if "_preds" in n.inputs[1].name}
    assert last
    assert missing == last
    for node in implicit.graph.find("Concat", "MaxPool"):
        amaxes = {implicit.ranges[v.name] for v in (*node.inputs, *node.outputs)}
        assert len(amaxes) == 1, node


def test_fixed_ranges_follow_from_relu6_alone():
    ranges = fixed_ranges(RELU6, {"reg_*": 20.0})
    assert ranges.amax("images") == pytest.approx(255)
    for node in RELU6.find("Clip"):
        assert ranges.amax(node.outputs[0].name) == pytest.approx(6)
        assert ranges.amax(node.inputs[0].name) == pytest.approx(6)
    for node in RELU6.find("Add"):
        sums = sum(ranges.amax(value.name) for value in node.inputs)
        assert ranges.amax(node.outputs[0].name) == pytest.approx(sums)
    assert ranges.amax("reg_8") == pytest.approx(20)
    image = next(images(RELU6))
    error = relative_error(run(RELU6, image), run(insert_qdq(RELU6, ranges), image))
    assert error < 0.3
    with pytest.raises(ConfigurationError, match="calibrate"):
        fixed_ranges(SILU)
    with pytest.raises(ConfigurationError, match="nothing_like_it"):
        fixed_ranges(RELU6, {"nothing_like_it*": 1.0})


def test_inference_covers_silu_and_says_what_it_filled_in():
    ranges = collect_statistics(SILU, images(SILU)).ranges("max")
    before = set(ranges)
    filled = infer_missing(SILU, ranges)
    assert set(filled) == set(ranges) - before
    for node in SILU.find("Sigmoid"):
        assert ranges.amax(node.outputs[0].name) == pytest.approx(1.0)
    unify_for_dla(SILU, ranges)


def test_overrides_are_patterns_whatever_the_algorithm():
    model = convolution()
    ranges = DynamicRanges.from_amax({"x": 1.0, "y": 1.0})
    override_ranges(model, ranges, {"[xy]": 3.0, "y": 5.0})
    assert ranges.amax("x") == pytest.approx(3.0) and ranges.amax("y") == pytest.approx(5.0)
    assert set(ranges) == {"x", "y"}
    with pytest.raises(ConfigurationError, match=r"'reg_\*'.*one of x, y.*`overrides`"):
        override_ranges(model, ranges, {"reg_*": 3.0})
    images_ = [np.ones((1, 3, 4, 4), np.float32)]
    options = QuantizeOptions(algorithm="max", overrides={"x": 9.0})
    assert quantize(model, images_, options).ranges.amax("x") == pytest.approx(9.0)


def test_sizes_that_two_layers_share_join_no_ranges():
    """A target that is computed once for two Reshapes says nothing of what they hold."""
    nodes = [
        ("Shape", ["x"], ["size"], {}),
        ("Relu", ["x"], ["a"], {}),
        ("Sigmoid", ["x"], ["b"], {}),
        ("Reshape", ["a", "size"], ["c"], {}),
        ("Reshape", ["b", "size"], ["d"], {}),
        ("Mul", ["c", "d"], ["y"], {}),
    ]
    model = Graph(make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], check=False))
    ranges = DynamicRanges.from_amax({"a": 9.0, "b": 1.0, "c": 9.0, "d": 1.0})
    groups = unify_for_dla(model, ranges)
    assert sorted(map(sorted, groups)) == [["a", "c"], ["b", "d"]]
    assert ranges.amax("d") == pytest.approx(1.0)
