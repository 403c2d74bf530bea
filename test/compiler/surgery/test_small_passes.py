# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Folding, no-ops, batch norm, activations, upsampling, splitting, duplicates."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from onnx.numpy_helper import from_array
from support.onnx_graphs import make_graph, operators, random_feeds, run, worst
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery.activation_patterns import ActivationPatterns
from yolox_trt.compiler.surgery.batch_norm_fusion import BatchNormFusion
from yolox_trt.compiler.surgery.constant_folding import ConstantFolding
from yolox_trt.compiler.surgery.conv_splitting import ConvSplitting
from yolox_trt.compiler.surgery.duplicate_merging import DuplicateMerging
from yolox_trt.compiler.surgery.no_op_removal import NoOpRemoval
from yolox_trt.compiler.surgery.upsample_to_scales import UpsampleToScales

RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def check(rewrite, model, *, tolerance=1e-6, expected=None):
    """Run a pass, compare outputs, return (new model, changes)."""
    result = apply(rewrite, model)
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(result.model, feeds)) <= tolerance
    if expected is not None:
        assert operators(result.model) == expected
    return result


class TestConstantFolding:
    def test_shape_chains_of_an_exporter(self) -> None:
        model = build_yolox(style="opset13", upsample="sizes")
        result = apply(ConstantFolding(), model)
        left = operators(result.model)
        assert not {"Shape", "Gather", "Unsqueeze", "Constant"} & left.keys()
        feeds = random_images(model)
        assert worst(run(model, feeds), run(result.model, feeds)) == 0.0

    def test_what_depends_on_an_open_batch_stays(self) -> None:
        model = build_yolox(style="opset13", batch=None)
        result = apply(ConstantFolding(), model)
        assert operators(result.model).get("Shape", 0) > 0
        for size in (1, 2):
            feeds = random_images(model, batch=size)
            assert worst(run(model, feeds), run(result.model, feeds)) == 0.0


