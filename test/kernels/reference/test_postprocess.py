# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of every output form: all of them tell the same boxes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from yolox_trt.core import (
    EngineError,
    HeadLayout,
    HeadLevel,
    HeadTensor,
    Letterbox,
    ModelSpec,
    PostprocessOptions,
)
from yolox_trt.kernels.reference.decode import Decoder
from yolox_trt.kernels.reference.postprocess import Postprocessor

HEIGHT, WIDTH, CLASSES = 64, 96, 6
ALL = np.zeros(CLASSES, np.float32)


def make_spec(head: HeadLayout, *, sigmoid: bool = True, split: bool = True) -> ModelSpec:
    levels = []
    names: list[str] = []
    for stride in (8, 16, 32):
        tensors: list[HeadTensor | None] = [None, None, None]
        if head is HeadLayout.RAW_LEVELS and split:
            tensors = [HeadTensor(f"{kind}_{stride}") for kind in ("reg", "obj", "cls")]
            names += [t.name for t in tensors if t]
        elif head is HeadLayout.RAW_LEVELS:
            # Classes first: the channel offsets count, not the order.
            tensors = [HeadTensor(f"all_{stride}", c) for c in (CLASSES + 1, CLASSES, 0)]
            names.append(f"all_{stride}")
        levels.append(HeadLevel(stride, HEIGHT // stride, WIDTH // stride, *tensors))
    if head is HeadLayout.EFFICIENT_NMS:
        levels, names = [], ["num", "boxes", "scores", "classes"]
    return ModelSpec(
        "images", HEIGHT, WIDTH, None, CLASSES, head, tuple(names or ["output"]), tuple(levels),
        sigmoid=sigmoid,
    )  # fmt: skip


def make_values(seed: int = 0, batch: int = 2) -> np.ndarray:
    """Return logits (N, A, 5 + C): x y w h, objectness, classes."""
    rng = np.random.default_rng(seed)
    anchors = sum((HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))
    return rng.normal(0, 1.5, (batch, anchors, 5 + CLASSES)).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x, dtype=np.float32))


def outputs_of(spec: ModelSpec, logits: np.ndarray) -> dict[str, np.ndarray]:
    values = logits.copy()
    if spec.sigmoid:
        values[..., 4:] = sigmoid(values[..., 4:])
    if spec.head is HeadLayout.DECODED:
        decoder = Decoder(dataclasses.replace(spec, head=HeadLayout.UNDECODED))
        values[..., :2] = (values[..., :2] + decoder.grid) * decoder.strides
        values[..., 2:4] = np.exp(values[..., 2:4]) * decoder.strides
    if spec.head is not HeadLayout.RAW_LEVELS:
        return {"output": values}
    found, first = {}, 0
    for level in spec.levels:
        count = level.height * level.width
        cells = values[:, first : first + count]
        first += count
        planes = cells.transpose(0, 2, 1).reshape(len(values), -1, level.height, level.width)
        parts = {"reg": planes[:, :4], "obj": planes[:, 4:5], "cls": planes[:, 5:]}
        if len(spec.output_names) == 3:
            joined = np.concatenate([parts["cls"], parts["obj"], parts["reg"]], axis=1)
            found[f"all_{level.stride}"] = joined
        else:
            found |= {f"{kind}_{level.stride}": part for kind, part in parts.items()}
    return found


SPECS = [
    make_spec(HeadLayout.UNDECODED),
    make_spec(HeadLayout.UNDECODED, sigmoid=False),
    make_spec(HeadLayout.DECODED),
    make_spec(HeadLayout.RAW_LEVELS),
    make_spec(HeadLayout.RAW_LEVELS, sigmoid=False),
    make_spec(HeadLayout.RAW_LEVELS, split=False),
]


