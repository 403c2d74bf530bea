# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From Q/DQ to a calibration cache and back, scales to the bit."""

from itertools import pairwise

import numpy as np
import pytest
from support.int8_graphs import RELU6, SILU, images, relative_error, run
from support.onnx_graphs import make_graph
from support.onnx_graphs import run as run_as_is

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph


@pytest.mark.sampled(3)
@pytest.mark.parametrize("float_weights", [False, True])
@pytest.mark.parametrize("model", [SILU, RELU6], ids=["silu", "relu6"])
def test_translation_there_and_back_is_the_identity(model: Graph, float_weights: bool):
    ranges = collect_statistics(model, images(model)).ranges("percentile:99.9")
    layers = [node.name for node in weighted_layers(model)]
    quantized = insert_qdq(
        model, ranges, keep_float=layers[-2:], float_weights=float_weights, quantize_residual=False
    )
    implicit = remove_qdq(quantized)
    assert not any("Linear" in node.op for node in implicit.graph.nodes)
    assert list(implicit.keep_float) == layers[-2:]
    assert all(implicit.ranges[name] == ranges[name] for name in implicit.explicit)
    again = insert_qdq(
        implicit.graph,
        implicit.ranges,
        keep_float=implicit.keep_float,
        float_weights=float_weights,
        quantize_residual=False,
    )
    for image in images(model):
        for a, b in zip(run(quantized, image), run(again, image), strict=True):
            np.testing.assert_array_equal(a, b)


def test_quantised_outputs_there_and_back():
    ranges = collect_statistics(RELU6, images(RELU6), tensors=float_tensors(RELU6)).ranges("max")
    quantized = insert_qdq(RELU6, ranges, outputs=True)
    implicit = remove_qdq(quantized)
    assert {value.name for value in RELU6.outputs} <= set(implicit.explicit)
    assert all(implicit.ranges[name] == ranges[name] for name in implicit.explicit)
    again = insert_qdq(implicit.graph, implicit.ranges, outputs=True)
    image = next(images(RELU6))
    for a, b in zip(run(quantized, image), run(again, image), strict=True):
        np.testing.assert_array_equal(a, b)


def test_asymmetric_and_per_channel_activations_are_refused():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    quantized = insert_qdq(RELU6, ranges)
    shifted = Graph(quantized.to_model())
    pair = shifted.find("QuantizeLinear")[0].outputs[0].readers[0]
    pair.set_input(2, shifted.constant("three", 3, np.int8))
    with pytest.raises(ModelError, match="zero point"):
        remove_qdq(shifted)


def pairs(*tensors: str) -> list[tuple[str, list[str], list[str], dict[str, int]]]:
    """Q/DQ pairs behind one another: the first name is what they quantise."""
    nodes = []
    for before, after in pairwise(tensors):
        quantized = f"{after}_q"
        nodes.append(("QuantizeLinear", [before, "scale", "zero"], [quantized], {}))
        nodes.append(("DequantizeLinear", [quantized, "scale", "zero"], [after], {}))
    return nodes


def test_pairs_behind_one_another_and_before_an_output_are_translated():
    """So ONNX Runtime's quantize_static writes them."""
    codes = np.ones((2, 3, 1, 1), np.int8)
    constants = {"scale": np.float32(0.1), "zero": np.int8(0), "codes": codes}
    constants["one"] = np.float32(1)
    weights = ("DequantizeLinear", ["codes", "one", "zero"], ["w"], {})
    conv = ("Conv", ["c", "w"], ["d"], {})
    nodes = [*pairs("x", "a", "b", "c"), weights, conv, *pairs("d", "e", "y")]
    model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
    implicit = remove_qdq(Graph(model), for_dla=True)
    # The convolution makes the output itself, which a builder looks for by its name.
    assert implicit.explicit == ("x", "y")
    assert [node.op for node in implicit.graph.nodes] == ["Conv"]
    assert [value.name for value in implicit.graph.outputs] == ["y"] and not implicit.keep_float
    # A layer whose weights are not quantised runs in floating point, whatever it reads.
    constants["w"] = codes.astype(np.float32)
    nodes.remove(weights)
    model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
    assert remove_qdq(Graph(model)).keep_float == ("n_d",)
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    # Not with ONNX Runtime's optimisations, which take such pairs for something else (1.31).
    expected = run_as_is(model, {"x": x})["y"]
    found = run_as_is(implicit.graph.to_model(), {"x": x})["y"]
    assert relative_error([expected], [found]) < 0.1
