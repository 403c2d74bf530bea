# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Equalisation, Q/DQ placement, translation and sensitivity on real graphs in ONNX Runtime."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.onnx_graphs import in_float16, make_graph
from support.onnx_graphs import run as run_as_is
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.equalize import equalize
from yolox_trt.compiler.int8.infer_ranges import (
    fixed_ranges,
    infer_missing,
    override_ranges,
    unify_for_dla,
)
from yolox_trt.compiler.int8.layer_error import layer_errors
from yolox_trt.compiler.int8.qdq import Placement, WeightFormat, insert_qdq
from yolox_trt.compiler.int8.quantizer import QuantizeOptions, quantize
from yolox_trt.compiler.int8.sensitivity import (
    LayerSensitivity,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.core.errors import ConfigurationError, EngineError, ModelError
from yolox_trt.graph.int8_graph import Graph

SILU = build_yolox(depthwise=True)
RELU6 = build_yolox(activation="relu6", stem="conv", spp="chained", head="raw_levels")


def images(model: onnx.ModelProto, count: int = 3) -> Iterator[np.ndarray]:
    for seed in range(count):
        (image,) = random_images(model, batch=1, seed=seed).values()
        yield image


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def relative_error(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    return max(
        float(np.linalg.norm(f - e) / np.linalg.norm(e))
        for e, f in zip(expected, found, strict=True)
    )


def test_statistics_are_those_of_the_tensors_themselves():
    tensors = [SILU.graph.node[20].output[0], "images"]
    statistics = collect_statistics(SILU, images(SILU), tensors=tensors)
    extended = onnx.ModelProto()
    extended.CopyFrom(SILU)
    extended.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensors[0]))
    values = np.concatenate([run(extended, image)[-1] for image in images(SILU)])
    assert statistics.images == 3
    assert statistics.histograms[tensors[0]].amax == pytest.approx(np.abs(values).max())
    np.testing.assert_allclose(
        statistics.channel_amax[tensors[0]], np.abs(values).max(axis=(2, 3)).mean(axis=0), rtol=1e-5
    )


def test_no_image_and_unknown_tensors_are_refused():
    with pytest.raises(ConfigurationError, match="no calibration image"):
        collect_statistics(SILU, [])
    with pytest.raises(ConfigurationError, match="nowhere"):
        collect_statistics(SILU, images(SILU), tensors=["nowhere"])


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
    assert any(record.alpha == 1.0 for record in report)
    image = next(images(SILU))
    assert relative_error(run(SILU, image), run(equalized, image)) < 1e-4
    assert len(equalized.graph.node) == len(SILU.graph.node) + len(report)


def test_equalisation_saves_a_depthwise_layer_whose_channels_differ():
    rng = np.random.default_rng(0)
    spread = np.geomspace(1.0, 1e-3, 16).astype(np.float32)
    weights = rng.normal(size=(16, 1, 3, 3)).astype(np.float32)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Identity", ["images"], ["x"]),
                onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=16, pads=[1] * 4),
            ],
            "depthwise",
            [onnx.helper.make_tensor_value_info("images", 1, [1, 16, 8, 8])],
            [onnx.helper.make_tensor_value_info("y", 1, [1, 16, 8, 8])],
            [onnx.numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 13)],
        ir_version=8,
    )
    data = [rng.normal(size=(1, 16, 8, 8)).astype(np.float32) * spread[:, None, None]]

    def error(candidate: onnx.ModelProto) -> np.ndarray:
        statistics = collect_statistics(candidate, data)
        quantized = insert_qdq(candidate, statistics.ranges("max"))
        difference = run(quantized, data[0])[0] - run(model, data[0])[0]
        size = np.linalg.norm(run(model, data[0])[0], axis=(2, 3))
        return np.linalg.norm(difference, axis=(2, 3))[0] / size[0]

    channel_amax = collect_statistics(model, data).channel_amax
    equalized, _ = equalize(model, channel_amax)
    assert error(model).max() > 0.3, "the test's premise: small channels are lost"
    assert error(equalized).max() < 0.03


