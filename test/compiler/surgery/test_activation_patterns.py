# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of SiLU, hard swish and hard sigmoid."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from support.onnx_graphs import make_graph, operators, run, worst
from support.passes import apply, check
from support.yolox_graphs import NANO, build_yolox, random_images

from yolox_trt.compiler.surgery.activation_patterns import ActivationPatterns


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
        result = apply(ActivationPatterns(), build_yolox(**NANO))
        assert not result.changes
        assert result.notes[0].startswith("74 SiLU")
