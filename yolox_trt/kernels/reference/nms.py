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
    x1, y1, x2, y2 = boxes[order].T
    area = (x2 - x1) * (y2 - y1)
    ids = class_ids[order]
    iou = np.float32(threshold)
    zero = np.float32(0)
    kept: list[int] = []
    # Positions (in score order) that are neither kept nor dropped yet.
    rest = np.arange(len(order))
    while len(rest) and len(kept) < limit:
        best = rest[0]
        kept.append(int(best))
        rest = rest[1:]
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        inter = np.maximum(width, zero) * np.maximum(height, zero)
        dropped = inter > iou * ((area[best] + area[rest]) - inter)
        if not class_agnostic:
            dropped &= ids[rest] == ids[best]
        rest = rest[~dropped]
    return order[kept]
