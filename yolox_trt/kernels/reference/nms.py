# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The definition of non-maximum suppression: greedy, exact and deterministic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]


def nms(
    boxes: Float32,
    scores: Float32,
    class_ids: npt.NDArray[np.int32],
    threshold: float,
    *,
    class_agnostic: bool = False,
    max_detections: int | None = None,
) -> Index:
    """Keep the best boxes and drop those that overlap a kept one.

    Order: score descending, and among equal scores the lower index (in anchor order) first. A box
    is dropped when a kept box of its class (of any class if class_agnostic) overlaps it with
    IoU > threshold. Areas are (x2 - x1) * (y2 - y1), as in COCO and YOLOX's torchvision path,
    without the + 1 pixel of YOLOX's NumPy demo. To give the same decisions everywhere, the test is

        inter > threshold * ((area_kept + area) - inter)

    with inter = max(0, min(x2) - max(x1)) * max(0, min(y2) - max(y1)), each operation rounded to
    float32, none fused (CUDA: __fmul_rn, __fadd_rn, __fsub_rn).

    Args:
        boxes: float32 (N, 4), x1 y1 x2 y2, finite.
        scores: float32 (N,).
        class_ids: int32 (N,).
        threshold: IoU, 0 to 1.
        class_agnostic: whether classes suppress each other.
        max_detections: stop after so many kept boxes.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable")
    limit = len(order) if max_detections is None else max_detections
    if len(order) <= 1:
        return order[:limit]
    ranked = boxes[order]
    ids = None if class_agnostic else class_ids[order]
    suppress = _by_matrix if len(order) <= _MATRIX_LIMIT else _one_by_one
    return order[suppress(ranked, ids, np.float32(threshold), limit)]


#: Up to so many boxes all pairs are compared at once (256: 0.2 ms and 3 MB); beyond, the
#: comparisons that are saved weigh more than NumPy's cost of a call.
_MATRIX_LIMIT = 256


def _overlap(
    corners: Float32, areas: Float32, others: Float32, other_areas: Float32, threshold: np.float32
) -> npt.NDArray[np.bool_]:
    """Tell which pairs overlap above the threshold.

    Args:
        corners: float32 (4, ...), x1 y1 x2 y2 first.
        areas: float32 (...).
        others: float32 (4, ...), to be broadcast against `corners`.
        other_areas: float32 (...).
        threshold: IoU.
    """
    # Both axes in one array: half as many calls, which is what small arrays cost.
    sides = np.minimum(corners[2:], others[2:])
    sides -= np.maximum(corners[:2], others[:2])
    # One side clamped at 0 is enough: a negative product decides like 0.
    inter = np.maximum(sides[0], np.float32(0))
    inter *= sides[1]
    union = areas + other_areas
    union -= inter
    union *= threshold
    return np.asarray(inter > union)


def _columns(boxes: Float32) -> tuple[Float32, Float32]:
    """Return corners (4, N) and areas (N,)."""
    corners = np.ascontiguousarray(boxes.T)
    return corners, (corners[2] - corners[0]) * (corners[3] - corners[1])


def _by_matrix(
    boxes: Float32, ids: npt.NDArray[np.int32] | None, threshold: np.float32, limit: int
) -> list[int]:
    """Suppress boxes in score order (N, 4) with the matrix of all pairs; return kept positions."""
    corners, areas = _columns(boxes)
    overlap = _overlap(
        corners[:, :, None], areas[:, None], corners[:, None, :], areas[None], threshold
    )
    if ids is not None:
        overlap &= ids[:, None] == ids
    # A row becomes one integer: bit j says that this box drops box j.
    packed = np.packbits(overlap, axis=1, bitorder="little")
    data, row_bytes = packed.tobytes(), packed.shape[1]
    dropped = 0
    kept: list[int] = []
    for position in range(len(boxes)):
        if dropped >> position & 1:
            continue
        kept.append(position)
        if len(kept) == limit:
            break
        start = position * row_bytes
        dropped |= int.from_bytes(data[start : start + row_bytes], "little")
    return kept


def _one_by_one(
    boxes: Float32, ids: npt.NDArray[np.int32] | None, threshold: np.float32, limit: int
) -> list[int]:
    """Suppress boxes in score order (N, 4) with one kept box after the other."""
    corners, areas = _columns(boxes)
    kept: list[int] = []
    # Positions that are neither kept nor dropped yet.
    rest = np.arange(len(boxes))
    while len(rest) and len(kept) < limit:
        best, rest = rest[0], rest[1:]
        kept.append(int(best))
        one = corners[:, best, None]
        dropped = _overlap(one, areas[best], corners[:, rest], areas[rest], threshold)
        if ids is not None:
            dropped &= ids[rest] == ids[best]
        rest = rest[~dropped]
    return kept
