# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How near outputs are to the float model's, without labels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.onnx_graphs import make_graph

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.evaluation.output_metrics import OutputComparison
from yolox_trt.graph.graph import Graph

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3, 1, 1)).astype(np.float32)
IMAGES = [RNG.normal(size=(1, 3, 6, 8)).astype(np.float32) for _ in range(3)]


def network(weights: np.ndarray, *, argmax: bool = False) -> Graph:
    nodes = [("Conv", ["x", "w"], ["c"], {})]
    if argmax:
        nodes.append(("ArgMax", ["c"], ["y"], {"axis": 1, "keepdims": 0}))
    model: onnx.ModelProto = make_graph(
        nodes, {"x": (1, 3, 6, 8)}, ["y" if argmax else "c"], {"w": weights}
    )
    return Graph(model)


def test_the_model_itself_is_no_error() -> None:
    found, seconds = OutputComparison(network(WEIGHTS), IMAGES).measure(network(WEIGHTS))
    assert (found.errors, found.pixel_accuracy, found.mean_iou) == ({"c": 0.0}, 1.0, 1.0)
    assert (found.images, found.worst_error) == (3, 0.0)
    assert seconds > 0


@pytest.mark.parametrize("argmax", [False, True])
def test_classes_of_pixels_are_compared_with_those_of_the_model(argmax: bool) -> None:
    swapped = WEIGHTS[[1, 0, 2, 3]]
    comparison = OutputComparison(network(WEIGHTS, argmax=argmax), IMAGES)
    found, _ = comparison.measure(network(swapped, argmax=argmax))
    classes = [np.einsum("oc,nchw->nohw", WEIGHTS[..., 0, 0], x).argmax(1) for x in IMAGES]
    kept = np.mean([np.isin(each, (2, 3)) for each in classes])
    assert found.pixel_accuracy == pytest.approx(kept)
    assert found.per_class["2"] == 1.0 and found.per_class["0"] == 0.0


def test_classes_are_those_of_the_graph_and_not_of_the_first_image() -> None:
    """The first image has one class, and the network 300: no mask holds so many."""
    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[1] = 1.0
    images = [np.ones((1, 3, 6, 8), np.float32), -np.ones((1, 3, 6, 8), np.float32)]
    comparison = OutputComparison(network(weights, argmax=True), images)
    found, _ = comparison.measure(network(weights, argmax=True))
    assert found.per_class == {"0": 1.0, "1": 1.0}
    many = network(np.repeat(weights, 75, 0), argmax=True)
    found, _ = OutputComparison(many, images).measure(many)
    assert (found.pixel_accuracy, found.errors) == (None, {"y": 0.0})


def test_errors_are_relative() -> None:
    found, _ = OutputComparison(network(WEIGHTS), IMAGES).measure(network(WEIGHTS * 1.25))
    assert found.errors["c"] == pytest.approx(0.25, rel=1e-5)
    assert found.mean_iou == 1.0


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (["948"], {"the output"}),
        (["boxes", "949"], {"boxes", "output 2 (1x4x6x8)"}),
        (["948", "949"], {"output 1 (1x4x6x8)", "output 2 (1x4x6x8)"}),
    ],
)
def test_a_number_is_no_name_of_an_output(names: list[str], titles: set[str]) -> None:
    nodes = [("Conv", ["x", "w"], [name], {}) for name in names]
    graph = Graph(make_graph(nodes, {"x": (1, 3, 6, 8)}, names, {"w": WEIGHTS}))
    found, _ = OutputComparison(graph, IMAGES).measure(graph)
    assert found.errors == dict.fromkeys(titles, 0.0)


def test_no_images() -> None:
    with pytest.raises(ConfigurationError, match="no images"):
        OutputComparison(network(WEIGHTS), [])
