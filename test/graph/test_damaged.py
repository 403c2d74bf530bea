# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that contradict themselves where onnx does not look: one error that names the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.inspect.inspector import inspect_model
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.compiler.surgery import optimize
from yolox_trt.core.errors import ModelError
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph


def with_constant(model: onnx.ModelProto, op: str, index: int, values: np.ndarray) -> None:
    """Give the first node of an operator another constant."""
    node = next(each for each in model.graph.node if each.op_type == op)
    model.graph.initializer.append(numpy_helper.from_array(values, "another"))
    node.input[index] = "another"


def test_the_pass_that_meets_a_contradiction_is_named() -> None:
    model = build_yolox(batch_norm=True)
    with_constant(model, "BatchNormalization", 1, np.ones(5, np.float32))
    with pytest.raises(ModelError, match=r"fuse-batch-norm cannot follow.*skip"):
        optimize(model, verify=False)


def test_the_file_is_named(tmp_path: Path) -> None:
    model = build_yolox()
    with_constant(model, "Conv", 1, np.ones((0, 12, 3, 3), np.float32))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match=r"odd\.onnx"):
        inspect_model(tmp_path / "odd.onnx")


@pytest.mark.parametrize("scales", [np.ones(7, np.float32), np.ones((2, 2), np.float32)])
def test_scales_that_do_not_fit_are_refused(scales: np.ndarray) -> None:
    graph = Graph(build_yolox())
    conv = graph.find("Conv")[0]
    for name, index in (("q", 0), ("w", 1)):
        codes = graph.constant(f"{name}_zero", 0, np.int8)
        value = conv.inputs[index]
        scale = graph.constant(f"{name}_scale", scales if index else 1.0, np.float32)
        quantized = graph.add_node("QuantizeLinear", f"{name}_q", [value, scale, codes])
        conv.set_input(
            index, graph.add_node("DequantizeLinear", f"{name}_dq", [quantized, scale, codes])
        )
    graph.sort()
    with pytest.raises(ModelError, match="scales for a constant"):
        remove_qdq(graph)


def test_errors_of_files_and_of_the_package_pass() -> None:
    @refuses_damaged
    def read(error: Exception) -> None:
        raise error

    for error in (PermissionError("no"), ModelError("this")):
        with pytest.raises(type(error)) as caught:
            read(error)
        assert caught.value is error


def test_the_python_error_stays_the_cause() -> None:
    @refuses_damaged
    def read(path: str) -> None:
        raise ValueError("7")

    with pytest.raises(ModelError, match=r"model 'a\.onnx'.*\(7\)") as refused:
        read("a.onnx")
    assert isinstance(refused.value.__cause__, ValueError)


def test_an_attribute_of_no_type_is_refused() -> None:
    node = onnx.helper.make_node("Mystery", ["images"], ["mystery"], domain="some.where", level=1)
    node.attribute[0].ClearField("i")
    node.attribute[0].type = onnx.AttributeProto.UNDEFINED
    model = build_yolox()
    model.opset_import.append(onnx.helper.make_opsetid("some.where", 1))
    model.graph.node.append(node)
    with pytest.raises(ModelError, match="level"):
        Graph(model)
