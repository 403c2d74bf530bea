# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Which layers quantisation hurts, and what they cost."""

import numpy as np
import pytest
from support.int8_graphs import RELU6, images
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.int8.collect import collect_statistics
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.sensitivity import (
    LayerSensitivity,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.graph import Graph


def test_sensitivity_ranks_a_layer_whose_range_is_ruined_first():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    layers = weighted_layers(RELU6)
    victim = layers[len(layers) // 2]
    ruined = DynamicRanges(dict(ranges))
    ruined[victim.inputs[0].name] *= np.float32(1e-3)
    result = layer_sensitivity(RELU6, ruined, list(images(RELU6, 1)))
    assert len(result) == len(layers)
    assert result[0].layer in {node.name for node in victim.inputs[0].readers}


def test_macs_count_every_weight_at_every_position():
    model = Graph(build_yolox(width=0.5, height=640, width_px=640))
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