def scalar_candidates(logits: np.ndarray, thresholds: np.ndarray) -> list[tuple[Any, ...]]:
    """Decode one image (A, 5 + C) with plain numbers."""
    found = []
    anchor = 0
    for stride in (8, 16, 32):
        for row in range(HEIGHT // stride):
            for column in range(WIDTH // stride):
                v = [float(x) for x in logits[anchor]]
                class_id = max(range(CLASSES), key=lambda c: (v[5 + c], -c))
                score = 1 / (1 + math.exp(-v[4])) / (1 + math.exp(-v[5 + class_id]))
                if score >= thresholds[class_id]:
                    x, y = (v[0] + column) * stride, (v[1] + row) * stride
                    w, h = math.exp(v[2]) * stride, math.exp(v[3]) * stride
                    box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
                    found.append((anchor, class_id, score, box))
                anchor += 1
    return found


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.head.value}-{s.sigmoid}")
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5])
def test_every_form_gives_the_same_candidates(spec: ModelSpec, threshold: float) -> None:
    logits = make_values()
    thresholds = np.full(CLASSES, threshold, np.float32)
    thresholds[2] = min(1.0, threshold + 0.2)
    found = Decoder(spec).decode(outputs_of(spec, logits), 1, thresholds)
    expected = scalar_candidates(logits[1], thresholds)
    assert found.anchors.tolist() == [e[0] for e in expected]
    assert found.class_ids.tolist() == [e[1] for e in expected]
    np.testing.assert_allclose(found.scores, [e[2] for e in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [e[3] for e in expected], rtol=1e-4, atol=1e-3)
    assert len(found) > 0


def test_half_precision_outputs() -> None:
    spec = SPECS[0]
    outputs = {k: v.astype(np.float16) for k, v in outputs_of(spec, make_values()).items()}
    found = Decoder(spec).decode(outputs, 0, ALL + np.float32(0.3))
    wide = {k: v.astype(np.float32) for k, v in outputs.items()}
    expected = Decoder(spec).decode(wide, 0, ALL + np.float32(0.3))
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.boxes.dtype == np.float32


def test_score_equal_to_the_threshold_is_kept() -> None:
    spec = SPECS[0]
    values = np.zeros((1, spec.num_anchors, 5 + CLASSES), np.float32)
    values[0, 7, 4], values[0, 7, 5 + 3] = 1.0, 0.25
    outputs = {"output": values}
    assert Decoder(spec).decode(outputs, 0, ALL + np.float32(0.25)).anchors.tolist() == [7]
    above = np.nextafter(np.float32(0.25), np.float32(1))
    assert len(Decoder(spec).decode(outputs, 0, ALL + above)) == 0


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.head.value}-{s.sigmoid}")
def test_nan_is_an_error_and_not_an_empty_result(spec: ModelSpec) -> None:
    outputs = outputs_of(spec, make_values())
    for tensor in outputs.values():
        tensor[:] = np.nan
    with pytest.raises(EngineError, match="NaN"):
        Decoder(spec).decode(outputs, 0, ALL + np.float32(0.3))


def test_overflowing_boxes_are_left_out() -> None:
    spec = SPECS[0]
    values = np.zeros((1, spec.num_anchors, 5 + CLASSES), np.float32)
    values[0, :2, 4:6] = 1.0
    values[0, 0, 2] = 1000.0
    assert Decoder(spec).decode({"output": values}, 0, ALL + np.float32(0.5)).anchors.tolist() == [
        1
    ]


def test_boxes_in_the_padding_are_left_out_and_others_clipped() -> None:
    spec = make_spec(HeadLayout.DECODED)
    values = np.zeros((1, spec.num_anchors, 5 + CLASSES), np.float32)
    values[0, :3, 4:6] = [[0.9, 1], [0.8, 1], [0.7, 1]]
    # The source is 128 x 128: it fills 64 x 64 of the 64 x 96 input, scale 0.5.
    values[0, 0, :4] = [80, 32, 20, 20]  # x from 70: padding
    values[0, 1, :4] = [60, 32, 20, 20]  # x 50..70: clipped at 64
    values[0, 2, :4] = [10, 10, 8, 8]
    box = Letterbox.fit(128, 128, HEIGHT, WIDTH)
    found = Postprocessor(spec)({"output": values}, 0, box, PostprocessOptions())
    np.testing.assert_allclose(found.boxes, [[100, 44, 128, 84], [12, 12, 28, 28]])
    np.testing.assert_allclose(found.scores, [0.8, 0.7])