class TestNoOps:
    @pytest.mark.parametrize(
        "node",
        [
            ("Identity", ["a"], {}),
            ("Cast", ["a"], {"to": 1}),
            ("Transpose", ["a"], {"perm": [0, 1, 2, 3]}),
            ("Reshape", ["a", "same"], {}),
            ("Concat", ["a"], {"axis": 1}),
            ("Mul", ["a", "one"], {}),
            ("Div", ["a", "one"], {}),
            ("Add", ["a", "zero"], {}),
            ("Sub", ["a", "zero"], {}),
            ("Pad", ["a", "nothing"], {}),
            ("MaxPool", ["a"], {"kernel_shape": [1, 1]}),
            ("Slice", ["a", "start", "end", "axis"], {}),
        ],
        ids=lambda node: node[0],
    )
    @pytest.mark.parametrize("last", [True, False])
    def test_identities(self, node, last) -> None:
        op, inputs, attrs = node
        constants = {
            "same": np.array([1, 3, 6, 8]),
            "one": np.float32(1.0),
            "zero": np.float32(0.0),
            "nothing": np.zeros(8, np.int64),
            "start": np.array([0]),
            "end": np.array([6]),
            "axis": np.array([2]),
        }
        used = {k: v for k, v in constants.items() if k in inputs}
        nodes = [("Sigmoid", ["x"], ["a"], {}), (op, inputs, ["b"], attrs)]
        if not last:
            nodes.append(("Tanh", ["b"], ["c"], {}))
        model = make_graph(nodes, {"x": (1, 3, 6, 8)}, ["b" if last else "c"], used)
        expected = {"Sigmoid": 1} if last else {"Sigmoid": 1, "Tanh": 1}
        check(NoOpRemoval(), model, tolerance=0.0, expected=expected)

    @pytest.mark.parametrize(
        "node",
        [
            ("Mul", ["x", "big"], {}),  # broadcasts to a larger shape
            ("Sub", ["zero", "x"], {}),  # the constant is the first operand
            ("Transpose", ["x"], {"perm": [0, 1, 3, 2]}),
            ("Slice", ["x", "start", "end", "axis", "back"], {}),  # the same shape, reversed
        ],
        ids=lambda node: node[0],
    )
    def test_what_only_looks_like_one(self, node) -> None:
        op, inputs, attrs = node
        constants = {
            "big": np.ones((1, 3, 6, 6), np.float32),
            "zero": np.float32(0.0),
            "start": np.array([-1]),
            "end": np.array([-(2**31)]),
            "axis": np.array([2]),
            "back": np.array([-1]),
        }
        used = {k: v for k, v in constants.items() if k in inputs}
        size = (1, 1, 6, 6) if op == "Mul" else (1, 3, 6, 6)
        model = make_graph([(op, inputs, ["y"], attrs)], {"x": size}, ["y"], used)
        assert not check(NoOpRemoval(), model).changes

    def test_an_identity_between_input_and_output_stays(self) -> None:
        model = make_graph([("Identity", ["x"], ["y"], {})], {"x": (1, 3, 4, 4)}, ["y"])
        assert not apply(NoOpRemoval(), model).changes

    def test_transposes_join(self) -> None:
        nodes = [
            ("Transpose", ["x"], ["a"], {"perm": [0, 2, 3, 1]}),
            ("Transpose", ["a"], ["b"], {"perm": [0, 3, 1, 2]}),
            ("Sigmoid", ["b"], ["y"], {}),
        ]
        model = make_graph(nodes, {"x": (1, 3, 4, 5)}, ["y"])
        check(NoOpRemoval(), model, tolerance=0.0, expected={"Sigmoid": 1})

    def test_zero_padding_goes_into_the_convolution(self) -> None:
        pads = np.array([0, 0, 1, 2, 0, 0, 0, 1])
        nodes = [
            ("Pad", ["x", "pads"], ["p"], {}),
            ("Conv", ["p", "w"], ["y"], {"pads": [1, 0, 0, 1]}),
        ]
        constants = {"pads": pads, "w": normal(4, 3, 3, 3)}
        model = make_graph(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants)
        check(NoOpRemoval(), model, expected={"Conv": 1})

    @pytest.mark.parametrize("mode", ["reflect", "edge", "value"])
    def test_other_padding_stays(self, mode) -> None:
        constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": normal(4, 3, 3, 3)}
        inputs = ["x", "pads"]
        if mode == "value":
            inputs.append("value")
            constants["value"] = np.float32(0.5)
        attrs = {"mode": "constant" if mode == "value" else mode}
        nodes = [("Pad", inputs, ["p"], attrs), ("Conv", ["p", "w"], ["y"], {})]
        model = make_graph(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants)
        assert not check(NoOpRemoval(), model).changes

    def test_a_second_clip(self) -> None:
        constants = {"lo": np.float32(0), "hi": np.float32(6), "wide": np.float32(7)}
        nodes = [
            ("Clip", ["x", "lo", "hi"], ["a"], {}),
            ("Clip", ["a", "lo", "wide"], ["b"], {}),
            ("Relu", ["b"], ["y"], {}),
        ]
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        check(NoOpRemoval(), model, tolerance=0.0, expected={"Clip": 1})
        nodes[1] = ("Clip", ["a", "lo", "narrow"], ["b"], {})
        constants["narrow"] = np.float32(1)
        del constants["wide"]
        narrow = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        check(NoOpRemoval(), narrow, tolerance=0.0, expected={"Clip": 2})

    def test_a_second_clip_with_bounds_of_one_element(self) -> None:
        """ONNX asks for scalars; some exporters write vectors of one, which runtimes take."""
        nodes = [(op, [x, "lo", "hi"], [y], {}) for op, x, y in (("Clip", "x", "a"),
                                                                ("Clip", "a", "y"))]  # fmt: skip
        constants = {"lo": np.zeros(1, np.float32), "hi": np.full(1, 6, np.float32)}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants, check=False)
        assert operators(apply(NoOpRemoval(), model).model) == {"Clip": 1}


