# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing of Detections into an image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.detections import Detections
from yolox_trt.core.mask import NO_CLASS
from yolox_trt.core.zones import Zones

_GREEN, _RED = (80, 200, 60), (60, 60, 220)
_FAR = 1 << 14


@lru_cache(maxsize=1024)
def class_color(class_id: int) -> tuple[int, int, int]:
    """Return a class's colour, blue green red 0..255: neighbouring ids look different.

    Hues step by the golden angle, which never repeats (H. Vogel, 1979).
    """
    hue = (class_id * 0.6180339887498949 + 0.02) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return int(blue * 255), int(green * 255), int(red * 255)


def draw_mask(
    image: npt.NDArray[np.uint8], classes: npt.NDArray[np.uint8], weight: float = 0.4
) -> npt.NDArray[np.uint8]:
    """Blend the colours of a mask's classes into an image; pixels of NO_CLASS stay.

    Args:
        image: uint8 (H, W, 3), blue green red, written in place.
        classes: uint8 (H, W).
        weight: of the colours, 0 to 1.

    Returns:
        The same image.
    """
    colors = np.array([class_color(class_id) for class_id in range(256)], np.uint8)
    blended = cv2.addWeighted(image, 1 - weight, colors[classes], weight, 0)
    np.copyto(image, blended, where=(classes != NO_CLASS)[..., None])
    return image


def draw_detections(
    image: npt.NDArray[np.uint8],
    detections: Detections,
    class_names: Sequence[str] = (),
) -> npt.NDArray[np.uint8]:
    """Draw boxes, track ids, class names and scores into an image, the best score on top.

    Args:
        image: uint8 (H, W, 3), blue green red, written in place.
        detections: boxes in the image's pixels.
        class_names: names of the classes; a class without a name is called by its number.

    Returns:
        The same image.
    """
    height, width = image.shape[:2]
    # Readable at every size: about 1/400 of the image's longer side.
    thickness = max(1, round(max(height, width) / 600))
    font_scale = max(0.4, max(height, width) / 1600)
    font = cv2.FONT_HERSHEY_SIMPLEX
    # A box half inside the image still has int32 corners: to_source clips.
    corners = np.rint(detections.boxes).astype(int)
    ids = detections.track_ids
    for index in reversed(range(len(detections))):
        class_id = int(detections.class_ids[index])
        x1, y1, x2, y2 = (int(v) for v in corners[index])
        color = class_color(class_id)
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), color, thickness)
        name = class_names[class_id] if class_id < len(class_names) else str(class_id)
        text = f"{name} {detections.scores[index]:.2f}"
        if ids is not None and ids[index]:
            text = f"#{ids[index]} {text}"
        (text_width, text_height), baseline = cv2.getTextSize(text, font, font_scale, thickness)
        # The label stands on the box, or inside it at the image's upper edge.
        top = y1 - text_height - baseline
        if top < 0:
            top = y1
        left = max(0, min(x1, width - text_width))
        bottom = top + text_height + baseline
        cv2.rectangle(image, (left, top), (left + text_width, bottom), color, cv2.FILLED)
        bright = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2] > 128
        ink = (0, 0, 0) if bright else (255, 255, 255)
        origin = (left, top + text_height + baseline // 2)
        cv2.putText(image, text, origin, font, font_scale, ink, thickness, cv2.LINE_AA)
    return image


def draw_zones(image: npt.NDArray[np.uint8], zones: Zones) -> npt.NDArray[np.uint8]:
    """Draw zones into an image: outlines, included ones green, excluded ones red.

    Args:
        image: uint8 (H, W, 3), blue green red, written in place.
        zones: polygons in the image's pixels.

    Returns:
        The same image.
    """
    thickness = max(2, round(max(image.shape[:2]) / 600))
    for polygons, color in ((zones.include_zones, _GREEN), (zones.exclude_zones, _RED)):
        # Far outside, a corner would overflow OpenCV's fixed-point coordinates.
        corners = [np.rint(each.clip(-_FAR, _FAR)).astype(np.int32) for each in polygons]
        cv2.polylines(image, corners, True, color, thickness, cv2.LINE_AA)
    return image
