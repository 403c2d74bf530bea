# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Equalisation leaves the function alone and saves small channels."""

import numpy as np
import pytest
from support.int8_graphs import SILU, images, linked, relative_error, run

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.equalize import equalize
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.graph.graph import Graph


def stretched_ranges() -> dict[str, np.ndarray]:
    """Channel ranges of SILU that differ, as trained networks have them."""
    rng = np.random.default_rng(0)
    return {
        name: value * np.exp(rng.normal(0, 2, len(value))).astype(np.float32)
        for name, value in collect_statistics(SILU, images(SILU)).channel_amax.items()
    }


@pytest.mark.parametrize("every_tensor", [False, True], ids=["behind", "before"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_equalisation_changes_nothing_in_floating_point(alpha: float, every_tensor: bool):
    amax = stretched_ranges()
    equalized, report = equalize(SILU, amax, alpha=alpha, every_tensor=every_tensor)
    moved = [node for node in equalized.nodes if node.name.endswith("_restore")]
    assert bool(moved) == every_tensor and len(moved) < len(report)
    assert report
    assert 1.0 in report.values()
    image = next(images(SILU))
    assert relative_error(run(SILU, image), run(equalized, image)) < 1e-4
    assert len(equalized.nodes) == len(SILU.nodes) + len(report)


def test_a_silu_is_equalised_before_its_sigmoid_where_every_tensor_is_quantised():
    """The convolution's result and the SiLU's have one scale for all channels, too."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(1.0, 3e-3, 16).astype(np.float32)
    constants = {
        "w": (rng.normal(size=(16, 3, 1, 1)) * spread[:, None, None, None]).astype(np.float32),
        "b": (rng.uniform(0.5, 1, 16) * spread).astype(np.float32),
        "d": rng.normal(size=(16, 1, 3, 3)).astype(np.float32),
    }
    nodes = [
        ("Conv", ["images", "w", "b"], ["x"], {}),
        ("Sigmoid", ["x"], ["s"], {}),
        ("Mul", ["x", "s"], ["silu"], {}),
        ("Conv", ["silu", "d"], ["y"], {"group": 16, "pads": [1] * 4}),
    ]
    model = linked(nodes, (1, 3, 8, 8), "y", constants)
    data = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32)]
    amax = collect_statistics(model, data).channel_amax
    expected = run(model, data[0])[0]

    def error(candidate: Graph) -> float:
        statistics = collect_statistics(candidate, data, tensors=float_tensors(candidate))
        quantized = insert_qdq(candidate, statistics.ranges("max"), every_tensor=True)
        size = np.linalg.norm(expected, axis=(2, 3))[0]
        return float(
            (np.linalg.norm(run(quantized, data[0])[0] - expected, axis=(2, 3))[0] / size).max()
        )

    behind, _ = equalize(model, amax)
    before, report = equalize(model, amax, every_tensor=True)
    assert report == {"silu": 1.0}
    assert relative_error([expected], run(before, data[0])) < 1e-5
    assert error(behind) > 0.3, "the test's premise: small channels are lost before the Mul"
    assert error(before) < 0.05


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
