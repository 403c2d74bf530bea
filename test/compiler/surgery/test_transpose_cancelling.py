# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Transposes that undo each other across other nodes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from support.onnx_graphs import Node, make_graph
from support.passes import apply, check

from yolox_trt.compiler.surgery.transpose_cancelling import TransposeCancelling

LAST, FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
RNG = np.random.default_rng(0)


def case(*nodes: Node, outputs: tuple[str, ...] = ("y",), **constants: Any) -> Any:
    shapes = {"x": (1, 3, 4, 5), "z": (1, 3, 4, 5)}
    used = {name for node in nodes for name in node[1]}
    return make_graph(nodes, {k: v for k, v in shapes.items() if k in used}, outputs, constants)


class TestCancelled:
    CASES: ClassVar = {
        "unary": (
            [("Transpose", ["x"], ["a"], LAST), ("Sigmoid", ["a"], ["b"], {}),
             ("Transpose", ["b"], ["c"], FIRST), ("Neg", ["c"], ["y"], {})],
            {"Sigmoid": 1, "Neg": 1},
        ),
        "operand by channel": (
            [("Transpose", ["x"], ["a"], LAST), ("Mul", ["a", "k"], ["b"], {}),
             ("Transpose", ["b"], ["y"], FIRST)],
            {"Mul": 1},
        ),
        "two transposed alike": (
            [("Transpose", ["x"], ["a"], LAST), ("Transpose", ["z"], ["b"], LAST),
             ("Add", ["a", "b"], ["c"], {}), ("Transpose", ["c"], ["y"], FIRST)],
            {"Add": 1},
        ),
        "concat": (
            [("Transpose", ["x"], ["a"], LAST), ("Transpose", ["z"], ["b"], LAST),
             ("Concat", ["a", "b"], ["c"], {"axis": -1}), ("Transpose", ["c"], ["y"], FIRST)],
            {"Concat": 1},
        ),
        "one more reader keeps one": (
            [("Transpose", ["x"], ["a"], LAST), ("Relu", ["a"], ["b"], {}),
             ("Transpose", ["b"], ["y"], FIRST), ("Flatten", ["b"], ["f"], {})],
            {"Transpose": 1, "Relu": 1, "Flatten": 1},
        ),
    }  # fmt: skip

    @pytest.mark.parametrize("name", CASES)
    def test_same_results(self, name: str) -> None:
        nodes, expected = self.CASES[name]
        outputs = ("y", "f") if name.startswith("one more") else ("y",)
        constants = {"k": RNG.normal(size=3).astype(np.float32)} if name.startswith("oper") else {}
        assert check(TransposeCancelling(), case(*nodes, outputs=outputs, **constants),
                     expected=expected, tolerance=0).changes  # fmt: skip


@pytest.mark.parametrize(
    "nodes",
    [
        [("Transpose", ["x"], ["a"], LAST), ("Relu", ["a"], ["y"], {})],
        [("Transpose", ["x"], ["a"], LAST), ("Softmax", ["a"], ["b"], {"axis": 3}),
         ("Transpose", ["b"], ["y"], FIRST)],
        [("Transpose", ["x"], ["a"], LAST), ("Transpose", ["a"], ["b"], LAST),
         ("Relu", ["b"], ["y"], {})],
    ],
)  # fmt: skip
def test_what_would_win_nothing_stays(nodes: list[Node]) -> None:
    assert not apply(TransposeCancelling(), case(*nodes)).changes
