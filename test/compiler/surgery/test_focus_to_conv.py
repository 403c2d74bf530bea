# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""focus-to-conv: every form of a Focus becomes one convolution with the same outputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.onnx_graphs import make_graph, operators, random_feeds, run, worst
from support.passes import apply
from support.yolox_graphs import YOLOX_FOCUS_ORDER, build_yolox, random_images

from yolox_trt.compiler.surgery.focus_to_conv import FocusToConv

ORDERS = list(itertools.permutations(YOLOX_FOCUS_ORDER))


def focus_graph(order, kernel=3, stride=1, pad=None, size=(16, 20), step=2, channels=3):
    """A Focus alone: slices over rows then columns, Concat, Conv."""
    rng = np.random.default_rng(1)
    nodes, constants = [], {"end": np.array([2**31 - 1]), "h": np.array([2]), "w": np.array([3])}
    constants["step"] = np.array([step])
    parts = []
    for i, (row, column) in enumerate(order):
        constants[f"row{i}"], constants[f"col{i}"] = np.array([row]), np.array([column])
        nodes += [
            ("Slice", ["x", f"row{i}", "end", "h", "step"], [f"r{i}"], {}),
            ("Slice", [f"r{i}", f"col{i}", "end", "w", "step"], [f"p{i}"], {}),
        ]
        parts.append(f"p{i}")
    nodes.append(("Concat", parts, ["stacked"], {"axis": 1}))
    pad = kernel // 2 if pad is None else pad
    constants["weight"] = rng.normal(size=(5, 4 * channels, kernel, kernel)).astype(np.float32)
    constants["bias"] = rng.normal(size=5).astype(np.float32)
    attrs = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2}
    nodes.append(("Conv", ["stacked", "weight", "bias"], ["y"], attrs))
    return make_graph(nodes, {"x": (2, channels, *size)}, ["y"], constants)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_phases_is_exact(order) -> None:
    model = focus_graph(order)
    result = apply(FocusToConv(), model)
    assert operators(result.model) == {"Conv": 1}
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(result.model, feeds)) < 1e-6


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 1])
def test_every_kernel_stride_and_padding_is_exact(kernel, stride, pad) -> None:
    model = focus_graph(YOLOX_FOCUS_ORDER, kernel, stride, pad)
    result = apply(FocusToConv(), model)
    conv = next(n for n in result.model.graph.node if n.op_type == "Conv")
    attrs = {a.name: list(a.ints) for a in conv.attribute if a.ints}
    assert attrs["kernel_shape"] == [2 * kernel] * 2
    assert attrs["strides"] == [2 * stride] * 2
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(result.model, feeds)) < 1e-6


@pytest.mark.sampled(5)
@pytest.mark.parametrize("style", ["opset11", "opset13"])
@pytest.mark.parametrize("stem", ["focus", "focus_joint"])
@pytest.mark.parametrize("swap", [None, "gather", "slice", "split"])
def test_exporters_forms(style, stem, swap) -> None:
    model = build_yolox(style=style, stem=stem, channel_swap=swap)
    result = apply(FocusToConv(), model)
    # With a swap by slices, that slice stays: fold-input takes it.
    assert operators(result.model).get("Slice", 0) == (swap == "slice")
    feeds = random_images(model)
    assert worst(run(model, feeds), run(result.model, feeds)) < 1e-5


def test_space_to_depth_is_a_focus() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 12, 3, 3)).astype(np.float32)
    model = make_graph(
        [
            ("SpaceToDepth", ["x"], ["s"], {"blocksize": 2}),
            ("Conv", ["s", "weight"], ["y"], {"pads": [1] * 4}),
        ],
        {"x": (1, 3, 12, 8)},
        ["y"],
        {"weight": weight},
    )
    result = apply(FocusToConv(), model)
    assert operators(result.model) == {"Conv": 1}
    feeds = random_feeds(model)
    assert worst(run(model, feeds), run(result.model, feeds)) < 1e-6


def test_an_odd_size_is_left_alone_with_the_reason() -> None:
    # Slices of 17 rows have 9 and 8 rows: no exporter writes it, but padding by one does.
    model = focus_graph([(0, 0), (0, 1), (0, 0), (0, 1)], size=(17, 20))
    result = apply(FocusToConv(), model)
    assert not result.changes and result.model is model


def test_a_phase_taken_twice_is_no_focus() -> None:
    model = focus_graph([(0, 0), (1, 0), (0, 1), (0, 1)])
    assert not apply(FocusToConv(), model).changes


def test_steps_other_than_two_are_no_focus() -> None:
    model = focus_graph(YOLOX_FOCUS_ORDER, step=4, size=(16, 16))
    assert not apply(FocusToConv(), model).changes


def test_the_stem_of_the_conv_form_is_left_alone() -> None:
    model = build_yolox(stem="conv")
    assert not apply(FocusToConv(), model).changes
