# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""fold-input and uint8-input: the image's path to the first convolution, border included."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from support.onnx_graphs import make_graph, operators, random_feeds, run, worst
from support.passes import apply
from support.yolox_graphs import IMAGENET_MEAN, IMAGENET_STD, build_yolox, random_images

from yolox_trt.compiler.surgery.focus_to_conv import FocusToConv
from yolox_trt.compiler.surgery.input_folding import InputFolding
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.model_spec import (
    METADATA_PREPROCESSING,
    PREPROCESSING_PRESETS,
    Preprocessing,
)
from yolox_trt.graph.predictions import predict, relative_difference, sample_images
from yolox_trt.graph.spec import read_spec

RNG = np.random.default_rng(5)
SWAP = ("Gather", ["x", "bgr"], ["s"], {"axis": 1})


def stem(nodes, pad=1, groups=1, **constants):
    """Operators on x that end in tensor s, then a convolution."""
    values = {
        "bgr": np.array([2, 1, 0]),
        "w": RNG.normal(size=(6, 3 // groups, 3, 3)).astype(np.float32),
        "b": RNG.normal(size=6).astype(np.float32),
        **constants,
    }
    nodes = [*nodes, ("Conv", ["s", "w", "b"], ["y"], {"pads": [pad] * 4, "group": groups})]
    names = {i for n in nodes for i in n[1]}
    used = {k: v for k, v in values.items() if k in names}
    return make_graph(nodes, {"x": (2, 3, 8, 10)}, ["y"], used)


def channel(*values: float) -> np.ndarray:
    return np.reshape(np.float32(values), (1, 3, 1, 1))


def folded(model, **options):
    result = apply(InputFolding(SurgeryOptions(**options)), model)
    feeds = random_feeds(model, scale=50.0)
    assert worst(run(model, feeds), run(result.model, feeds)) < 2e-6
    return result


def test_swap() -> None:
    assert operators(folded(stem([SWAP])).model) == {"Conv": 1}


def test_scale_before_and_after_a_swap() -> None:
    nodes = [
        ("Mul", ["x", "m"], ["a"], {}),
        ("Gather", ["a", "bgr"], ["g"], {"axis": 1}),
        ("Div", ["g", "d"], ["s"], {}),
    ]
    model = stem(nodes, m=channel(1, 2, 3), d=channel(5, 7, 11))
    assert operators(folded(model).model) == {"Conv": 1}


def test_mean_without_padding_goes_into_the_bias() -> None:
    nodes = [("Sub", ["x", "m"], ["a"], {}), ("Div", ["a", "d"], ["s"], {})]
    model = stem(nodes, pad=0, m=channel(*IMAGENET_MEAN), d=channel(*IMAGENET_STD))
    assert operators(folded(model).model) == {"Conv": 1}


def test_one_padding_colour_becomes_a_pad() -> None:
    nodes = [("Div", ["x", "d"], ["a"], {}), ("Sub", ["a", "m"], ["s"], {})]
    model = stem(nodes, m=np.float32(0.5), d=np.float32(255.0))
    assert operators(folded(model).model) == {"Conv": 1, "Pad": 1}


def test_without_a_pad_one_add_stays() -> None:
    nodes = [("Div", ["x", "d"], ["a"], {}), ("Sub", ["a", "m"], ["s"], {})]
    model = stem(nodes, m=np.float32(0.5), d=np.float32(255.0))
    result = folded(model, target="dla")
    assert operators(result.model) == {"Conv": 1, "Add": 1}
    assert "border" in result.changes[0]
    # It is in its final form: nothing more to do.
    assert not apply(InputFolding(SurgeryOptions(target="dla")), result.model).changes


def test_different_colours_leave_one_add() -> None:
    nodes = [
        SWAP,
        ("Sub", ["s", "m"], ["a"], {}),
        ("Div", ["a", "d"], ["z"], {}),
        ("Mul", ["z", "k"], ["t"], {}),
    ]
    model = stem(
        [*nodes[:1], *nodes[1:3], ("Mul", ["z", "k"], ["s2"], {})],
        m=channel(103.5, 116.3, 123.7),
        d=channel(57.4, 57.1, 58.4),
        k=np.float32(2.0),
    )
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input[0] = "s2"
    assert operators(folded(model).model) == {"Conv": 1, "Add": 1}


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([SWAP, ("Relu", ["s"], ["r"], {})], "reads it"),
    ],
)
def test_another_reader_refuses(nodes, reason) -> None:
    model = stem(nodes)
    model.graph.output.add().name = "r"
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT
    result = apply(InputFolding(), model)
    assert not result.changes


def test_groups_refuse_with_the_reason() -> None:
    result = apply(InputFolding(), stem([SWAP], groups=3))
    assert not result.changes and "groups" in result.notes[0]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("swap", ["gather", "slice", "split"])
@pytest.mark.parametrize("normalize", [None, "mul", "sub_div"])
@pytest.mark.parametrize("form", ["focus", "conv"])
def test_exporters_forms(swap, normalize, form) -> None:
    model = build_yolox(channel_swap=swap, normalize=normalize, stem=form)
    joined = apply(FocusToConv(), model).model
    result = apply(InputFolding(), joined)
    assert len(result.changes) == 1
    left = operators(result.model)
    assert not {"Gather", "Split", "Div", "Sub"} & left.keys()
    feeds = random_images(model)
    assert worst(run(model, feeds), run(result.model, feeds)) < 1e-5


@pytest.mark.parametrize("name", ["rgb", "rgb_unit", "rgb_imagenet"])
@pytest.mark.parametrize("target", ["gpu", "dla"])
def test_metadata_fold_into_the_network(name, target) -> None:
    model = build_yolox()
    entry = model.metadata_props.add()
    entry.key = METADATA_PREPROCESSING
    entry.value = PREPROCESSING_PRESETS[name].to_json()
    joined = apply(FocusToConv(), model).model
    result = apply(
        InputFolding(SurgeryOptions(fold_preprocessing=True, target=target)), joined
    ).model
    spec = read_spec(result)
    assert spec.preprocessing == Preprocessing(), "the network now takes BGR 0..255"
    images = sample_images(1, 64, 96)
    assert relative_difference(predict(model, images), predict(result, images)) < 1e-5


def test_the_padding_colour_is_kept() -> None:
    model = build_yolox(stem="conv")
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_PREPROCESSING, Preprocessing("rgb", pad=0).to_json()
    result = apply(InputFolding(SurgeryOptions(fold_preprocessing=True)), model).model
    assert read_spec(result).preprocessing == Preprocessing(pad=0)
