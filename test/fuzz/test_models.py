# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile ONNX models: refused by one error, or described and opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import check_refusal, damaged, examples, keep
from support.yolox_graphs import build_yolox

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
def hostile(draw: st.DrawFn) -> bytes:
    """Return a model with some numbers, names, nodes or texts replaced."""
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
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
    return bytes(model.SerializeToString())


ACTIONS = (
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