def test_efficient_nms() -> None:
    spec = make_spec(HeadLayout.EFFICIENT_NMS)
    outputs = {
        "num": np.array([[0], [3]], np.int32),
        "boxes": np.full((2, 5, 4), 7, np.float32),
        "scores": np.full((2, 5), 0.99, np.float32),
        "classes": np.zeros((2, 5), np.int32),
    }
    outputs["boxes"][1, :3] = [[0, 0, 10, 10], [4, 4, 20, 20], [8, 8, 16, 16]]
    outputs["scores"][1, :3] = [0.5, 0.9, 0.4]
    outputs["classes"][1, :3] = [1, 2, 1]
    box = Letterbox.fit(HEIGHT * 2, WIDTH * 2, HEIGHT, WIDTH)
    run = Postprocessor(spec)
    assert len(run(outputs, 0, box, PostprocessOptions())) == 0
    found = run(outputs, 1, box, PostprocessOptions(class_thresholds={1: 0.45}))
    assert found.class_ids.tolist() == [2, 1]
    np.testing.assert_allclose(found.boxes, [[8, 8, 40, 40], [0, 0, 20, 20]])


def test_result_is_in_source_pixels_best_first_and_limited() -> None:
    spec = SPECS[0]
    outputs = outputs_of(spec, make_values(3))
    box = Letterbox.fit(200, 300, HEIGHT, WIDTH)
    options = PostprocessOptions(score_threshold=0.2, max_detections=5)
    found = Postprocessor(spec)(outputs, 0, box, options)
    assert len(found) == 5
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2] <= 300).all() and (found.boxes[:, 3] <= 200).all()


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("spec", [SPECS[0], SPECS[2]], ids=lambda s: s.head.value)
def test_nan_in_a_box_is_an_error(spec: ModelSpec, score: float) -> None:
    """Below the threshold too, as on the GPU."""
    outputs = outputs_of(spec, make_values())
    outputs["output"][0, 7, 2] = np.nan
    outputs["output"][0, 7, 4:6] = score
    with pytest.raises(EngineError, match="NaN"):
        Decoder(spec).decode(outputs, 0, ALL + np.float32(0.3))


def test_nan_in_a_box_of_efficient_nms_is_an_error() -> None:
    outputs = {
        "num": np.array([[1]], np.int32),
        "boxes": np.array([[[0, 0, np.nan, 10]]], np.float32),
        "scores": np.full((1, 1), 0.9, np.float32),
        "classes": np.zeros((1, 1), np.int32),
    }
    run = Postprocessor(make_spec(HeadLayout.EFFICIENT_NMS))
    box = Letterbox.fit(HEIGHT, WIDTH, HEIGHT, WIDTH)
    with pytest.raises(EngineError, match="NaN"):
        run(outputs, 0, box, PostprocessOptions())
    outputs["boxes"][0, 0, 2] = np.inf
    assert len(run(outputs, 0, box, PostprocessOptions())) == 0


def test_infinite_objectness_of_both_signs_is_no_nan() -> None:
    spec = make_spec(HeadLayout.UNDECODED, sigmoid=False)
    values = np.zeros((1, spec.num_anchors, 5 + CLASSES), np.float32)
    values[0, :, 4] = -np.inf
    values[0, 7, 4] = np.inf
    found = Decoder(spec).decode({"output": values}, 0, ALL + np.float32(0.3))
    assert found.anchors.tolist() == [7]


@pytest.mark.parametrize("threshold", [0.0, 1e-14])
def test_objectness_far_below_zero_is_not_ruled_out(threshold: float) -> None:
    spec = make_spec(HeadLayout.UNDECODED, sigmoid=False)
    values = np.zeros((1, spec.num_anchors, 5 + CLASSES), np.float32)
    values[0, :, 4] = -30.0  # a probability of 9e-14
    found = Decoder(spec).decode({"output": values}, 0, ALL + np.float32(threshold))
    assert len(found) == spec.num_anchors