class TestBatchNorm:
    def constants(self, channels: int, prefix: str = "") -> dict[str, np.ndarray]:
        return {
            f"{prefix}gamma": RNG.uniform(0.5, 2, channels).astype(np.float32),
            f"{prefix}beta": normal(channels),
            f"{prefix}mean": normal(channels),
            f"{prefix}var": RNG.uniform(0.1, 2, channels).astype(np.float32),
        }

    @pytest.mark.parametrize("groups", [1, 2, 6])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
    def test_is_exact(self, groups, bias, op) -> None:
        out = 12
        shape = (out, 6 // groups, 3, 3) if op == "Conv" else (6, out // groups, 3, 3)
        constants = {"w": normal(*shape), **self.constants(out)}
        inputs = ["x", "w"]
        if bias:
            constants["b"] = normal(out)
            inputs.append("b")
        nodes = [
            (op, inputs, ["c"], {"group": groups, "pads": [1] * 4}),
            ("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], {"epsilon": 1e-3}),
        ]
        model = make_graph(nodes, {"x": (2, 6, 9, 7)}, ["y"], constants)
        check(BatchNormFusion(), model, tolerance=1e-6, expected={op: 1})

    def test_per_channel_mul_and_add(self) -> None:
        nodes = [
            ("Conv", ["x", "w"], ["c"], {}),
            ("Mul", ["c", "m"], ["d"], {}),
            ("Add", ["a", "d"], ["y"], {}),
        ]
        constants = {"w": normal(5, 3, 1, 1), "m": normal(1, 5, 1, 1), "a": normal(5, 1, 1)}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        check(BatchNormFusion(), model, expected={"Conv": 1})

    def test_a_second_reader_keeps_both(self) -> None:
        nodes = [
            ("Conv", ["x", "w"], ["c"], {}),
            ("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], {}),
            ("Add", ["c", "n"], ["y"], {}),
        ]
        constants = {"w": normal(5, 3, 1, 1), **self.constants(5)}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        assert not check(BatchNormFusion(), model).changes

    def test_a_row_of_constants_is_not_per_channel(self) -> None:
        nodes = [("Conv", ["x", "w"], ["c"], {}), ("Mul", ["c", "m"], ["y"], {})]
        constants = {"w": normal(4, 3, 1, 1), "m": normal(4)}  # along W, which is 4 too
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        assert not check(BatchNormFusion(), model).changes

    def test_a_whole_network(self) -> None:
        model = build_yolox(batch_norm=True)
        result = apply(BatchNormFusion(), model)
        assert "BatchNormalization" not in operators(result.model)
        feeds = random_images(model)
        assert worst(run(model, feeds), run(result.model, feeds)) < 1e-5


class TestActivations:
    FORMS: ClassVar = {
        "exp_neg": [
            ("Neg", ["x"], ["n"], {}),
            ("Exp", ["n"], ["e"], {}),
            ("Add", ["e", "one"], ["d"], {}),
            ("Div", ["x", "d"], ["y"], {}),
        ],
        "exp_mul": [
            ("Mul", ["x", "minus"], ["n"], {}),
            ("Exp", ["n"], ["e"], {}),
            ("Add", ["one", "e"], ["d"], {}),
            ("Div", ["one", "d"], ["s"], {}),
            ("Mul", ["s", "x"], ["y"], {}),
        ],
        "reciprocal": [
            ("Neg", ["x"], ["n"], {}),
            ("Exp", ["n"], ["e"], {}),
            ("Add", ["e", "one"], ["d"], {}),
            ("Reciprocal", ["d"], ["s"], {}),
            ("Mul", ["x", "s"], ["y"], {}),
        ],
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_forms_of_silu(self, form) -> None:
        nodes = self.FORMS[form]
        names = {i for n in nodes for i in n[1]}
        constants = {"one": np.float32(1), "minus": np.float32(-1)}
        used = {k: v for k, v in constants.items() if k in names}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], used)
        check(ActivationPatterns(), model, expected={"Sigmoid": 1, "Mul": 1})

    def test_a_gate_on_another_tensor_is_no_silu(self) -> None:
        nodes = [("Sigmoid", ["a"], ["s"], {}), ("Mul", ["x", "s"], ["y"], {})]
        model = make_graph(nodes, {"x": (1, 3, 4, 4), "a": (1, 3, 4, 4)}, ["y"])
        result = check(ActivationPatterns(), model)
        assert not result.changes and not result.notes

    @pytest.mark.parametrize("activation", ["hardswish", "hardswish_op"])
    def test_hard_swish_of_a_network(self, activation) -> None:
        model = build_yolox(activation=activation)
        result = apply(ActivationPatterns(), model)
        assert not {"HardSwish", "HardSigmoid"} & operators(result.model).keys()
        feeds = random_images(model)
        assert worst(run(model, feeds), run(result.model, feeds)) < 1e-5

    def test_hard_sigmoid_alone(self) -> None:
        nodes = [("HardSigmoid", ["x"], ["y"], {"alpha": 0.3, "beta": 0.4})]
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"])
        check(ActivationPatterns(), model, expected={"Mul": 1, "Add": 1, "Clip": 1})

    def test_silu_is_counted(self) -> None:
        result = apply(ActivationPatterns(), build_yolox())
        assert not result.changes
        assert result.notes[0].startswith("74 SiLU")


class TestUpsample:
    @staticmethod
    def resize(form: str, rounding: str, scales=(2.0, 2.0), sizes=None, mode="nearest"):
        attrs = {
            "coordinate_transformation_mode": form,
            "nearest_mode": rounding,
            "mode": mode,
        }
        if sizes is not None:
            inputs, constants = ["x", "", "", "sizes"], {"sizes": np.array(sizes)}
        else:
            inputs, constants = ["x", "", "scales"], {"scales": np.float32([1, 1, *scales])}
        return make_graph([("Resize", inputs, ["y"], attrs)], {"x": (1, 2, 5, 6)}, ["y"], constants)

    @pytest.mark.parametrize("scale", [2, 3, 4])
    @pytest.mark.parametrize("form", ["half_pixel", "asymmetric", "tf_half_pixel_for_nn",
                                      "align_corners", "pytorch_half_pixel"])  # fmt: skip
    @pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor",
                                          "round_prefer_ceil"])  # fmt: skip
    def test_rewritten_only_where_equal(self, scale, form, rounding) -> None:
        """Whatever the mode: afterwards the values are the same, bit by bit."""
        model = self.resize(form, rounding, (float(scale), float(scale)))
        x = np.arange(60, dtype=np.float32).reshape(1, 2, 5, 6)
        before = run(model, {"x": x})["y"]
        result = apply(UpsampleToScales(), model)
        np.testing.assert_array_equal(run(result.model, {"x": x})["y"], before)
        equal = np.array_equal(before, x.repeat(scale, 2).repeat(scale, 3))
        plain = form == "asymmetric" and rounding == "floor"
        assert bool(result.changes) == (equal and not plain)

    def test_output_sizes_become_scales(self) -> None:
        model = self.resize("asymmetric", "floor", sizes=[1, 2, 10, 18])
        result = check(UpsampleToScales(), model, tolerance=0.0)
        assert result.changes
        node = result.model.graph.node[0]
        assert len(node.input) == 3

    def test_a_broken_scale_is_left_alone(self) -> None:
        model = self.resize("asymmetric", "floor", (1.6, 1.5))
        result = check(UpsampleToScales(), model, tolerance=0.0)
        assert not result.changes and "whole-number" in result.notes[0]

    def test_linear_is_left_alone(self) -> None:
        result = apply(UpsampleToScales(), self.resize("half_pixel", "floor", mode="linear"))
        assert not result.changes and "linear" in result.notes[0]


