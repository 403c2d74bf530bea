# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Folding of constants and of shape arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_graphs import make_graph, operators, run, worst
from support.passes import apply, check
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

    @pytest.mark.parametrize("given", [True, False])
    def test_an_if_whose_condition_is_known_becomes_the_branch_that_it_takes(
        self, given: bool
    ) -> None:
        shape = (1, 3, 4, 4)
        result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, shape)]
        added = numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32), "added")
        then = [helper.make_node("Add", ["a", "added"], ["b"], "n0"),
                helper.make_node("Relu", ["b"], ["r"], "n1")]  # fmt: skip
        other = [helper.make_node("Identity", ["x"], ["r"], "n2")]
        branches = {
            "then_branch": helper.make_graph(then, "then", [], result, [added]),
            "else_branch": helper.make_graph(other, "else", [], result),
        }
        nodes = [
            ("Neg", ["x"], ["a"], {}),
            ("Not", ["not_given"], ["given"], {}),
            ("If", ["given"], ["i"], branches),
            ("Exp", ["i"], ["y"], {}),
        ]
        model = make_graph(nodes, {"x": shape}, ("y",), {"not_given": np.asarray(not given)})
        kept = {"Neg": 1, "Add": 1, "Relu": 1} if given else {"Identity": 1}
        check(ConstantFolding(), model, expected={**kept, "Exp": 1})
