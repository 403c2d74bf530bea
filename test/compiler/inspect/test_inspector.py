# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The inspector: published figures, channels, activations, efficiency, parser support."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import helper
from support.onnx_graphs import make_graph
from support.passes import apply
from support.yolox_graphs import NANO, build_yolox, build_yolox_s

from yolox_trt.compiler.inspect.cost import count_parameters, node_costs
from yolox_trt.compiler.inspect.hardware import HARDWARE, PUBLISHED_RUNS
from yolox_trt.compiler.inspect.inspector import inspect_model, read_profile
from yolox_trt.compiler.inspect.options import InspectOptions
from yolox_trt.compiler.inspect.parser_support import check_parser
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.output_paths import json_text
from yolox_trt.graph.graph import Graph


class TestPublishedFigures:
    def test_yolox_s_at_640(self) -> None:
        """YOLOX's own table: 26.8 GFLOPs (with batch norm and pooling), 8.97 M parameters."""
        found = inspect_model(build_yolox_s(batch_norm=True))
        assert found.gflops == pytest.approx(26.8, rel=0.006)
        assert found.parameters / 1e6 == pytest.approx(8.97, abs=0.005)

    @pytest.mark.parametrize(
        ("width", "depth", "gflops", "parameters"),
        [(0.375, 0.33, 21.66, 5.04), (0.5, 0.33, 38.07, 8.94), (0.75, 0.67, 104.84, 25.28)],
        ids=["tiny", "s", "m"],
    )
    def test_tier_iv_at_960x608(self, width, depth, gflops, parameters) -> None:
        graph = Graph(build_yolox(width=width, depth=depth, height=608, width_px=960))
        assert sum(c.gflops for c in node_costs(graph)) == pytest.approx(gflops, rel=0.003)
        assert count_parameters(graph) / 1e6 == pytest.approx(parameters, rel=0.003)

    def test_nano_at_416(self, data_dir) -> None:
        """YOLOX's own table: 1.08 GFLOPs, 0.91 M."""
        path = data_dir / "models" / "yolox_nano.onnx"
        if not path.is_file():
            pytest.skip(f"no {path}")
        found = inspect_model(path)
        assert found.gflops == pytest.approx(1.08, rel=0.04)
        assert found.parameters / 1e6 == pytest.approx(0.91, rel=0.01)

    @pytest.mark.parametrize("run", [r for r in PUBLISHED_RUNS if r.efficiency], ids=str)
    def test_efficiency_formula(self, run) -> None:
        """The printed efficiencies follow from the printed times, to the printed digits."""
        device = HARDWARE[run.device]
        found = device.efficiency(run.gflops, run.time_ms, "int8")
        assert found == pytest.approx(run.efficiency, abs=0.03)