@pytest.mark.parametrize("weight_format", list(WeightFormat))
def test_qdq_stands_on_convolution_inputs_only(weight_format: WeightFormat):
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    quantized = insert_qdq(RELU6, ranges, weight_format=weight_format)
    graph = Graph(quantized)
    for node in graph.nodes:
        if node.op_type == "Conv":
            assert graph.producer[node.input[0]].op_type == "DequantizeLinear"
            assert graph.producer[node.input[1]].op_type == "DequantizeLinear"
            readers = {reader.op_type for reader in graph.consumers[node.output[0]]}
            assert "QuantizeLinear" not in readers
    image = next(images(RELU6))
    # Random weights spread the rounding further than trained ones do.
    assert 0.0 < relative_error(run(RELU6, image), run(quantized, image)) < 0.25
    assert quantized.metadata_props == RELU6.metadata_props


def test_int8_weights_are_a_quarter_of_the_size():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    small = insert_qdq(RELU6, ranges, weight_format=WeightFormat.INT8).ByteSize()
    large = insert_qdq(RELU6, ranges, weight_format=WeightFormat.FLOAT).ByteSize()
    assert small < 0.5 * large


def test_a_residual_add_reads_the_quantised_skip_branch():
    ranges = collect_statistics(SILU, images(SILU)).ranges("max")
    graph = Graph(insert_qdq(SILU, ranges))
    adds = [node for node in graph.nodes if node.op_type == "Add"]
    sources = [[graph.producer[name].op_type for name in node.input] for node in adds]
    assert adds
    assert all(source.count("DequantizeLinear") == 1 for source in sources)


def test_placement_all_quantises_convolution_outputs_too():
    ranges = collect_statistics(RELU6, images(RELU6), tensors=float_tensors(RELU6)).ranges("max")
    graph = Graph(insert_qdq(RELU6, ranges, placement=Placement.ALL))
    clips = [node for node in graph.nodes if node.op_type == "Clip"]
    assert clips
    assert {graph.producer[node.input[0]].op_type for node in clips} == {"DequantizeLinear"}


def test_a_layer_kept_in_float_has_no_qdq_and_an_unknown_one_is_refused():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    layer = next(Graph(RELU6).weighted_nodes())
    graph = Graph(insert_qdq(RELU6, ranges, keep_float=[layer.name or layer.output[0]]))
    assert "DequantizeLinear" not in {
        getattr(graph.producer.get(name), "op_type", None)
        for name in graph.producer[layer.output[0]].input
    }
    with pytest.raises(ConfigurationError, match="no_such_layer"):
        insert_qdq(RELU6, ranges, keep_float=["no_such_layer"])


def test_a_missing_range_is_named():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    tensor = next(Graph(RELU6).weighted_nodes()).input[0]
    del ranges.scales[tensor]
    with pytest.raises(ConfigurationError, match=tensor):
        insert_qdq(RELU6, ranges)


@pytest.mark.parametrize("weight_format", list(WeightFormat))
@pytest.mark.parametrize("model", [SILU, RELU6], ids=["silu", "relu6"])
def test_translation_there_and_back_is_the_identity(
    model: onnx.ModelProto, weight_format: WeightFormat
):
    ranges = collect_statistics(model, images(model)).ranges("percentile:99.9")
    layers = [node.name or node.output[0] for node in Graph(model).weighted_nodes()]
    quantized = insert_qdq(
        model, ranges, keep_float=layers[-2:], weight_format=weight_format, quantize_residual=False
    )
    implicit = remove_qdq(quantized)
    assert not any("Linear" in node.op_type for node in implicit.model.graph.node)
    assert list(implicit.keep_float) == layers[-2:]
    assert all(implicit.ranges.scales[name] == ranges.scales[name] for name in implicit.explicit)
    again = insert_qdq(
        implicit.model,
        implicit.ranges,
        keep_float=implicit.keep_float,
        weight_format=weight_format,
        quantize_residual=False,
    )
    for image in images(model):
        for a, b in zip(run(quantized, image), run(again, image), strict=True):
            np.testing.assert_array_equal(a, b)


def test_asymmetric_and_per_channel_activations_are_refused():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    quantized = insert_qdq(RELU6, ranges)
    shifted = onnx.ModelProto()
    shifted.CopyFrom(quantized)
    for tensor in shifted.graph.initializer:
        if tensor.name == "int8_zero":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(3, np.int8), "int8_zero"))
    with pytest.raises(ModelError, match="zero point"):
        remove_qdq(shifted)


