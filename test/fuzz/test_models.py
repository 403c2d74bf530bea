# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile ONNX models: refused by one error, or described and opened."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.fuzz import check_refusal, damaged, examples, keep
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.dla import check
from yolox_trt.compiler.inspect.inspector import inspect_model
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import quantizable_inputs
from yolox_trt.compiler.int8.options import CalibrateOptions, QuantizeOptions
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import calibrate, quantize
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.compiler.surgery import optimize
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.device import Device
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.batch import open_batch
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec

MODEL = build_yolox(width=0.125, depth=0.1, num_classes=2, metadata=True)
BYTES = MODEL.SerializeToString()
#: Largest batch that is opened; `max_batch` takes no more.
MOST_IMAGES = 64
#: What a dimension, an axis or an attribute may be set to.
NUMBERS = st.sampled_from((-(1 << 63), -32, -1, 0, 1, 3, 100_000, 1 << 31, (1 << 63) - 1))


def refused(path: Path, *, load: bool) -> None:
    """Describe a model and, if asked for, rewrite and run it; check the error if it is refused."""
    works: list[Callable[[Graph], object]] = [read_spec]
    if load:
        options = DetectorOptions(model=path, device=Device("cpu"), threads=1)
        works += [open_batch, lambda graph: fix_size(graph, 2, 96, 64)]
        works.append(lambda _: create_detector(options).close())
    for work in works:
        try:
            work(open_model(path))
        except YoloxTrtError as error:
            check_refusal(error)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to be written again and again."""
    return tmp_path_factory.mktemp("fuzz") / "model.onnx"


@examples(20)
@given(data=damaged(BYTES, BYTES[-8000:]))
def test_damaged_bytes(file: Path, data: bytes) -> None:
    keep(data)
    file.write_bytes(data)
    refused(file, load=False)


@st.composite
def hostile(draw: st.DrawFn, base: Callable[[], onnx.ModelProto] = lambda: MODEL) -> bytes:
    """Return a model with some numbers, names, nodes or texts replaced."""
    model = onnx.ModelProto()
    model.CopyFrom(base())
    graph = model.graph
    for _ in range(draw(st.integers(1, 3))):
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
        action = draw(st.sampled_from(ACTIONS))
        number = draw(NUMBERS)
        if action == "dimension":
            kind = draw(st.sampled_from((graph.input, graph.output)))[0].type.tensor_type
            dim = kind.shape.dim
            dim[draw(st.integers(0, len(dim) - 1))].dim_value = number
        elif action == "attribute":
            for attribute in node.attribute:
                attribute.i = number
                attribute.ints[:] = [number] * len(attribute.ints)
        elif action == "weight":
            weight = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
            weight.dims[:] = [number, *weight.dims[1:]]
        elif action == "type":
            weight = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
            weight.data_type = draw(st.integers(0, 30))
        elif action == "operator":
            node.op_type = draw(st.sampled_from(OPERATORS))
        elif action == "name" and node.input:
            node.input[0] = draw(st.sampled_from((node.output[0], "", "nowhere", "images")))
        elif action == "metadata":
            entry = model.metadata_props.add()
            entry.key = draw(st.sampled_from([each.key for each in model.metadata_props[:-1]]))
            entry.value = draw(st.sampled_from(TEXTS))
        elif action == "remove":
            graph.node.remove(node)
        elif action == "opset":
            model.opset_import[0].version = number
        elif action == "repeat":
            model.graph.node.add().CopyFrom(node)
        elif action == "inputs" and node.input:
            del node.input[draw(st.integers(0, len(node.input) - 1))]
        elif action == "kind" and node.attribute:
            node.attribute[0].type = draw(st.integers(0, 14))
        elif action == "constant":
            change_constant(draw, model, node)
    return bytes(model.SerializeToString())


def change_constant(draw: st.DrawFn, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Give a node a constant of another shape or type, or one with other values."""
    constants = {each.name: each for each in model.graph.initializer}
    read = [name for name in node.input if name in constants]
    if not read:
        return
    tensor = constants[draw(st.sampled_from(read))]
    try:
        values = numpy_helper.to_array(tensor)
    except (TypeError, ValueError):  # an action before this one made it unreadable
        return
    shape = draw(st.lists(st.sampled_from((0, 1, 2, 7)), max_size=4))
    other = draw(st.sampled_from((0, 1, -1, 1e38, np.nan)))
    kind = draw(st.sampled_from(("f", "i8", "f2", "u1", "?", "S1", values.dtype)))
    with np.errstate(all="ignore"):
        made = draw(
            st.sampled_from(
                (values.reshape(-1), values[None], values[:0] if values.ndim else values,
                 np.full(shape, other, np.float32).astype(kind),
                 np.full(values.shape, other, np.float32).astype(values.dtype))
            )
        )  # fmt: skip
    if made.dtype.kind == "S":
        kind, texts = onnx.TensorProto.STRING, [b"x"] * made.size
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, made.shape, texts))
    else:
        tensor.CopyFrom(numpy_helper.from_array(made, tensor.name))


