# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Spellings of a hard swish, and what only looks like one."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from support.onnx_graphs import Node, make_graph
from support.passes import apply, check

from yolox_trt.compiler.surgery.activation_patterns import ActivationPatterns

NUMBERS = {
    "three": 3.0, "six": 6.0, "sixth": 1 / 6, "half": 0.5, "zero": 0.0, "one": 1.0, "minus": -3.0,
    "two": 2.0,
}  # fmt: skip


def graph(nodes: list[Node], opset: int = 14) -> Any:
    used = {name for node in nodes for name in node[1]}
    constants = {name: np.float32(value) for name, value in NUMBERS.items() if name in used}
    inputs = {name: (1, 3, 4, 5) for name in ("x", "z") if name in used}
    return make_graph(nodes, inputs, ["y"], constants, opset=opset)


ADD, SUB = ("Add", ["x", "three"], ["a"], {}), ("Sub", ["x", "minus"], ["a"], {})
CLIP = ("Clip", ["a", "zero", "six"], ["c"], {})


class TestSpellings:
    FORMS: ClassVar[dict[str, list[Node]]] = {
        "operator": [("HardSwish", ["x"], ["y"], {})],
        "hard sigmoid": [
            ("HardSigmoid", ["x"], ["g"], {"alpha": 1 / 6, "beta": 0.5}),
            ("Mul", ["g", "x"], ["y"], {}),
        ],
        "gate / 6": [ADD, CLIP, ("Div", ["c", "six"], ["g"], {}), ("Mul", ["x", "g"], ["y"], {})],
        "gate * 1/6": [
            SUB, CLIP, ("Mul", ["sixth", "c"], ["g"], {}), ("Mul", ["x", "g"], ["y"], {}),
        ],
        "product / 6": [
            ADD, CLIP, ("Mul", ["x", "c"], ["p"], {}), ("Div", ["p", "six"], ["y"], {}),
        ],
        "relu and min": [
            ADD, ("Relu", ["a"], ["r"], {}), ("Min", ["r", "six"], ["c"], {}),
            ("Mul", ["c", "x"], ["p"], {}), ("Mul", ["p", "sixth"], ["y"], {}),
        ],
        "max and min": [
            ADD, ("Min", ["a", "six"], ["m"], {}), ("Max", ["zero", "m"], ["c"], {}),
            ("Mul", ["x", "c"], ["p"], {}), ("Div", ["p", "six"], ["y"], {}),
        ],
        "scaled first": [
            ("Div", ["x", "six"], ["d"], {}), ("Add", ["half", "d"], ["a"], {}),
            ("Clip", ["a", "zero", "one"], ["g"], {}), ("Mul", ["x", "g"], ["y"], {}),
        ],
    }  # fmt: skip

    @pytest.mark.parametrize("form", FORMS)
    def test_become_one_form(self, form: str) -> None:
        expected = {"Add": 1, "Clip": 1, "Mul": 2}
        result = check(ActivationPatterns(), graph(self.FORMS[form]), expected=expected)
        assert result.changes == ["1 hard swish rewritten"]
        assert not apply(ActivationPatterns(), result.model).changes  # it is final


@pytest.mark.parametrize(
    "nodes",
    [
        [ADD, CLIP, ("Mul", ["z", "c"], ["p"], {}), ("Div", ["p", "six"], ["y"], {})],
        [ADD, CLIP, ("Mul", ["x", "c"], ["p"], {}), ("Div", ["p", "three"], ["y"], {})],
        [("Add", ["x", "two"], ["a"], {}), CLIP, ("Mul", ["x", "c"], ["p"], {}),
         ("Div", ["p", "six"], ["y"], {})],
        [ADD, ("Relu", ["a"], ["c"], {}), ("Mul", ["x", "c"], ["p"], {}),
         ("Div", ["p", "six"], ["y"], {})],
    ],
)  # fmt: skip
def test_others_are_none(nodes: list[Node]) -> None:
    assert not apply(ActivationPatterns(), graph(nodes)).changes
