# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Nearest upsampling in the form the DLA takes."""

from __future__ import annotations

import numpy as np
import pytest
from support.onnx_graphs import make_graph, run
from support.passes import apply, check

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

    def test_linear_is_left_alone(self) -> None:
        result = apply(UpsampleToScales(), self.resize("half_pixel", "floor", mode="linear"))
        assert not result.changes and "linear" in result.notes[0]