ACTIONS = (
    *("repeat", "inputs", "kind", "constant", "constant"),
    *("dimension", "attribute", "weight", "type", "operator"),
    *("name", "metadata", "remove", "opset"),
)
OPERATORS = ("Loop", "If", "Scan", "Concat", "Transpose", "Cast", "Range", "ConstantOfShape", "?")
TEXTS: tuple[Any, ...] = ("[" * 100_000, "NaN", "[1e999]", '["\x1b[2J"]', "[[]]", "{}", "null", '"')


@examples(20)
@given(data=hostile())
def test_hostile_graphs(file: Path, data: bytes) -> None:
    keep(data)
    file.write_bytes(data)
    refused(file, load=True)


@functools.cache
def quantized() -> onnx.ModelProto:
    """A model with Q/DQ nodes."""
    options = {"activation": "relu6", "head": "raw_levels", "metadata": True}
    graph = Graph(build_yolox(width=0.125, num_classes=2, **options))
    graph.upgrade(13)
    ranges = DynamicRanges.from_amax(dict.fromkeys(quantizable_inputs(graph), 6.0))
    return insert_qdq(graph, ranges).to_model()


@functools.cache
def normed() -> onnx.ModelProto:
    """A model with what most passes look for."""
    return build_yolox(
        style="opset13", batch_norm=True, channel_swap="gather", normalize="sub_div",
        activation="hardswish", upsample="sizes", width=0.125, num_classes=2, metadata=True,
    )  # fmt: skip


IMAGE = np.zeros((1, 3, 64, 96), np.float32)
DLA = SurgeryOptions(target="dla", fold_preprocessing=True, replace_abs=True, max_groups=1)
#: What the commands that take a model do with it.
TOOLS: tuple[Callable[[Path], object], ...] = (
    lambda path: optimize(path, SurgeryOptions(input_size=(96, 64)), verify=False),
    lambda path: optimize(path, DLA, verify=False),
    lambda path: optimize(path, SurgeryOptions(uint8_input=True, open_batch=True, head="keep")),
    lambda path: optimize(path, SurgeryOptions(head="efficient-nms"), verify=False),
    check,
    inspect_model,
    lambda path: calibrate(Graph.load(path), [IMAGE], CalibrateOptions(dla=True, threads=1)),
    lambda path: quantize(Graph.load(path), [IMAGE], QuantizeOptions(equalize=0.5, threads=1)),
    lambda path: remove_qdq(Graph.load(path), for_dla=True),
)


@examples(30)
@given(
    data=st.sampled_from((quantized, normed)).flatmap(hostile), tool=st.integers(0, len(TOOLS) - 1)
)
def test_hostile_graphs_in_tools(file: Path, data: bytes, tool: int) -> None:
    keep(data)
    file.write_bytes(data)
    try:
        TOOLS[tool](file)
    except YoloxTrtError as error:
        check_refusal(error)
