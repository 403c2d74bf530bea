# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What is computed twice is computed once."""

from __future__ import annotations

import numpy as np
from onnx.numpy_helper import from_array
from support.onnx_graphs import make_graph, random_feeds, run, worst
from support.passes import apply, check, normal

from yolox_trt.compiler.surgery.duplicate_merging import DuplicateMerging


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
