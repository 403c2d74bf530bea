# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Where Q/DQ stands, and what it does to weights and biases."""

import numpy as np
import pytest
from support.int8_graphs import RELU6, SILU, images, linked, relative_error, run

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.graph.graph import Graph


@pytest.mark.parametrize("float_weights", [False, True])
def test_qdq_stands_on_convolution_inputs_only(float_weights: bool):
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    quantized = insert_qdq(RELU6, ranges, float_weights=float_weights)
    for node in quantized.find("Conv"):
        assert node.source(0).op == "DequantizeLinear"
        assert node.source(1).op == "DequantizeLinear"
        assert "QuantizeLinear" not in {reader.op for reader in node.outputs[0].readers}
    image = next(images(RELU6))
    # Random weights spread the rounding further than trained ones do.
    assert 0.0 < relative_error(run(RELU6, image), run(quantized, image)) < 0.25
    assert quantized.metadata == RELU6.metadata


def test_int8_weights_are_a_quarter_of_the_size():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    small = insert_qdq(RELU6, ranges, float_weights=False).to_model().ByteSize()
    large = insert_qdq(RELU6, ranges, float_weights=True).to_model().ByteSize()
    assert small < 0.5 * large


def test_a_residual_add_reads_the_quantised_skip_branch():
    ranges = collect_statistics(SILU, images(SILU)).ranges("max")
    adds = insert_qdq(SILU, ranges).find("Add")
    sources = [[source.op for source in node.sources] for node in adds]
    assert adds
    assert all(source.count("DequantizeLinear") == 1 for source in sources)


@pytest.mark.parametrize("model", [SILU, RELU6], ids=["silu", "relu6"])
def test_placement_all_quantises_what_lies_between_kernels(model: Graph):
    """A SiLU reads the convolution's result from memory; a ReLU6 is in the convolution's kernel."""
    ranges = collect_statistics(model, images(model), tensors=float_tensors(model)).ranges("max")
    quantized = insert_qdq(model, ranges, every_tensor=True)
    read = {
        op: {value.producer.op for node in quantized.find(op) for value in node.variables}
        for op in ("Clip", "Concat", "Conv", "MaxPool", "Mul", "Resize", "Sigmoid")
    }
    assert read.pop("Clip") <= {"Conv"}
    if model is RELU6:  # the heads' own, which give the outputs
        assert read.pop("Sigmoid") == {"DequantizeLinear"}
    assert set().union(*read.values()) == {"DequantizeLinear"}


def test_a_layer_kept_in_float_has_no_qdq_and_an_unknown_one_is_refused():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    layer = weighted_layers(RELU6)[0]
    graph = insert_qdq(RELU6, ranges, keep_float=[layer.name])
    (kept,) = (node for node in graph.nodes if node.name == layer.name)
    assert "DequantizeLinear" not in {source.op for source in kept.sources}
    with pytest.raises(ConfigurationError, match="no_such_layer"):
        insert_qdq(RELU6, ranges, keep_float=["no_such_layer"])


def test_a_missing_range_is_named():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    tensor = weighted_layers(RELU6)[0].inputs[0].name
    del ranges[tensor]
    with pytest.raises(ConfigurationError, match=tensor):
        insert_qdq(RELU6, ranges)


def test_half_precision_weights_leave_nothing_behind():
    model = RELU6.copy()
    for node in weighted_layers(model):
        weights = node.inputs[1]
        half = model.constant(f"{weights.name}_half", weights.values, np.float16)
        node.set_input(1, model.add_node("Cast", weights.name, [half], {"to": 1}))
    model.sort()
    assert not any("_half" in name for name in float_tensors(model))
    ranges = collect_statistics(model, images(model)).ranges("max")
    quantized = insert_qdq(model, ranges)
    assert not quantized.find("Cast")
    assert quantized.to_model().ByteSize() < 0.75 * model.to_model().ByteSize()
    image = next(images(model))
    assert relative_error(run(model, image), run(quantized, image)) < 0.3


def test_a_channel_without_weights_keeps_its_bias():
    # ONNX Runtime holds a bias as int32 once a quantised layer follows.
    rng = np.random.default_rng(0)
    first = rng.normal(size=(4, 8, 1, 1)).astype(np.float32)
    first[2] = 0.0
    constants = {
        "w": first,
        "b": np.array([0.1, -3.0, 5.0, 4.0], np.float32),
        "v": rng.normal(size=(4, 4, 1, 1)).astype(np.float32),
    }
    nodes = [
        ("Identity", ["images"], ["x"], {}),
        ("Conv", ["x", "w", "b"], ["y"], {}),
        ("Relu", ["y"], ["z"], {}),
        ("Conv", ["z", "v"], ["out"], {}),
    ]
    model = linked(nodes, (1, 8, 4, 4), "out", constants)
    data = [rng.normal(size=(1, 8, 4, 4)).astype(np.float32)]
    quantized = insert_qdq(model, collect_statistics(model, data).ranges("max"))
    np.testing.assert_allclose(run(quantized, data[0])[0], run(model, data[0])[0], atol=0.3)


def test_quantised_outputs_are_raw_heads():
    with pytest.raises(ModelError, match="holds boxes beside scores") as caught:
        insert_qdq(SILU, DynamicRanges(), outputs=True)
    assert "--head raw" in caught.value.fix