def test_the_dla_gets_a_range_for_every_tensor_of_a_relu6_network():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    implicit = remove_qdq(insert_qdq(RELU6, ranges), for_dla=True)
    graph = Graph(implicit.model)
    # The last convolutions carry no Q/DQ behind them and no bounded neighbour: they stay in FP16.
    missing = {n for n in float_tensors(implicit.model) if n not in implicit.ranges}
    last = {n.output[0] for n in graph.weighted_nodes() if "_preds" in n.input[1]}
    assert last
    assert missing == last
    for node in graph.nodes:
        if node.op_type in ("Concat", "MaxPool"):
            amaxes = {implicit.ranges.scales[n] for n in (*node.input, *node.output)}
            assert len(amaxes) == 1, node


def test_fixed_ranges_follow_from_relu6_alone():
    ranges = fixed_ranges(RELU6, {"reg_*": 20.0})
    graph = Graph(RELU6)
    assert ranges.amax("images") == pytest.approx(255)
    for node in graph.nodes:
        if node.op_type == "Clip":
            assert ranges.amax(node.output[0]) == pytest.approx(6)
            assert ranges.amax(node.input[0]) == pytest.approx(6)
        if node.op_type == "Add":
            sums = sum(ranges.amax(name) for name in node.input)
            assert ranges.amax(node.output[0]) == pytest.approx(sums)
    assert ranges.amax("reg_8") == pytest.approx(20)
    image = next(images(RELU6))
    error = relative_error(run(RELU6, image), run(insert_qdq(RELU6, ranges), image))
    assert error < 0.3
    with pytest.raises(ConfigurationError, match="calibrate"):
        fixed_ranges(SILU)
    with pytest.raises(ConfigurationError, match="nothing_like_it"):
        fixed_ranges(RELU6, {"nothing_like_it*": 1.0})


def test_inference_covers_silu_and_says_what_it_filled_in():
    ranges = collect_statistics(SILU, images(SILU)).ranges("max")
    before = set(ranges)
    filled = infer_missing(SILU, ranges)
    assert set(filled) == set(ranges) - before
    graph = Graph(SILU)
    for node in graph.nodes:
        if node.op_type == "Sigmoid":
            assert ranges.amax(node.output[0]) == pytest.approx(1.0)
    unify_for_dla(SILU, ranges)


def test_sensitivity_ranks_a_layer_whose_range_is_ruined_first():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    layers = list(Graph(RELU6).weighted_nodes())
    victim = layers[len(layers) // 2]
    ruined = DynamicRanges(dict(ranges.scales))
    ruined.scales[victim.input[0]] *= np.float32(1e-3)
    result = layer_sensitivity(RELU6, ruined, list(images(RELU6, 1)))
    assert len(result) == len(layers)
    readers = {node.name or node.output[0] for node in layers if node.input[0] == victim.input[0]}
    assert result[0].layer in readers


def test_macs_count_every_weight_at_every_position():
    model = build_yolox(width=0.5, height=640, width_px=640)
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


def test_half_precision_weights_leave_nothing_behind():
    model = onnx.ModelProto()
    model.CopyFrom(RELU6)
    casts = []
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            half = onnx.numpy_helper.from_array(values, f"{tensor.name}_half")
            name = tensor.name
            tensor.CopyFrom(half)
            casts.append(onnx.helper.make_node("Cast", [half.name], [name], to=1))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    ranges = collect_statistics(model, images(model)).ranges("max")
    quantized = insert_qdq(model, ranges)
    assert not any(node.op_type == "Cast" for node in quantized.graph.node)
    assert quantized.ByteSize() < 0.75 * model.ByteSize()
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
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Identity", ["images"], ["x"]),
                onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"]),
                onnx.helper.make_node("Relu", ["y"], ["z"]),
                onnx.helper.make_node("Conv", ["z", "v"], ["out"]),
            ],
            "dead_channel",
            [onnx.helper.make_tensor_value_info("images", 1, [1, 8, 4, 4])],
            [onnx.helper.make_tensor_value_info("out", 1, [1, 4, 4, 4])],
            [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 13)],
        ir_version=8,
    )
    data = [rng.normal(size=(1, 8, 4, 4)).astype(np.float32)]
    quantized = insert_qdq(model, collect_statistics(model, data).ranges("max"))
    np.testing.assert_allclose(run(quantized, data[0])[0], run(model, data[0])[0], atol=0.3)


def small(**options: object) -> onnx.ModelProto:
    return build_yolox(width=0.125, num_classes=3, style="opset13", **options)


def test_fixed_ranges_of_equalised_channels_are_refused():
    """The Mul of an equalised tensor has no bound, and the product of both would be useless."""
    options = QuantizeOptions(algorithm="fixed", equalize_alpha=0.75)
    with pytest.raises(ConfigurationError, match=r"equalised.*--algorithm percentile"):
        quantize(RELU6, lambda: images(RELU6), options)


