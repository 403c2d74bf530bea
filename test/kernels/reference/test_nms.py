# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NMS against a scalar definition, and its rules one by one."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolox_trt.kernels.reference.nms import nms


def scalar_nms(boxes, scores, ids, threshold, agnostic):  # type: ignore[no-untyped-def]
    """Pairwise loops over plain numbers."""
    f = np.float32
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        for k in kept:
            if not agnostic and ids[i] != ids[k]:
                continue
            w = max(f(0), min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0]))
            h = max(f(0), min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1]))
            inter = w * h
            area_i = (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1])
            area_k = (boxes[k][2] - boxes[k][0]) * (boxes[k][3] - boxes[k][1])
            if inter > f(threshold) * ((area_k + area_i) - inter):
                break
        else:
            kept.append(i)
    return kept


@given(
    st.integers(0, 40),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.45, 0.65, 1.0]),
    st.booleans(),
    st.integers(0, 2**20),
)
@settings(max_examples=75, deadline=None)
def test_equals_scalar_code(
    count: int, classes: int, threshold: float, agnostic: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (count, 2))
    size = rng.integers(0, 15, (count, 2))
    boxes = np.concatenate((corner, corner + size), 1).astype(np.float32)
    scores = (rng.integers(0, 8, count) / 8).astype(np.float32)  # many ties
    ids = rng.integers(0, classes, count).astype(np.int32)
    kept = nms(boxes, scores, ids, threshold, class_agnostic=agnostic)
    assert kept.tolist() == scalar_nms(boxes, scores, ids, threshold, agnostic)
    limited = nms(boxes, scores, ids, threshold, class_agnostic=agnostic, max_detections=3)
    assert limited.tolist() == kept[:3].tolist()


@pytest.mark.parametrize("agnostic", [False, True])
def test_many_boxes_equal_few(agnostic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of comparing (all pairs at once, one by one) keep the same boxes."""
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 200, (600, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(5, 60, (600, 2))), 1).astype(np.float32)
    scores = rng.integers(0, 50, 600).astype(np.float32) / 50
    ids = rng.integers(0, 3, 600).astype(np.int32)
    module = sys.modules["yolox_trt.kernels.reference.nms"]
    results = []
    for limit in (0, 1000):
        monkeypatch.setattr(module, "_MATRIX_LIMIT", limit)
        results.append(nms(boxes, scores, ids, 0.4, class_agnostic=agnostic).tolist())
        first = nms(boxes, scores, ids, 0.4, class_agnostic=agnostic, max_detections=7).tolist()
        assert first == results[-1][:7]
    assert results[0] == results[1]
    assert 10 < len(results[0]) < 600


BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)


def test_equal_scores_keep_the_lower_index() -> None:
    kept = nms(BOXES, np.full(4, 0.5, np.float32), np.zeros(4, np.int32), 0.5)
    assert kept.tolist() == [0, 2, 3]


def test_iou_equal_to_the_threshold_survives() -> None:
    # Boxes 0 and 2 share 50 of 150: IoU is 1 / 3.
    scores = np.array([0.9, 0.1, 0.8, 0.7], np.float32)
    ids = np.array([0, 1, 0, 0], np.int32)
    assert 2 in nms(BOXES, scores, ids, 1 / 3 + 1e-6)
    assert 2 not in nms(BOXES, scores, ids, 1 / 3 - 1e-6)
    # Without the + 1 pixel of the demo's areas: it would be 66 of 176 = 0.375 there.


@pytest.mark.parametrize(("agnostic", "expected"), [(False, [0, 1, 3]), (True, [0, 3])])
def test_classes(agnostic: bool, expected: list[int]) -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    ids = np.array([0, 1, 0, 0], np.int32)
    kept = nms(BOXES, scores, ids, 0.3, class_agnostic=agnostic)
    assert kept.tolist() == expected
