# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""INT8 inputs and outputs of a Q/DQ graph: the same codes, and what has none."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from support.int8_graphs import images, run, small

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.float16 import to_float16
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.int8_io import int8_scales, to_int8_io


@functools.cache
def quantized() -> Graph:
    graph = small(activation="relu6", stem="conv", spp="chained", head="raw_levels")
    statistics = collect_statistics(graph, images(graph), tensors=float_tensors(graph))
    return insert_qdq(graph, statistics.ranges("max"), outputs=True)


@pytest.mark.parametrize("half", [False, True])
def test_the_codes_are_those_that_the_graph_had_within(half: bool) -> None:
    whole, graph = quantized().copy(), quantized().copy()
    scales = int8_scales(graph, inputs=True, outputs=True)
    assert list(scales) == ["images", *(value.name for value in graph.outputs)]
    to_int8_io(graph, inputs=True, outputs=True)
    if half:  # as a strongly typed network is built
        to_float16(graph)
        to_float16(whole)
    graph.check()
    assert {v.elem_type for v in (*graph.inputs, *graph.outputs)} == {onnx.TensorProto.INT8}
    assert [v.name for v in graph.outputs] == [v.name for v in whole.outputs]
    image = next(images(quantized()))
    codes = np.rint(image / np.float32(scales["images"])).clip(-128, 127).astype(np.int8)
    for value, expected, found in zip(
        graph.outputs, run(whole, image), run(graph, codes), strict=True
    ):
        assert found.any()
        np.testing.assert_allclose(found * np.float32(scales[value.name]), expected, rtol=1e-6)


def test_one_side_alone() -> None:
    graph = quantized().copy()
    assert list(int8_scales(graph, inputs=True, outputs=False)) == ["images"]
    to_int8_io(graph, inputs=True, outputs=False)
    assert {v.elem_type for v in graph.outputs} == {onnx.TensorProto.FLOAT}
    assert int8_scales(graph, inputs=False, outputs=False) == {}


def test_tensors_without_a_pair_are_named_with_what_mends_it() -> None:
    graph = quantized().copy()
    pair = graph.outputs[0].producer
    assert pair is not None
    pair.set_input(1, graph.constant("two", [0.1, 0.2], np.float32))
    pair.source().set_input(1, pair.inputs[1])  # a scale for each channel
    with pytest.raises(ModelError, match="not quantised: 'reg_8' 1x4x") as caught:
        int8_scales(graph, inputs=True, outputs=True)
    assert "--int8-outputs" in caught.value.fix
    focus = small(activation="relu6", stem="focus", head="raw_levels")
    with pytest.raises(ModelError, match="not quantised: 'images'") as caught:
        int8_scales(focus, inputs=True, outputs=False)
    assert "optimize MODEL --target dla" in caught.value.fix
