# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Folding of constants and of shape arithmetic."""

from __future__ import annotations

from support.onnx_graphs import operators, run, worst
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery.constant_folding import ConstantFolding


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
