# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Equalisation, Q/DQ placement, translation and sensitivity on real graphs in ONNX Runtime."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.onnx_graphs import Node, make_graph
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
from yolox_trt.compiler.int8.layers import weighted_layers
from yolox_trt.compiler.int8.options import QuantizeOptions
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import quantize
from yolox_trt.compiler.int8.sensitivity import (
    LayerSensitivity,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.core.errors import ConfigurationError, EngineError, ModelError
from yolox_trt.graph.float16 import to_float16
from yolox_trt.graph.graph import Graph

SILU = Graph(build_yolox(depthwise=True))
RELU6 = Graph(build_yolox(activation="relu6", stem="conv", spp="chained", head="raw_levels"))


def images(graph: Graph, count: int = 3) -> Iterator[np.ndarray]:
    for seed in range(count):
        (image,) = random_images(graph.to_model(), batch=1, seed=seed).values()
        yield image


def run(graph: Graph, image: np.ndarray) -> list[np.ndarray]:
    model = graph.to_model()
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def relative_error(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    return max(
        float(np.linalg.norm(f - e) / np.linalg.norm(e))
        for e, f in zip(expected, found, strict=True)
    )


def test_statistics_are_those_of_the_tensors_themselves():
    value = SILU.nodes[20].outputs[0]
    tensors = [value.name, "images"]
    statistics = collect_statistics(SILU, images(SILU), tensors=tensors)
    extended = SILU.copy()
    extended.outputs = (*extended.outputs, extended.values()[value.name])
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


def test_placement_all_quantises_convolution_outputs_too():
    ranges = collect_statistics(RELU6, images(RELU6), tensors=float_tensors(RELU6)).ranges("max")
    clips = insert_qdq(RELU6, ranges, every_tensor=True).find("Clip")
    assert clips
    assert {node.source(0).op for node in clips} == {"DequantizeLinear"}


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
    del ranges.scales[tensor]
    with pytest.raises(ConfigurationError, match=tensor):
        insert_qdq(RELU6, ranges)


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
    assert all(implicit.ranges.scales[name] == ranges.scales[name] for name in implicit.explicit)
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


def test_asymmetric_and_per_channel_activations_are_refused():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    quantized = insert_qdq(RELU6, ranges)
    shifted = Graph(quantized.to_model())
    pair = shifted.find("QuantizeLinear")[0].outputs[0].readers[0]
    pair.set_input(2, shifted.constant("three", 3, np.int8))
    with pytest.raises(ModelError, match="zero point"):
        remove_qdq(shifted)


def test_the_dla_gets_a_range_for_every_tensor_of_a_relu6_network():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    implicit = remove_qdq(insert_qdq(RELU6, ranges), for_dla=True)
    # The last convolutions carry no Q/DQ behind them and no bounded neighbour: they stay in FP16.
    missing = {n for n in float_tensors(implicit.graph) if n not in implicit.ranges}
    layers = weighted_layers(implicit.graph)
    last = {n.outputs[0].name for n in layers if "_preds" in n.inputs[1].name}
    assert last
    assert missing == last
    for node in implicit.graph.find("Concat", "MaxPool"):
        amaxes = {implicit.ranges.scales[v.name] for v in (*node.inputs, *node.outputs)}
        assert len(amaxes) == 1, node


def test_fixed_ranges_follow_from_relu6_alone():
    ranges = fixed_ranges(RELU6, {"reg_*": 20.0})
    assert ranges.amax("images") == pytest.approx(255)
    for node in RELU6.find("Clip"):
        assert ranges.amax(node.outputs[0].name) == pytest.approx(6)
        assert ranges.amax(node.inputs[0].name) == pytest.approx(6)
    for node in RELU6.find("Add"):
        sums = sum(ranges.amax(value.name) for value in node.inputs)
        assert ranges.amax(node.outputs[0].name) == pytest.approx(sums)
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
    for node in SILU.find("Sigmoid"):
        assert ranges.amax(node.outputs[0].name) == pytest.approx(1.0)
    unify_for_dla(SILU, ranges)


def test_sensitivity_ranks_a_layer_whose_range_is_ruined_first():
    ranges = collect_statistics(RELU6, images(RELU6)).ranges("max")
    layers = weighted_layers(RELU6)
    victim = layers[len(layers) // 2]
    ruined = DynamicRanges(dict(ranges.scales))
    ruined.scales[victim.inputs[0].name] *= np.float32(1e-3)
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


def small(**options: object) -> Graph:
    return Graph(build_yolox(width=0.125, num_classes=3, style="opset13", **options))


def linked(nodes: list[Node], shape: tuple[int, ...], output: str, constants: object) -> Graph:
    return Graph(make_graph(nodes, {"images": shape}, [output], constants))


def test_fixed_ranges_of_equalised_channels_are_refused():
    """The Mul of an equalised tensor has no bound, and the product of both would be useless."""
    with pytest.raises(ConfigurationError, match=r"equalised.*leave out `equalize`, or set `algo"):
        QuantizeOptions(algorithm="fixed", equalize=0.75)


def test_overrides_are_patterns_whatever_the_algorithm():
    model = convolution()
    ranges = DynamicRanges.from_amax({"x": 1.0, "y": 1.0})
    override_ranges(model, ranges, {"[xy]": 3.0, "y": 5.0})
    assert ranges.amax("x") == pytest.approx(3.0) and ranges.amax("y") == pytest.approx(5.0)
    assert set(ranges) == {"x", "y"}
    with pytest.raises(ConfigurationError, match=r"'reg_\*'.*such as x, y.*`overrides`"):
        override_ranges(model, ranges, {"reg_*": 3.0})
    images_ = [np.ones((1, 3, 4, 4), np.float32)]
    options = QuantizeOptions(algorithm="max", overrides={"x": 9.0})
    assert quantize(model, images_, options).ranges.amax("x") == pytest.approx(9.0)


def convolution(**shape: int) -> Graph:
    weights = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)
    batch = shape.get("batch", 1)
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    return Graph(make_graph(nodes, {"x": (batch, 3, 4, 4)}, ["y"], {"w": weights}))


def half_input() -> Graph:
    graph = convolution()
    to_float16(graph, float16_input=True, float16_outputs=True)
    return graph


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
    model.nodes[0].attrs["group"] = 2
    with pytest.raises(EngineError, match=r"does not run the model|cannot load the model"):
        layer_sensitivity(model, DynamicRanges(), [np.ones((1, 3, 4, 4), np.float32)])


def test_a_model_in_fp16_is_not_quantised():
    with pytest.raises(ModelError, match=r"weights in FP16.*FP32 model"):
        insert_qdq(half_input(), DynamicRanges.from_amax({"x": 4.0, "y": 4.0}))
    model = convolution()
    to_float16(model)
    seen: list[str] = []
    inputs = (seen.append("opened") for _ in range(1))
    with pytest.raises(ModelError, match="weights in FP16"):
        quantize(model, inputs, QuantizeOptions())
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
    implicit = remove_qdq(Graph(model), for_dla=True)
    assert implicit.explicit == ("x", "d")
    assert [value.name for value in implicit.graph.outputs] == ["y"]
    assert "y" in implicit.ranges and not implicit.keep_float
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    # Not with ONNX Runtime's optimisations, which take such pairs for something else (1.31).
    expected = run_as_is(model, {"x": x})["y"]
    found = run_as_is(implicit.graph.to_model(), {"x": x})["y"]
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
    model = Graph(make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], check=False))
    ranges = DynamicRanges.from_amax({"a": 9.0, "b": 1.0, "c": 9.0, "d": 1.0})
    groups = unify_for_dla(model, ranges)
    assert sorted(map(sorted, groups)) == [["a", "c"], ["b", "d"]]
    assert ranges.amax("d") == pytest.approx(1.0)