class TestCost:
    @pytest.mark.parametrize(
        ("groups", "stride", "expected"),
        [
            # 2 x 10 x 12 x 9 x 8 x 16
            (1, 1, 2 * 120 * 9 * 8 * 16),
            (2, 1, 2 * 120 * 9 * 4 * 16),
            (8, 1, 2 * 120 * 9 * 1 * 16),
            (1, 2, 2 * 30 * 9 * 8 * 16),
        ],
    )
    def test_convolution(self, groups, stride, expected) -> None:
        constants = {"w": np.zeros((16, 8 // groups, 3, 3), np.float32)}
        attrs = {"group": groups, "pads": [1] * 4, "strides": [stride] * 2}
        model = make_graph(
            [("Conv", ["x", "w"], ["y"], attrs)], {"x": (1, 8, 10, 12)}, ["y"], constants
        )
        cost = node_costs(Graph(model))[0]
        assert cost.flops == expected
        assert cost.parameters == constants["w"].size
        # INT8: 960 in, 16 maps out, the weights.
        out = 16 * 120 // stride**2
        assert cost.intensity(1) == pytest.approx(expected / (960 + out + cost.parameters))

    def test_transposed_convolution_and_matrix_product(self) -> None:
        nodes = [
            ("ConvTranspose", ["x", "w"], ["a"], {"strides": [2, 2]}),
            ("MatMul", ["a", "m"], ["y"], {}),
        ]
        constants = {"w": np.zeros((8, 4, 2, 2), np.float32), "m": np.zeros((20, 7), np.float32)}
        costs = node_costs(Graph(make_graph(nodes, {"x": (1, 8, 5, 10)}, ["y"], constants)))
        assert costs[0].flops == 2 * 50 * 8 * 4 * 4
        assert costs[1].flops == 2 * (4 * 10 * 7) * 20

    def test_shared_weights_count_once(self) -> None:
        nodes = [("Conv", ["x", "w"], ["a"], {}), ("Conv", ["a", "w"], ["y"], {})]
        constants = {"w": np.zeros((8, 8, 1, 1), np.float32)}
        model = make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"], constants)
        assert count_parameters(Graph(model)) == 64

    def test_a_batch_multiplies_operations_not_parameters(self) -> None:
        one, four = (inspect_model(build_yolox(), InspectOptions(batch=b)) for b in (1, 4))
        assert four.gflops == pytest.approx(4 * one.gflops)
        assert four.parameters == one.parameters


class TestChannels:
    def test_nothing_is_lost_with_full_channels(self) -> None:
        constants = {"w": np.zeros((64, 32, 3, 3), np.float32)}
        model = make_graph(
            [("Conv", ["x", "w"], ["y"], {})], {"x": (1, 32, 8, 8)}, ["y"], constants
        )
        found = inspect_model(model)
        assert found.padded_gflops == pytest.approx(found.gflops) and not found.odd_channels

    @pytest.mark.parametrize(("precision", "use"), [("int8", 24 * 40 / (32 * 64)),
                                                    ("fp16", 24 * 40 / (32 * 48))])  # fmt: skip
    def test_what_padding_costs(self, precision, use) -> None:
        constants = {"w": np.zeros((40, 24, 3, 3), np.float32)}
        model = make_graph(
            [("Conv", ["x", "w"], ["y"], {})], {"x": (1, 24, 8, 8)}, ["y"], constants
        )
        found = inspect_model(model, InspectOptions(precision=precision))
        assert found.convs[0].utilisation == pytest.approx(use)
        assert found.padded_gflops == pytest.approx(found.gflops / use)

    def test_tiny_wastes_what_s_does_not(self) -> None:
        """TIER IV: Tiny's multiples of 24 leave the Tensor Cores idle."""
        tiny = inspect_model(build_yolox(depth=0.33, width=0.375))
        small = inspect_model(build_yolox(depth=0.33, width=0.5))
        assert tiny.padded_gflops / tiny.gflops > 1.2 > 1.06 > small.padded_gflops / small.gflops


class TestActivations:
    def test_silu_with_its_convolution(self) -> None:
        found = inspect_model(build_yolox(**NANO))
        assert found.activations == {"SiLU": 74, "Sigmoid": 6}
        assert sum(c.activation == "SiLU" for c in found.convs) == 74

    def test_bytes_of_silu(self) -> None:
        """x read twice, gate read, gate and product written: 5 x 128; the conv 2 x 128 + 64."""
        nodes = [
            ("Conv", ["x", "w"], ["a"], {}),
            ("Sigmoid", ["a"], ["s"], {}),
            ("Mul", ["a", "s"], ["y"], {}),
        ]
        constants = {"w": np.zeros((8, 8, 1, 1), np.float32)}
        model = make_graph(nodes, {"x": (1, 8, 4, 4)}, ["y"], constants)
        assert inspect_model(model).silu_bytes_share == pytest.approx(640 / (640 + 320))

    def test_relu6_has_no_silu(self) -> None:
        found = inspect_model(build_yolox(activation="relu6", **NANO))
        assert found.activations == {"ReLU6": 74, "Sigmoid": 6}
        assert found.silu_bytes_share == 0.0

    def test_depthwise_and_pointwise(self) -> None:
        found = inspect_model(build_yolox(depthwise=True, **NANO))
        assert 0 < found.depthwise_share < 0.2
        assert found.pointwise_share > 0.7
        assert inspect_model(build_yolox()).depthwise_share == 0


class TestTimes:
    def test_efficiency_of_a_measured_time(self) -> None:
        found = inspect_model(build_yolox_s(), InspectOptions(hardware="xavier-dla", time_ms=10.0))
        assert found.efficiency == pytest.approx(found.gflops / 0.010 / 5000 * 100)
        assert found.bound_ms is not None and 5.3 < found.bound_ms < 6.0
        assert [r.model for r in found.published] == ["YOLOX-S-plus-opt"] * 2

    def test_profile_of_tensorrt(self, tmp_path) -> None:
        """Layers are named after the nodes that they fuse; SiLU may be a layer of its own."""
        model = build_yolox()
        convs = [c.nodes for c in inspect_model(model).convs[:2]]
        first, second = convs
        profile = [
            {"count": 10},
            {"name": f"{first[0]} + PWN(PWN({first[1]}), {first[2]})", "averageMs": 3.0},
            {"name": second[0], "averageMs": 2.0},
            {"name": f"PWN(PWN({second[1]}), {second[2]})", "averageMs": 1.0},
            {"name": "Reformatting CopyNode for Input Tensor 0", "averageMs": 4.0},
        ]
        path = tmp_path / "profile.json"
        path.write_text(json.dumps(profile))
        found = inspect_model(
            model, InspectOptions(hardware="orin-gpu"), profile=read_profile(path)
        )
        assert found.time_ms == pytest.approx(10.0)
        assert found.convs[0].time_ms == pytest.approx(3.0)
        assert found.convs[1].time_ms == pytest.approx(3.0)
        assert found.convs[2].time_ms is None
        assert found.silu_time_share == pytest.approx(0.1)
        expected = found.convs[0].cost.gflops / 0.003 / 85000 * 100
        assert found.convs[0].efficiency == pytest.approx(expected)

    def test_other_forms_of_profiles(self, tmp_path) -> None:
        path = tmp_path / "profile.json"
        path.write_text(json.dumps({"a": 1.5}))
        assert read_profile(path) == {"a": 1.5}
        path.write_text(json.dumps({"layer_times_ms": [{"layer": "b", "ms": 2}]}))
        assert read_profile(path) == {"b": 2.0}

    @pytest.mark.parametrize("text", ["", "[1, 2]", "[]", '{"a": "b"}', "null"])
    def test_broken_profiles(self, tmp_path, text) -> None:
        path = tmp_path / "profile.json"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match="exportProfile"):
            read_profile(path)

    def test_wrong_arguments(self) -> None:
        model = build_yolox()
        with pytest.raises(ConfigurationError, match="hardware"):
            inspect_model(model, InspectOptions(time_ms=1.0))
        with pytest.raises(ConfigurationError, match="orin-dla"):
            inspect_model(model, InspectOptions(hardware="tpu"))
        with pytest.raises(ConfigurationError, match="precision"):
            inspect_model(model, InspectOptions(precision="fp32"))


class TestOpenSizes:
    def test_an_open_batch_counts_as_one(self) -> None:
        found = inspect_model(build_yolox(style="opset13", batch=None))
        assert found.input_shape == (1, 3, 64, 96)
        assert found.gflops == pytest.approx(inspect_model(build_yolox()).gflops)

    def test_open_sizes_need_the_option(self) -> None:
        model = build_yolox(style="opset13", dynamic_size=True, upsample="sizes")
        with pytest.raises(ModelError, match="input_size"):
            inspect_model(model)
        found = inspect_model(model, InspectOptions(input_size=(64, 96)))
        assert found.gflops == pytest.approx(inspect_model(build_yolox()).gflops)

    def test_an_unknown_operator_is_named_and_not_the_size(self) -> None:
        model = build_yolox(num_classes=3, width=0.125)
        model.opset_import.append(helper.make_opsetid("own", 1))
        for node in model.graph.node:
            if node.op_type == "MaxPool":
                node.name, node.op_type, node.domain = "first", "Own", "own"
                break
        with pytest.raises(ModelError, match=r"'first' \(Own\)") as error:
            inspect_model(model)
        assert "input_size" not in str(error.value)

    def test_another_size(self) -> None:
        found = inspect_model(build_yolox_s(320, 320), InspectOptions(input_size=(608, 960)))
        assert found.gflops == pytest.approx(38.07, rel=0.005)


class TestParser:
    X = {"x": (1, 3, 8, 8)}  # noqa: RUF012

    def problems(self, nodes, constants=None, tensorrt="8.6", outputs=("y",), **options):
        model = make_graph(nodes, self.X, list(outputs), constants, check=False, **options)
        return [(p.op, p.mended_by) for p in check_parser(Graph(model), tensorrt) if p.refused]

    @pytest.mark.parametrize("tensorrt", ["8.5", "8.6", "10.3", "11.4"])
    def test_yolox_is_taken(self, tensorrt) -> None:
        assert not inspect_model(
            build_yolox(style="opset13"), InspectOptions(tensorrt=tensorrt)
        ).refused

    def test_operators_that_only_newer_parsers_have(self) -> None:
        nodes = [("Mish", ["x"], ["y"], {})]
        assert self.problems(nodes, opset=18) == [("Mish", "")]
        assert self.problems(nodes, opset=18, tensorrt="10.3") == []

    def test_operators_nobody_has(self) -> None:
        nodes = [("NonZero", ["x"], ["n"], {}), ("Unique", ["n"], ["y"], {})]
        for tensorrt in ("8.6", "10.3"):
            assert self.problems(nodes, tensorrt=tensorrt) == [("Unique", "")]

    def test_only_of_a_yolox_the_head_can_be_cut(self) -> None:
        nodes = [("Conv", ["x", "w"], ["c"], {}), ("Mish", ["c"], ["y"], {})]
        constants = {"w": np.ones((4, 3, 1, 1), np.float32)}
        assert self.problems(nodes, constants, opset=18) == [("Mish", "")]

    def test_details(self) -> None:
        pool = {"kernel_shape": [2, 2], "dilations": [2, 2]}
        assert self.problems([("MaxPool", ["x"], ["y"], pool)]) == [("MaxPool", "")]
        resize = [("Resize", ["x", "", "s"], ["y"], {"mode": "cubic"})]
        constants = {"s": np.float32([1, 1, 2, 2])}
        assert [op for op, _ in self.problems(resize, constants)] == ["Resize"]
        pool = {"kernel_shape": [2, 2]}
        indices = [("MaxPool", ["x"], ["y", "i"], pool), ("Cast", ["i"], ["z"], {"to": 1})]
        assert [op for op, _ in self.problems(indices, outputs=("y", "z"))] == ["MaxPool"]

    def test_plugins(self) -> None:
        model = build_yolox(head="efficient_nms")
        assert not inspect_model(model, InspectOptions(tensorrt="10.3")).refused
        found = inspect_model(model, InspectOptions(tensorrt="11.4"))
        assert [(p.op, p.mended_by) for p in found.problems] == [("EfficientNMS_TRT", "cut-head")]

    def test_an_opset_over_the_parsers_is_a_warning(self) -> None:
        model = make_graph([("Relu", ["x"], ["y"], {})], self.X, ["y"], opset=18)
        problems = check_parser(Graph(model), "8.6")
        assert [p.op for p in problems] == ["opset"] and not problems[0].refused
        assert check_parser(Graph(model), "10.3") == []

    def test_zero_points(self) -> None:
        nodes = [("QuantizeLinear", ["x", "s", "z"], ["y"], {})]
        for zero, count in ((0, 0), (3, 1)):
            constants = {"s": np.float32(1), "z": np.int8(zero)}
            assert len(self.problems(nodes, constants)) == count

    def test_uint8_inputs(self) -> None:
        from yolox_trt.compiler.surgery.uint8_input import Uint8Input

        assert not inspect_model(apply(Uint8Input(), build_yolox(stem="conv")).model).refused
        nodes = [("Relu", ["x"], ["y"], {})]
        model = make_graph(nodes, self.X, ["y"], dtype=2, check=False)
        assert check_parser(Graph(model), "10.3")[0].op == "Relu"

    def test_old_versions_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"8\.5"):
            inspect_model(build_yolox(), InspectOptions(tensorrt="8.4"))


def test_json(tmp_path) -> None:
    found = inspect_model(build_yolox(), InspectOptions(hardware="orin-dla"))
    values = json.loads(json_text(found))
    assert values["gflops"] == pytest.approx(found.gflops)
    assert values["hardware"]["int8_tops"] == 26.25


def quantised_conv(shape=(6, 3, 3, 3)):
    """A convolution as Q/DQ graphs have it: input and INT8 weights behind DequantizeLinear."""
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("DequantizeLinear", ["qw", "s", "z"], ["w"], {}),
        ("Conv", ["d", "w", "b"], ["y"], {}),
    ]
    constants = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "qw": np.ones(shape, np.int8),
        "b": np.zeros(shape[0], np.float32),
    }
    return make_graph(nodes, {"x": (1, shape[1], 10, 10)}, ["y"], constants)


def test_quantised_graphs_are_counted() -> None:
    found = inspect_model(quantised_conv())
    assert found.gflops == pytest.approx(2 * 64 * 27 * 6 / 1e9)
    assert found.parameters == 6 * 27 + 6
    assert found.convs[0].cost.input_elements == 300
    assert not found.refused
