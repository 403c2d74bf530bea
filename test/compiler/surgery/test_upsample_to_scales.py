# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Upsampling in the form the DLA takes."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph, run
from support.passes import apply, check

from yolox_trt.compiler.surgery.constant_folding import ConstantFolding
from yolox_trt.compiler.surgery.upsample_to_scales import UpsampleToScales


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

    @pytest.mark.parametrize("form", ["half_pixel", "pytorch_half_pixel"])
    def test_bilinear_sizes_become_scales(self, form) -> None:
        model = self.resize(form, "floor", sizes=[1, 2, 20, 18], mode="linear")
        result = check(UpsampleToScales(), model, tolerance=1e-6)
        assert result.changes == ["n_y: linear x4, x3 with constant scales"]
        attrs = {a.name: a.s.decode() for a in result.model.graph.node[0].attribute}
        assert attrs == {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        assert not apply(UpsampleToScales(), result.model).changes

    @pytest.mark.parametrize("form", ["align_corners", "asymmetric"])
    def test_bilinear_between_other_pixels_is_left_alone(self, form) -> None:
        result = apply(UpsampleToScales(), self.resize(form, "floor", mode="linear"))
        assert not result.changes and "other pixels" in result.notes[0]

    def test_cubic_is_left_alone(self) -> None:
        result = apply(UpsampleToScales(), self.resize("half_pixel", "floor", mode="cubic"))
        assert not result.changes and "cubic" in result.notes[0]

    @pytest.mark.parametrize("form", ["half_pixel", "align_corners"])
    def test_one_pixel_is_repeated(self, form) -> None:
        attrs = {"mode": "linear", "coordinate_transformation_mode": form}
        model = make_graph(
            [("Resize", ["x", "", "", "sizes"], ["y"], attrs)], {"x": (1, 2, 1, 1)}, ["y"],
            {"sizes": np.array([1, 2, 12, 30])},
        )  # fmt: skip
        result = check(UpsampleToScales(), model, tolerance=0.0)
        assert result.changes == ["n_y: nearest x12, x30 with constant scales"]

    def test_sizes_that_are_computed_in_floating_point(self) -> None:
        """PyTorch's exporter of old wrote them so: TensorRT's parser refuses the Resize."""
        nodes = [
            ("Shape", ["x"], ["s"], {}),
            ("Slice", ["s", "two", "four"], ["hw"], {}),
            ("Cast", ["hw"], ["f"], {"to": 1}),
            ("Mul", ["f", "factor"], ["m"], {}),
            ("Floor", ["m"], ["r"], {}),
            ("Cast", ["r"], ["i"], {"to": 7}),
            ("Slice", ["s", "zero", "two"], ["nc"], {}),
            ("Concat", ["nc", "i"], ["sizes"], {"axis": 0}),
            ("Resize", ["x", "", "", "sizes"], ["y"], {"mode": "nearest",
             "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ]  # fmt: skip
        constants = {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]),
                     "factor": np.float32(2)}  # fmt: skip
        model = make_graph(nodes, {"x": (1, 2, 5, 6)}, ["y"], constants)
        folded = check(ConstantFolding(), model, tolerance=0.0, expected={"Resize": 1})
        result = check(UpsampleToScales(), folded.model, tolerance=0.0)
        assert result.changes == ["n_y: nearest x2, x2 with constant scales"]