def test_overrides_are_patterns_whatever_the_algorithm():
    model = convolution()
    ranges = DynamicRanges.from_amax({"x": 1.0, "y": 1.0})
    override_ranges(model, ranges, {"[xy]": 3.0, "y": 5.0})
    assert ranges.amax("x") == pytest.approx(3.0) and ranges.amax("y") == pytest.approx(5.0)
    assert set(ranges) == {"x", "y"}
    with pytest.raises(ConfigurationError, match=r"'reg_\*'.*--set"):
        override_ranges(model, ranges, {"reg_*": 3.0})
    images_ = [np.ones((1, 3, 4, 4), np.float32)]
    options = QuantizeOptions(algorithm="max", range_overrides={"x": 9.0})
    assert quantize(model, lambda: iter(images_), options).ranges.amax("x") == pytest.approx(9.0)


def convolution(**shape: int) -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
    batch = shape.get("batch", 1)
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    return make_graph(nodes, {"x": (batch, 3, 4, 4)}, ["y"], {"w": weights})


def half_input() -> onnx.ModelProto:
    return in_float16(convolution(), float16_input=True, float16_outputs=True)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: convolution(batch=4), "batch of 4.*--open-batch"),
        (half_input, "type float16.*FP32 model"),
        (lambda: small(head="efficient_nms"), "EfficientNMS_TRT.*--head raw"),
    ],
)
def test_models_that_do_not_take_one_float_image_are_refused(make, match):
    model = make()
    with pytest.raises(ModelError, match=match):
        collect_statistics(model, [np.ones((1, 3, 4, 4), np.float32)])
    with pytest.raises(ModelError, match=match):
        layer_errors(model, model, [])


def test_what_onnx_runtime_says_is_in_the_error():
    model = convolution()
    with pytest.raises(EngineError, match=r"does not run the model \(.*Got invalid dimensions"):
        collect_statistics(model, [np.ones((1, 3, 5, 5), np.float32)], tensors=["y"])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("group", 2))
    with pytest.raises(EngineError, match=r"does not (load|run) the model"):
        layer_sensitivity(model, DynamicRanges(), [np.ones((1, 3, 4, 4), np.float32)])


def test_a_model_in_fp16_is_not_quantised():
    with pytest.raises(ModelError, match=r"weights in FP16.*FP32 model"):
        insert_qdq(half_input(), DynamicRanges.from_amax({"x": 4.0, "y": 4.0}))
    seen: list[str] = []
    with pytest.raises(ModelError, match="weights in FP16"):
        quantize(in_float16(convolution()), lambda: iter(seen.append("opened") or []),
                 QuantizeOptions())  # fmt: skip
    assert not seen, "it is refused before the images are opened"


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
    constants = {"scale": np.float32(0.1), "zero": np.int8(0), "w": np.ones((2, 3, 1, 1), "f")}
    conv = ("Conv", ["c", "w"], ["d"], {})
    nodes = [*pairs("x", "a", "b", "c"), conv, *pairs("d", "e", "y")]
    model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
    implicit = remove_qdq(model, for_dla=True)
    assert implicit.explicit == ("x", "d")
    assert [o.name for o in implicit.model.graph.output] == ["y"]
    assert "y" in implicit.ranges and not implicit.keep_float
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    # Not with ONNX Runtime's optimisations, which take such pairs for something else (1.31).
    expected, found = run_as_is(model, {"x": x})["y"], run_as_is(implicit.model, {"x": x})["y"]
    assert relative_error([expected], [found]) < 0.1


def test_sizes_that_two_layers_share_join_no_ranges():
    """A target that is computed once for two Reshapes says nothing of what they hold."""
    nodes = [
        ("Shape", ["x"], ["size"], {}),
        ("Relu", ["x"], ["a"], {}),
        ("Sigmoid", ["x"], ["b"], {}),
        ("Reshape", ["a", "size"], ["c"], {}),
        ("Reshape", ["b", "size"], ["d"], {}),
        ("Mul", ["c", "d"], ["y"], {}),
    ]
    model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], check=False)
    ranges = DynamicRanges.from_amax({"a": 9.0, "b": 1.0, "c": 9.0, "d": 1.0})
    groups = unify_for_dla(model, ranges)
    assert sorted(map(sorted, groups)) == [["a", "c"], ["b", "d"]]
    assert ranges.amax("d") == pytest.approx(1.0)
