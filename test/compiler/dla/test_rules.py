# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Every rule of the restriction table, at its limit and one step over it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from support.onnx_graphs import make_graph

from yolox_trt.compiler.dla import DLA_LIMITS, check
from yolox_trt.compiler.dla.limits import limits_for
from yolox_trt.compiler.dla.node_checks import cbuf_banks
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.compiler.dla.rules import RULES, Effect
from yolox_trt.core.errors import ConfigurationError

INPUT = (1, 8, 40, 40)
f32 = np.float32


def verdict(nodes, constants=None, *, shape=INPUT, tensorrt="8.6", precision="int8", soc="orin",
            opset=13, dtype=TensorProto.FLOAT, index=0, outputs=("y",)):  # fmt: skip
    """Lint a small graph; return (device, ids of broken rules) of one node."""
    inputs = shape if isinstance(shape, dict) else {"x": shape}
    model = make_graph(
        nodes, inputs, list(outputs), constants, opset=opset, dtype=dtype, check=False
    )
    report = check(model, DlaTarget(tensorrt=tensorrt, precision=precision, soc=soc))
    node = report.nodes[index]
    return node.device, {v.rule for v in node.violations if v.effect is not Effect.NOTE}


def weights(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def conv(kernel=(3, 3), cin=8, cout=8, groups=1, **attrs):
    nodes = [("Conv", ["x", "w"], ["y"], {"group": groups, **attrs})]
    return nodes, {"w": weights(cout, cin // groups, *kernel)}


ON_DLA = [
    ("conv", *conv()),
    ("conv kernel 32", *conv((32, 32))),
    ("conv stride 8", *conv(strides=[8, 8])),
    ("conv padding 2 of 3", *conv(pads=[2] * 4)),
    ("conv dilation 8", *conv(dilations=[8, 8])),
    ("conv groups", *conv(groups=8)),
    ("conv same padding", *conv((5, 5), auto_pad="SAME_UPPER")),
    ("conv maps 8192", *conv((1, 1), cout=8192)),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {"strides": [2, 2]})],
     {"w": weights(8, 4, 2, 2)}),
    ("deconv 1x64", [("ConvTranspose", ["x", "w"], ["y"], {})], {"w": weights(8, 4, 1, 64)}),
    ("deconv 96x1", [("ConvTranspose", ["x", "w"], ["y"], {"strides": [128, 1]})],
     {"w": weights(8, 4, 96, 1)}),
    ("pool 8", [("MaxPool", ["x"], ["y"], {"kernel_shape": [8, 8]})], {}),
    ("pool stride 16", [("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [16, 16]})],
     {}),
    ("average", [("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3]})], {}),
    ("relu", [("Relu", ["x"], ["y"], {})], {}),
    ("relu6", [("Clip", ["x", "a", "b"], ["y"], {})], {"a": f32(0), "b": f32(6)}),
    ("clip 127", [("Clip", ["x", "a", "b"], ["y"], {})], {"a": f32(0), "b": f32(127)}),
    ("leaky", [("LeakyRelu", ["x"], ["y"], {"alpha": 0.1})], {}),
    ("prelu", [("PRelu", ["x", "s"], ["y"], {})], {"s": weights(8, 1, 1)}),
    ("add channel", [("Add", ["x", "c"], ["y"], {})], {"c": weights(1, 8, 1, 1)}),
    ("mul scalar", [("Mul", ["x", "c"], ["y"], {})], {"c": f32(2)}),
    ("sub", [("Sub", ["x", "c"], ["y"], {})], {"c": weights(1, 8, 40, 40)}),
    ("max", [("Max", ["x", "c"], ["y"], {})], {"c": weights(1, 1, 1, 1)}),
    ("concat", [("Concat", ["x", "x"], ["y"], {"axis": 1})], {}),
    ("concat -3", [("Concat", ["x", "x"], ["y"], {"axis": -3})], {}),
    ("nearest", [("Resize", ["x", "", "s"], ["y"], {
        "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
    })], {"s": f32([1, 1, 2, 2])}),
    ("nearest half-pixel", [("Resize", ["x", "", "s"], ["y"], {
        "mode": "nearest", "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_ceil",
    })], {"s": f32([1, 1, 32, 32])}),
    ("linear", [("Resize", ["x", "", "s"], ["y"], {
        "mode": "linear", "coordinate_transformation_mode": "half_pixel",
    })], {"s": f32([1, 1, 4, 4])}),
    ("transpose", [("Transpose", ["x"], ["y"], {"perm": [0, 2, 3, 1]})], {}),
    ("reshape 4D", [("Reshape", ["x", "t"], ["y"], {})], {"t": np.array([1, 4, 80, 40])}),
    ("abs", [("Abs", ["x"], ["y"], {})], {}),
    ("lrn fp16", [("LRN", ["x"], ["y"], {"size": 9})], {}),
    ("softmax", [("Softmax", ["x"], ["y"], {"axis": 1})], {}),
]  # fmt: skip

OFF_DLA = [
    ("conv-kernel", *conv((33, 33))),
    ("conv-stride", *conv(strides=[9, 9])),
    ("conv-padding", *conv(pads=[3] * 4)),
    ("conv-dilation", *conv((1, 1), dilations=[33, 33])),
    ("conv-maps", *conv((1, 1), cout=8193)),
    ("conv-2d", [("Conv", ["x", "w"], ["y"], {})], None),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {"pads": [1] * 4})],
     {"w": weights(8, 4, 3, 3)}),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {"group": 2})], {"w": weights(8, 4, 3, 3)}),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {})], {"w": weights(8, 4, 23, 23)}),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {})], {"w": weights(8, 4, 1, 63)}),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {})], {"w": weights(8, 4, 2, 64)}),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {"strides": [64, 64]})],
     {"w": weights(8, 4, 2, 2)}),
    ("deconv", [("ConvTranspose", ["x", "w"], ["y"], {"strides": [24, 24]})],
     {"w": weights(8, 4, 2, 2)}),
    ("pool-window", [("MaxPool", ["x"], ["y"], {"kernel_shape": [9, 9]})], {}),
    ("pool-window", [("AveragePool", ["x"], ["y"], {"kernel_shape": [1, 9]})], {}),
    ("pool-stride", [("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "strides": [17, 1]})], {}),
    ("pool-form", [("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "dilations": [2, 2]})], {}),
    ("clip-range", [("Clip", ["x", "a", "b"], ["y"], {})], {"a": f32(0), "b": f32(128)}),
    ("clip-range", [("Clip", ["x", "a", "b"], ["y"], {})], {"a": f32(-1), "b": f32(6)}),
    ("clip-range", [("Clip", ["x", "a"], ["y"], {})], {"a": f32(0)}),
    ("elementwise-broadcast", [("Add", ["x", "c"], ["y"], {})], {"c": weights(1, 1, 40, 1)}),
    ("elementwise-broadcast", [("Mul", ["x", "c"], ["y"], {})], {"c": weights(1, 1, 40, 40)}),
    ("concat-axis", [("Concat", ["x", "x"], ["y"], {"axis": 2})], {}),
    ("concat-inputs", [("Concat", ["x"], ["y"], {"axis": 1})], {}),
    ("lrn", [("LRN", ["x"], ["y"], {"size": 11})], {}),
    ("resize-scales", [("Resize", ["x", "", "", "s"], ["y"], {
        "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
    })], {"s": np.array([1, 8, 80, 80])}),
    ("resize-factor", [("Resize", ["x", "", "s"], ["y"], {
        "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
    })], {"s": f32([1, 1, 33, 33])}),
    ("resize-factor", [("Resize", ["x", "", "s"], ["y"], {"mode": "linear"})],
     {"s": f32([1, 1, 5, 5])}),
    ("resize-factor", [("Resize", ["x", "", "s"], ["y"], {"mode": "linear"})],
     {"s": f32([1, 1, 1.5, 1.5])}),
    ("resize-mode", [("Resize", ["x", "", "s"], ["y"], {
        "coordinate_transformation_mode": "align_corners",
    })], {"s": f32([1, 1, 2, 2])}),
    ("slice-stride", [("Slice", ["x", "a", "b", "c", "d"], ["y"], {})],
     {"a": [0], "b": [40], "c": [2], "d": [2]}),
    ("slice-form", [("Slice", ["x", "a", "b", "c"], ["y"], {})], {"a": [0], "b": [1], "c": [0]}),
    ("softmax", [("Softmax", ["x"], ["y"], {"axis": 0})], {}),
    ("shuffle-4d", [("Reshape", ["x", "t"], ["y"], {})], {"t": np.array([1, 8, 1600])}),
    ("shuffle-batch", [("Reshape", ["x", "t"], ["y"], {})], {"t": np.array([2, 4, 40, 40])}),
    ("shuffle-batch", [("Transpose", ["x"], ["y"], {"perm": [1, 0, 2, 3]})], {}),
    ("operator", [("Exp", ["x"], ["y"], {})], {}),
    ("operator", [("HardSwish", ["x"], ["y"], {})], {}),
    ("operator", [("GlobalAveragePool", ["x"], ["y"], {})], {}),
    ("operator", [("Flatten", ["x"], ["y"], {})], {}),
    ("operator", [("Gather", ["x", "i"], ["y"], {"axis": 1})], {"i": np.array([2, 1, 0])}),
    ("operator", [("ReduceMean", ["x"], ["y"], {"axes": [2, 3]})], {}),
]  # fmt: skip


def opset_of(nodes) -> int:
    return 14 if nodes[0][0] == "HardSwish" else 13


@pytest.mark.parametrize("tensorrt", sorted(DLA_LIMITS))
@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(("name", "nodes", "constants"), ON_DLA, ids=[c[0] for c in ON_DLA])
def test_within_the_limits(name, nodes, constants, tensorrt, precision) -> None:
    device, broken = verdict(nodes, constants, tensorrt=tensorrt, precision=precision)
    assert device == "dla", broken


@pytest.mark.parametrize("tensorrt", sorted(DLA_LIMITS))
@pytest.mark.parametrize(("rule", "nodes", "constants"), OFF_DLA)
def test_over_the_limits(rule, nodes, constants, tensorrt) -> None:
    shape = INPUT
    if constants is None:
        constants, shape = {}, {"x": INPUT, "w": (8, 8, 3, 3)}
    constants = {k: np.asarray(v) for k, v in constants.items()}
    device, broken = verdict(
        nodes, constants, shape=shape, tensorrt=tensorrt, opset=opset_of(nodes)
    )
    assert device == "gpu"
    assert rule in broken


def test_every_rule_that_sends_to_the_gpu_is_tested_here() -> None:
    tested = {rule for rule, *_ in OFF_DLA} | ELSEWHERE
    assert {r.rule for r in RULES.values() if r.effect is Effect.GPU} == tested


#: Rules that the tests below (or test_linter.py) cover.
ELSEWHERE = {
    "activation-2d", "pad", "static-shape", "batch", "dimension", "data-type", "uint8-input",
    "conv-groups", "conv-cbuf", "pool-padding", "pool-exclusive", "prelu-slope", "comparison",
    "softmax-xavier", "matmul",
    "reduce", "loadables", "intermediates", "qdq", "qdq-symmetric",
}  # fmt: skip


def test_groups_over_the_limit() -> None:
    nodes, constants = conv((1, 1), cin=8193, cout=8193, groups=8193)
    _, broken = verdict(nodes, constants, shape=(1, 8193, 4, 4))
    assert {"conv-groups", "conv-maps", "dimension"} <= broken


def test_pool_padding() -> None:
    attrs = {"kernel_shape": [8, 8], "pads": [8, 0, 0, 0]}
    _, broken = verdict([("MaxPool", ["x"], ["y"], attrs)])
    assert broken == {"pool-padding"}


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "PRelu"])
def test_activations_of_other_ranks(op) -> None:
    constants = {"Clip": {"a": f32(0), "b": f32(6)}, "PRelu": {"a": weights(40)}}.get(op, {})
    _, broken = verdict([(op, ["x", *constants], ["y"], {})], constants, shape=(1, 8, 40))
    assert "activation-2d" in broken


@pytest.mark.parametrize(
    ("pads", "attrs", "value", "broken"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], {}, None, set()),
        ([0, 1, 1, 1, 0, 0, 1, 1], {"mode": "wrap"}, None, set()),
        ([0, 0, 1, 1, 0, 0, 1, 1], {}, 0.0, set()),
        ([0, 0, 1, 1, 0, 0, 1, 1], {}, 114.0, {"pad"}),
        ([0, 0, 1, 1, 0, 0, 1, 1], {"mode": "edge"}, None, {"pad"}),
        ([1, 0, 0, 0, 0, 0, 0, 0], {}, None, {"pad"}),
    ],
)
def test_pads_are_slices_that_fill(pads, attrs, value, broken) -> None:
    constants = {"p": np.array(pads)} | ({} if value is None else {"v": f32(value)})
    nodes = [("Pad", ["x", *constants], ["y"], attrs)]
    kind = {"tensorrt": "11.4.1", "opset": 19}
    assert verdict(nodes, constants, **kind)[1] == broken
    assert verdict(nodes, constants, opset=19)[1] == {"operator"}


def test_computed_prelu_slope_and_matmul() -> None:
    shapes = {"x": INPUT, "s": INPUT}
    assert verdict([("PRelu", ["x", "s"], ["y"], {})], shape=shapes)[1] == {"prelu-slope"}
    assert verdict([("MatMul", ["x", "s"], ["y"], {})], shape=shapes)[1] == {"matmul"}


def test_xavier() -> None:
    average = [
        ("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1] * 4}),
    ]
    assert verdict(average, soc="orin")[0] == "dla"
    assert verdict(average, soc="xavier")[1] == {"pool-exclusive"}
    average[0][3]["count_include_pad"] = 1
    assert verdict(average, soc="xavier")[0] == "dla"
    assert verdict([("Softmax", ["x"], ["y"], {"axis": 1})], soc="xavier")[1] == {"softmax-xavier"}
    with pytest.raises(ConfigurationError, match="orin"):
        verdict(average, soc="xavier", tensorrt="10.3")


def test_sizes_and_batch() -> None:
    relu = [("Relu", ["x"], ["y"], {})]
    assert verdict(relu, shape=(1, 3, 8192, 4))[0] == "dla"
    assert verdict(relu, shape=(1, 3, 8193, 4))[1] == {"dimension"}
    assert verdict(relu, shape=(4096, 3, 4, 4))[0] == "dla"
    assert verdict(relu, shape=(4097, 3, 4, 4))[1] == {"batch"}
    assert verdict(relu, shape=("n", 3, 4, 4))[0] == "dla"
    assert verdict(relu, shape=(1, 3, "h", 4))[1] == {"static-shape"}


def test_data_types() -> None:
    nodes = [("Add", ["x", "x"], ["y"], {})]
    assert verdict(nodes, dtype=TensorProto.INT32)[1] == {"data-type"}
    nodes = [("Cast", ["x"], ["f"], {"to": 1}), ("Relu", ["f"], ["y"], {})]
    assert verdict(nodes, dtype=TensorProto.UINT8)[1] == {"uint8-input"}


def test_operators_that_came_later() -> None:
    for nodes in (
        [("Div", ["x", "x"], ["y"], {})],
        [("Sin", ["x"], ["y"], {})],
        [("GlobalMaxPool", ["x"], ["y"], {})],
        [("ReduceMax", ["x"], ["y"], {"axes": [1]})],
    ):
        assert verdict(nodes, tensorrt="8.5")[1] == {"operator"}
        assert verdict(nodes, tensorrt="8.6.2")[1] == {"operator"}
        assert verdict(nodes, tensorrt="8.6.12")[0] == "dla"
        assert verdict(nodes, tensorrt="10.3")[0] == "dla"
    assert verdict([("ReduceMax", ["x"], ["y"], {"axes": [0]})], tensorrt="10.3")[1] == {"reduce"}


def test_operators_whose_sources_disagree_are_marked() -> None:
    model = make_graph([("Div", ["x", "x"], ["y"], {})], {"x": INPUT}, ["y"])
    report = check(model, DlaTarget(tensorrt="10.3"))
    assert "uncertain" in {v.rule for v in report.nodes[0].violations}


def test_comparisons() -> None:
    nodes = [("Equal", ["x", "x"], ["b"], {}), ("Cast", ["b"], ["y"], {"to": 1})]
    assert verdict(nodes, precision="int8")[0] == "dla"
    assert verdict(nodes, precision="fp16")[1] == {"comparison"}
    assert verdict(nodes[:1], precision="int8", outputs=("b",))[1] == {"comparison"}


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh"])
def test_int8_activations_run_in_fp16(op) -> None:
    model = make_graph([(op, ["x"], ["y"], {})], {"x": INPUT}, ["y"])
    node = check(model, DlaTarget(precision="int8")).nodes[0]
    assert (node.device, node.precision) == ("dla", "fp16")
    node = check(model, DlaTarget(precision="fp16")).nodes[0]
    assert (node.device, node.precision) == ("dla", "fp16")


@pytest.mark.parametrize(
    ("tensorrt", "precision"), [("8.5", "int8"), ("8.6", "fp16"), ("10.3", "int8")]
)
def test_slices_run_in_fp16_with_8_6(tensorrt, precision) -> None:
    constants = {"a": np.array([0]), "b": np.array([4]), "c": np.array([1])}
    model = make_graph([("Slice", ["x", "a", "b", "c"], ["y"], {})], {"x": INPUT}, ["y"], constants)
    node = check(model, DlaTarget(tensorrt="8.6", precision="int8")).nodes[0]
    assert (node.device, node.precision) == ("dla", "fp16")
    node = check(model, DlaTarget(tensorrt=tensorrt, precision=precision)).nodes[0]
    assert node.precision == precision


@pytest.mark.parametrize("tensorrt", sorted(DLA_LIMITS))
def test_softmax_runs_in_fp16(tensorrt) -> None:
    softmax = [("Softmax", ["x"], ["y"], {"axis": 1})]
    assert verdict(softmax, tensorrt=tensorrt) == ("dla", {"softmax-fp16"})
    assert verdict(softmax, tensorrt=tensorrt, precision="fp16") == ("dla", set())


class TestConvolutionBuffer:
    @pytest.mark.parametrize(
        ("channels", "width", "kernel", "dilation", "precision", "expected"),
        [
            # By hand: 3 x 3 over 64 channels in INT8 are 576 bytes, a bank; ceil(64 / 32) * 320 / 4
            # = 160 entries of a row, times 3 rows = 480 / 256 -> 2 banks.
            (64, 320, (3, 3), 1, "int8", (2, 1)),
            # FP16 doubles both: 320 * 3 / 256 = 3.75.
            (64, 320, (3, 3), 1, "fp16", (4, 1)),
            # Dilation 2 keeps 5 rows: 160 * 5 / 256 = 3.125.
            (64, 320, (3, 3), 2, "int8", (4, 1)),
            # 4096 * 9 = 36,864 bytes of weights: two banks; 128 * 5 * 3 / 256 = 7.5.
            (4096, 20, (3, 3), 1, "int8", (8, 2)),
            # Three channels take a whole atom of 32 bytes: 240 entries, 6 rows, 5.625.
            (3, 960, (6, 6), 1, "int8", (6, 1)),
        ],
    )
    def test_formula(self, channels, width, kernel, dilation, precision, expected) -> None:
        assert cbuf_banks(channels, width, kernel, dilation, precision) == expected

    def test_over_the_buffer(self) -> None:
        nodes, constants = conv((5, 5), cin=512)
        assert verdict(nodes, constants, shape=(1, 512, 8, 640))[1] == {"conv-cbuf"}
        # Half the channels in each of two: mended by splitting.
        model = make_graph(nodes, {"x": (1, 512, 8, 640)}, ["y"], constants)
        assert check(model).fallback_nodes[0].reasons[0].mended_by == "split-convs"

    def test_precision_decides(self) -> None:
        nodes, constants = conv((3, 3), cin=256)
        shape = (1, 256, 8, 560)
        assert verdict(nodes, constants, shape=shape, precision="int8")[0] == "dla"
        assert verdict(nodes, constants, shape=shape, precision="fp16")[1] == {"conv-cbuf"}


@pytest.mark.parametrize(
    ("given", "known"),
    [("8.5", "8.5"), ("8.5.2.2", "8.5"), ("8.6.1", "8.6"), ("8.6.12.4", "8.6.12"),
     ("10.3.0", "10.3"), ("10.0.1", "10.3"), ("10.7", "10.3"), ("11.4.1", "11.4.1"),
     ("11.4.1.5", "11.4.1"), ("11.5.0", "11.4.1")],
)  # fmt: skip
def test_versions(given, known) -> None:
    assert limits_for(given).tensorrt == known


@pytest.mark.parametrize(
    ("version", "match"),
    [
        ("8.4", "one of"),
        ("10.8", "JetPack 6"),
        ("11.4.0", "JetPack 7.2.2"),
        ("9.3", "JetPack 6"),
        ("abc", "set `tensorrt`"),
    ],
)
def test_versions_without_known_rules(version, match) -> None:
    with pytest.raises(ConfigurationError, match=match):
        limits_for(version)


def test_precisions() -> None:
    with pytest.raises(ConfigurationError, match="int8 or fp16"):
        verdict([("Relu", ["x"], ["y"], {})], precision="fp32")
