# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that return what they were given."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.onnx_graphs import make_graph, operators
from support.passes import apply, check, normal

from yolox_trt.compiler.surgery.no_op_removal import NoOpRemoval
from yolox_trt.graph.graph import Graph


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

    def test_many_in_a_row_are_removed_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The graph put in order behind each one, 3,000 took ten seconds, and 30,000 an hour."""
        names = ["x", *(f"r{i}" for i in range(300)), "y"]
        nodes = [("Relu", [a], [b], {}) for a, b in itertools.pairwise(names)]
        graph = Graph(make_graph(nodes, {"x": (1, 3, 4, 4)}, ["y"]))
        sort, calls = Graph.sort, []
        monkeypatch.setattr(Graph, "sort", lambda graph: (calls.append(graph), sort(graph)))
        assert NoOpRemoval().run(graph).changes == ["removed 300 no-ops (300 Relu)"]
        assert len(calls) < 5