class TestConvSplitting:
    @staticmethod
    def conv(cin: int, cout: int, groups: int = 1, kernel: int = 3, width: int = 8, bias=True):
        constants = {"w": normal(cout, cin // groups, kernel, kernel)}
        inputs = ["x", "w"]
        if bias:
            constants["b"] = normal(cout)
            inputs.append("b")
        attrs = {"group": groups, "pads": [kernel // 2] * 4}
        return make_graph(
            [("Conv", inputs, ["y"], attrs)], {"x": (1, cin, 4, width)}, ["y"], constants
        )

    @pytest.mark.parametrize(("groups", "most", "count"), [(8, 4, 2), (8, 1, 8), (6, 4, 2)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_groups(self, groups, most, count, bias) -> None:
        model = self.conv(24, 48, groups, bias=bias)
        result = check(ConvSplitting(max_groups=most), model)
        found = operators(result.model)
        assert found == {"Slice": count, "Conv": count, "Concat": 1}

    def test_output_maps_over_the_limit(self) -> None:
        model = self.conv(1, 9000, kernel=1)
        found = operators(check(ConvSplitting(), model).model)
        assert found == {"Conv": 2, "Concat": 1}

    def test_the_convolution_buffer(self) -> None:
        # 512 channels of 640 columns, 5 rows: far over 16 banks.
        model = self.conv(512, 4, kernel=5, width=640)
        result = check(ConvSplitting(), model, tolerance=1e-5)
        found = operators(result.model)
        assert found["Conv"] > 1 and found["Add"] == found["Conv"] - 1

    def test_within_the_limits_nothing_changes(self) -> None:
        assert not apply(ConvSplitting(), self.conv(64, 64, 64)).changes


class TestDuplicates:
    def test_equal_branches_merge(self) -> None:
        w = normal(4, 3, 1, 1)
        nodes = [
            ("Conv", ["x", "w1"], ["a"], {}),
            ("Conv", ["x", "w2"], ["b"], {}),
            ("Relu", ["a"], ["c"], {}),
            ("Relu", ["b"], ["d"], {}),
            ("Conv", ["x", "w3"], ["e"], {}),
            ("Sum", ["c", "d", "e"], ["y"], {}),
        ]
        constants = {"w1": w, "w2": w.copy(), "w3": w + 1}
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants)
        check(DuplicateMerging(), model, tolerance=0.0, expected={"Conv": 2, "Relu": 1, "Sum": 1})

    def test_outputs_keep_their_names(self) -> None:
        nodes = [("Relu", ["x"], ["a"], {}), ("Relu", ["x"], ["b"], {})]
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["a", "b"])
        result = apply(DuplicateMerging(), model)
        assert [o.name for o in result.model.graph.output] == ["a", "b"]
        feeds = random_feeds(model)
        assert worst(run(model, feeds), run(result.model, feeds)) == 0.0

    def test_tensors_in_attributes_count(self) -> None:
        nodes = [
            ("ConstantOfShape", ["size"], [name], {"value": from_array(np.array([value], "f"))})
            for name, value in (("a", 1.0), ("b", 5.0))
        ]
        model = make_graph([*nodes, ("Sum", ["x", "a", "b"], ["y"], {})],
                           {"x": (1, 3)}, ["y"], {"size": [1, 3]})  # fmt: skip
        assert not apply(DuplicateMerging(), model).changes
        model.graph.node[1].attribute[0].CopyFrom(model.graph.node[0].attribute[0])
        assert apply(DuplicateMerging(), model).changes

    def test_attributes_count(self) -> None:
        nodes = [
            ("LeakyRelu", ["x"], ["a"], {"alpha": 0.1}),
            ("LeakyRelu", ["x"], ["b"], {"alpha": 0.2}),
            ("Add", ["a", "b"], ["y"], {}),
        ]
        model = make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"])
        assert not apply(DuplicateMerging(), model).changes
