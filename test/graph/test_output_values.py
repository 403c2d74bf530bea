# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Outputs of any network, compared as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.onnx_graphs import make_graph

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input
from yolox_trt.graph.output_values import exact_values, output_values, worst_difference

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (1, 3, 8, 8), np.uint8)
WEIGHTS = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
CONV = ("Conv", ["x", "w"], ["c"], {"pads": [1] * 4})


def of(model: onnx.ModelProto) -> list[np.ndarray]:
    graph = Graph(model)
    return output_values(graph, read_image_input(graph), IMAGES)


def test_outputs_as_they_are() -> None:
    (found,) = of(make_graph([CONV], {"x": (1, 3, 8, 8)}, ["c"], {"w": WEIGHTS}))
    assert found.shape == (1, 4, 8, 8)
    twice = np.concatenate([IMAGES, IMAGES])
    graph = Graph(make_graph([CONV], {"x": (1, 3, 8, 8)}, ["c"], {"w": WEIGHTS}))
    (both,) = output_values(graph, read_image_input(graph), twice)  # one image at a time
    np.testing.assert_array_equal(both, np.concatenate([found, found]))


def test_what_is_chosen_from_stands_for_the_choice() -> None:
    """A rounding swaps two that are as good: that is no change of the network."""
    nodes = [
        CONV,
        ("Reshape", ["c", "flat"], ["f"], {}),
        ("TopK", ["f", "k"], ["values", "places"], {}),
        ("Add", ["values", "one"], ["best"], {}),
    ]
    constants = {"w": WEIGHTS, "flat": np.array([1, -1]), "k": np.array([5]),
                 "one": np.float32(1)}  # fmt: skip
    found = of(make_graph(nodes, {"x": (1, 3, 8, 8)}, ["best", "places"], constants))
    assert [each.shape for each in found] == [(1, 256)]


def test_float64_tells_rounding_from_a_change() -> None:
    graph = Graph(make_graph([CONV], {"x": (1, 3, 8, 8)}, ["c"], {"w": WEIGHTS}))
    image = read_image_input(graph)
    exact = exact_values(graph, image, IMAGES)
    assert exact is not None and exact[0].dtype == np.float64
    assert 0.0 < worst_difference(exact, output_values(graph, image, IMAGES)) < 1e-6
    assert graph.nodes[0].constant(1).dtype == np.float32  # the graph itself is left alone


def test_differences() -> None:
    one = np.ones((2, 2), np.float32)
    assert worst_difference([one, 4 * one], [one, 5 * one]) == 0.25
    assert worst_difference([np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])]) == 0.25
    both = np.array([np.nan, np.inf, 2.0], np.float32)
    assert worst_difference([both], [both.copy()]) == 0.0
    assert worst_difference([one], [np.full((2, 2), np.nan, np.float32)]) == np.inf
    with pytest.raises(ModelError, match=r"\(2, 2\).*as before"):
        worst_difference([one], [one[:1]])
