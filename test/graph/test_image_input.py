# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The image input of any network: found, described, refused with what mends it."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from support.onnx_graphs import make_graph
from support.yolox_graphs import build_yolox

from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import METADATA_PREPROCESSING, parse_preprocessing
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import is_channels_last, read_image_input, why_no_yolox


def network(*shape: int | str, moved: bool = False) -> onnx.ModelProto:
    """Return a network of one operator on an image."""
    node = (
        ("Transpose", ["x"], ["y"], {"perm": [0, 3, 1, 2]}) if moved else ("Relu", ["x"], ["y"], {})
    )
    return make_graph([node], {"x": shape}, ["y"])


def test_any_network_with_one_image() -> None:
    found = read_image_input(network("n", 3, 33, 50))
    assert (found.input_name, found.input_height, found.input_width) == ("x", 33, 50)
    assert (found.batch, found.channels_last, found.spec) == (None, False, None)
    last = read_image_input(network(2, 33, 50, 3))
    assert (last.input_height, last.input_width, last.batch) == (33, 50, 2)
    assert last.channels_last
    assert last.arrange(np.zeros((2, 3, 33, 50), np.float32)).shape == (2, 33, 50, 3)


def test_a_detector_brings_its_description() -> None:
    found = read_image_input(build_yolox(width=0.125))
    assert found.spec is not None
    assert found.preprocessing == found.spec.preprocessing


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (network(1, 3, 8, 3), False),
        (network(1, 8, 8, 3), True),
        (network("n", "a", "b", "c"), False),
        (network("n", "a", "b", "c", moved=True), True),
        (network(1, 8, 8, 8), False),
    ],
)
def test_layout(model: onnx.ModelProto, expected: bool) -> None:
    assert is_channels_last(Graph(model).image) is expected


def test_preprocessing_is_that_of_the_metadata_or_what_is_asked_for() -> None:
    graph = Graph(network(1, 3, 8, 8))
    stored = parse_preprocessing("rgb_imagenet,resize=stretch")
    graph.metadata[METADATA_PREPROCESSING] = stored.to_json()
    assert read_image_input(graph).preprocessing == stored
    asked = parse_preprocessing("rgb_unit,mean=0.5,std=2")
    found = read_image_input(graph, preprocessing=asked)
    image = np.arange(192, dtype=np.uint8).reshape(1, 3, 8, 8)
    np.testing.assert_allclose(
        found.normalize(image), (image[:, ::-1] / 255.0 - 0.5) / 2.0, rtol=1e-6
    )
    assert found.normalize(image).dtype == np.float32


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (network(1, 3, "h", "w"), None, "open height or width.*--input-size"),
        (network(1, 3, 8, 8), (16, 16), "16x16.*8x8, which the graph fixes"),
        (network(1, 12, 8, 8), None, "12 channels.*Focus in the graph"),
        (network(1, 8), None, "inputs x 1x8.*one image"),
        (
            make_graph(
                [("Add", ["a", "b"], ["y"], {})], {"a": (1, 3, 8, 8), "b": (1, 3, 8, 8)}, ["y"]
            ),
            None,
            "inputs a 1x3x8x8, b.*one image",
        ),
        (
            make_graph([("Abs", ["x"], ["y"], {})], {"x": (1, 3, 8, 8)}, ["y"], dtype=11),
            None,
            "type float64.*float32 or float16 or uint8",
        ),
    ],
)
def test_refusals(model: onnx.ModelProto, size: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(ModelError) as error:
        read_image_input(model, input_size=size)
    assert re.search(message, str(error.value))


def test_why_a_network_is_no_yolox() -> None:
    assert why_no_yolox(Graph(build_yolox(width=0.125))) == ""
    assert why_no_yolox(Graph(network(1, 3, 32, 32)))
