# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Equalisation leaves the function alone and saves small channels."""

import numpy as np
import pytest
from support.int8_graphs import SILU, images, linked, relative_error, run

from yolox_trt.compiler.int8.collect import collect_statistics
from yolox_trt.compiler.int8.equalize import equalize
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.graph.graph import Graph


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_equalisation_changes_nothing_in_floating_point(alpha: float):
    statistics = collect_statistics(SILU, images(SILU))
    # Stretch channel ranges, as trained networks have them and random weights do not.
    rng = np.random.default_rng(0)
    amax = {
        name: value * np.exp(rng.normal(0, 2, len(value))).astype(np.float32)
        for name, value in statistics.channel_amax.items()
    }
    equalized, report = equalize(SILU, amax, alpha=alpha)
    assert report
    assert 1.0 in report.values()
    image = next(images(SILU))
    assert relative_error(run(SILU, image), run(equalized, image)) < 1e-4
    assert len(equalized.nodes) == len(SILU.nodes) + len(report)


def test_equalisation_saves_a_depthwise_layer_whose_channels_differ():
    rng = np.random.default_rng(0)
    spread = np.geomspace(1.0, 1e-3, 16).astype(np.float32)
    weights = rng.normal(size=(16, 1, 3, 3)).astype(np.float32)
    conv = ("Conv", ["x", "w"], ["y"], {"group": 16, "pads": [1] * 4})
    model = linked([("Identity", ["images"], ["x"], {}), conv], (1, 16, 8, 8), "y", {"w": weights})
    data = [rng.normal(size=(1, 16, 8, 8)).astype(np.float32) * spread[:, None, None]]

    def error(candidate: Graph) -> np.ndarray:
        statistics = collect_statistics(candidate, data)
        quantized = insert_qdq(candidate, statistics.ranges("max"))
        difference = run(quantized, data[0])[0] - run(model, data[0])[0]
        size = np.linalg.norm(run(model, data[0])[0], axis=(2, 3))
        return np.linalg.norm(difference, axis=(2, 3))[0] / size[0]

    channel_amax = collect_statistics(model, data).channel_amax
    equalized, _ = equalize(model, channel_amax)
    assert error(model).max() > 0.3, "the test's premise: small channels are lost"
    assert error(equalized).max() < 0.03
