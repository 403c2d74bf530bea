# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""fix-shape: batch and H x W change, and what the exporter froze follows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.onnx_graphs import make_graph, run
from support.passes import apply
from support.yolox_graphs import build_yolox, random_images

from yolox_trt.compiler.surgery.fixed_shape import FixedShape
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph


def fixed(batch: int | None = None, *size: int) -> FixedShape:
    """Return the pass for a batch and (height, width); None and nothing leave them."""
    return FixedShape(SurgeryOptions(batch=batch, input_size=size or None))


def shape(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("style", ["opset11", "opset13"])
@pytest.mark.parametrize("head", ["undecoded", "decoded", "raw_levels"])
def test_another_size_gives_what_an_export_at_that_size_gives(style, head) -> None:
    options = {"style": style, "head": head, "num_classes": 3}
    if style == "opset13":
        options["upsample"] = "sizes"
    small = build_yolox(**options)
    # The weights do not depend on the size: the generator is the reference.
    large = build_yolox(**options, height=128, width_px=64)
    result = apply(fixed(None, 128, 64), small).model
    assert shape(result.graph.input[0]) == [1, 3, 128, 64]
    feeds = random_images(large)
    expected, found = run(large, feeds), run(result, feeds)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * np.abs(values).max())
    assert [shape(o) for o in result.graph.output] == [shape(o) for o in large.graph.output]


def test_the_way_back_is_the_identity() -> None:
    model = build_yolox(head="decoded")
    there = apply(fixed(3, 96, 96), model).model
    back = apply(fixed(1, 64, 96), there).model
    feeds = random_images(model)
    np.testing.assert_array_equal(run(back, feeds)["output"], run(model, feeds)["output"])


