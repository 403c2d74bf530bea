# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Abs as Sqrt of the square, where it is asked for."""

from __future__ import annotations

from support.onnx_graphs import make_graph
from support.passes import check

from yolox_trt.compiler.surgery import SurgeryOptions
from yolox_trt.compiler.surgery.abs_to_sqrt import AbsToSqrt


def test_it_is_the_magnitude() -> None:
    model = make_graph([("Abs", ["x"], ["y"], {})], {"x": (1, 3, 4, 5)}, ["y"])
    check(AbsToSqrt(), model, expected={"Mul": 1, "Sqrt": 1})


def test_it_must_be_asked_for() -> None:
    assert not AbsToSqrt().is_wanted
    assert AbsToSqrt(SurgeryOptions(replace_abs=True)).is_wanted
