# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which layers quantisation hurts, and what they cost."""

import numpy as np
import pytest
from support.int8_graphs import images, run
from support.yolox_graphs import build_yolox, build_yolox_s

from yolox_trt.compiler.int8.collect import collect_statistics
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.sensitivity import (
    LayerSensitivity,
    _Reference,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.graph import Graph


def test_sensitivity_ranks_a_layer_whose_range_is_ruined_first():
    graph = Graph(build_yolox(depth=0, width=0.125, activation="relu6", head="raw_levels"))
    ranges = collect_statistics(graph, images(graph)).ranges("max")
    layers = weighted_layers(graph)
    victim = layers[len(layers) // 2]
    ruined = DynamicRanges(dict(ranges))
    ruined[victim.inputs[0].name] *= np.float32(1e-3)
    result = layer_sensitivity(graph, ruined, list(images(graph, 1)), threads=1)
    assert len(result) == len(layers)
    assert result[0].layer in {node.name for node in victim.inputs[0].readers}


def test_a_layer_alone_disturbs_the_outputs_as_in_the_whole_network():
    """Only what follows from it is run: that must not change what comes out."""
    graph = Graph(build_yolox(depth=0, width=0.125, style="opset13", head="raw_levels"))
    data = list(images(graph, 2))
    ranges = collect_statistics(graph, data).ranges("max")
    found = layer_sensitivity(graph, ranges, data, threads=1)
    layers = [node.name for node in weighted_layers(graph)]
    assert {record.layer for record in found} == set(layers)
    expected = [run(graph, image) for image in data]
    for record in (found[0], found[len(found) // 2], found[-1]):
        others = [name for name in layers if name != record.layer]
        alone = insert_qdq(graph, ranges, keep_float=others, quantize_residual=False)
        found_alone = [run(alone, image) for image in data]
        error = 0.0
        for e, f in zip(zip(*expected, strict=True), zip(*found_alone, strict=True), strict=True):
            error += np.sum(np.square(np.subtract(f, e))) / np.sum(np.square(e))
        assert record.error == pytest.approx(error, rel=1e-3, abs=1e-9)


def test_macs_count_every_weight_at_every_position():
    model = Graph(build_yolox_s())
    # 26.8 GFLOPs are published for YOLOX-S at 640 x 640, a multiply-accumulate counted as two.
    assert 2 * sum(layer_macs(model).values()) / 1e9 == pytest.approx(26.8, rel=0.01)


def test_float_layers_by_number_and_by_share_of_the_operations():
    records = [
        LayerSensitivity("big", 3.0, 900),
        LayerSensitivity("small", 2.0, 60),
        LayerSensitivity("tiny", 1.0, 40),
    ]
    assert choose_float_layers(records, "2") == ["big", "small"]
    assert choose_float_layers(records, "10%") == ["small", "tiny"]
    assert choose_float_layers(records, "5%") == ["tiny"]
    for request in ("many", "-1", "101%"):
        with pytest.raises(ConfigurationError):
            choose_float_layers(records, request)


def test_classes_behind_an_argmax_have_no_distance():
    """A wrong class is as wrong as any other, and one cell as wrong as the next."""
    classes = np.array([[[0, 1], [15, 2]]])
    reference = _Reference([{"classes": classes}])
    assert reference.error([{"classes": classes}]) == 0
    for wrong in (3, 200):
        found = classes.copy()
        found[0, 1, 1] = wrong
        assert reference.error([{"classes": found}]) == 0.25