@pytest.mark.parametrize("head", ["undecoded", "decoded"])
def test_batch(head) -> None:
    model = build_yolox(head=head)
    result = apply(fixed(3), model).model
    feeds = random_images(result)
    found = run(result, feeds)["output"]
    for i in range(3):
        one = run(model, {"images": feeds["images"][i : i + 1]})["output"]
        np.testing.assert_allclose(found[i], one[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("batch", "size"), [(None, (128, 64)), (2, (96, 64))])
def test_a_decoded_head_with_an_open_batch(batch, size) -> None:
    """96 x 64 has as many cells as 64 x 96, in another order: the shapes alone do not tell."""
    options = {"style": "opset13", "head": "decoded", "batch": None, "width": 0.125}
    expected = build_yolox(**options, num_classes=3, height=size[0], width_px=size[1])
    result = apply(fixed(batch, *size), build_yolox(**options, num_classes=3)).model
    assert shape(result.graph.input[0]) == [batch or 0, 3, *size]
    assert shape(result.graph.output[0])[1:] == [size[0] * size[1] * 21 // 1024, 8]
    feeds = random_images(expected, batch=2, height=size[0], width=size[1])
    wanted, found = run(expected, feeds)["output"], run(result, feeds)["output"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("new", [(None, 128, 64), (None, 96, 64), (3, None, None)])
def test_boxes_written_in_place(new) -> None:
    options = {"head": "decoded_in_place", "width": 0.125, "num_classes": 3}
    batch, height, width = new[0] or 1, new[1] or 64, new[2] or 96
    result = apply(fixed(*new), build_yolox(**options)).model
    expected = build_yolox(**options, batch=batch, height=height, width_px=width)
    feeds = random_images(expected)
    wanted, found = run(expected, feeds)["output"], run(result, feeds)["output"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_places_that_do_not_follow_from_the_size_are_refused() -> None:
    constants = {"at": [[[0, 0, 3, 5]]], "values": np.zeros((1, 1), np.float32)}
    model = make_graph(
        [("ScatterND", ["x", "at", "values"], ["y"], {})], {"x": (1, 3, 64, 64)}, ["y"], constants
    )
    with pytest.raises(ModelError, match="written for the old input"):
        apply(fixed(None, 96, 96), model)


def test_open_dimensions_are_closed() -> None:
    model = build_yolox(style="opset13", batch=None, dynamic_size=True, upsample="sizes")
    result = apply(fixed(2, 96, 64), model).model
    assert shape(result.graph.input[0]) == [2, 3, 96, 64]
    assert shape(result.graph.output[0]) == [2, 126, 85]
    feeds = random_images(result)
    np.testing.assert_allclose(
        run(result, feeds)["output"], run(model, feeds)["output"], rtol=0, atol=1e-6
    )


def test_the_same_size_changes_nothing() -> None:
    model = build_yolox()
    assert not apply(fixed(1, 64, 96), model).changes


def test_efficient_nms_keeps_its_outputs() -> None:
    result = apply(fixed(2, 128, 128), build_yolox(head="efficient_nms")).model
    assert [shape(o) for o in result.graph.output] == [[2, 1], [2, 100, 4], [2, 100], [2, 100]]


@pytest.mark.parametrize("arguments", [(0, None, None), (1, 100, 96), (1, 64, -32)])
def test_wrong_numbers_are_refused(arguments) -> None:
    with pytest.raises(ConfigurationError, match="multiple"):
        fix_size(Graph(build_yolox()), *arguments)


def test_a_constant_that_is_no_grid_is_refused() -> None:
    table = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    model = make_graph(
        [("Add", ["x", "table"], ["y"], {})], {"x": (1, 3, 64, 64)}, ["y"], {"table": table}
    )
    with pytest.raises(ModelError, match="no anchor grid"):
        apply(fixed(None, 96, 96), model)


def test_a_slice_that_ends_inside_is_refused() -> None:
    constants = {"a": np.array([0]), "b": np.array([32]), "axis": np.array([2])}
    model = make_graph(
        [("Slice", ["x", "a", "b", "axis"], ["y"], {})], {"x": (1, 3, 64, 64)}, ["y"], constants
    )
    with pytest.raises(ModelError, match="ends at 32 of 64"):
        apply(fixed(None, 96, 96), model)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_slice_to_the_old_end_goes_to_the_new_end(dtype) -> None:
    values = {"a": 0, "b": 64, "axis": 2, "step": 2}
    constants = {k: np.array([v], dtype) for k, v in values.items()}
    model = make_graph(
        [("Slice", ["x", "a", "b", "axis", "step"], ["y"], {})],
        {"x": (1, 3, 64, 64)},
        ["y"],
        constants,
    )
    result = apply(fixed(None, 96, 128), model).model
    x = np.random.default_rng(0).normal(size=(1, 3, 96, 128)).astype(np.float32)
    np.testing.assert_array_equal(run(result, {"x": x})["y"], x[:, :, ::2])


@pytest.mark.parametrize(
    ("target", "before", "expected"),
    [
        ([1, 6, 4096], (1, 6, 64, 64), [2, 6, 96 * 128]),
        ([1, 2, 3, 64, 64], (1, 6, 64, 64), [2, 2, 3, 96, 128]),
        ([1, -1, 64, 64], (1, 6, 64, 64), [2, 6, 96, 128]),
        ([0, 0, -1], (1, 6, 64, 64), [2, 6, 96 * 128]),
    ],
)
def test_reshape_targets(target, before, expected) -> None:
    model = make_graph(
        [("Reshape", ["x", "target"], ["y"], {})], {"x": before}, ["y"], {"target": target}
    )
    result = apply(fixed(2, 96, 128), model).model
    x = np.arange(2 * 6 * 96 * 128, dtype=np.float32).reshape(2, 6, 96, 128)
    assert list(run(result, {"x": x})["y"].shape) == expected


def test_a_reshape_that_could_mean_two_things_is_refused() -> None:
    """64 rows as 32 x 2: 96 could become 48 x 2 or 32 x 3, and the graph does not say which."""
    constants = {"target": [1, 6, 32, 2, 32, 2]}
    model = make_graph(
        [("Reshape", ["x", "target"], ["y"], {})], {"x": (1, 6, 64, 64)}, ["y"], constants
    )
    with pytest.raises(ModelError, match="divides"):
        apply(fixed(None, 96, 128), model)
