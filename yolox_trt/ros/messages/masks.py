# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Mask -> sensor_msgs/Image, run-length encoded as Autoware reads it, and in colours."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.labels import csv_error, load_remap, load_rows
from yolox_trt.core.mask import NO_CLASS, Mask
from yolox_trt.core.model_spec import ModelSpec, SegmentationHead
from yolox_trt.core.option import options_of
from yolox_trt.kernels.draw import class_color
from yolox_trt.ros.messages.images import write_header
from yolox_trt.ros.nodes.parameters import CameraParameters

#: A run in Image.data: its class, and its pixels.
_RUN = np.dtype([("value", "u1"), ("length", "<i4")])


class MaskMessages:
    """Builds the messages of a camera's masks, again and again the same two.

    Args:
        spec: the model; it has a segmentation head.
        parameters: of the camera: colours, and which boxes are painted over the mask.
        dropped: classes of the detections that are not published, and not painted either.

    Raises:
        ConfigurationError: a CSV file is wrong, or its classes are not those of the model.
    """

    def __init__(
        self, spec: ModelSpec, parameters: CameraParameters, dropped: Sequence[int] = ()
    ) -> None:
        head = spec.segmentation
        assert head is not None
        self._colors = color_table(head, parameters.mask_color_path)
        self._least_score = parameters.mask_overlap_score
        self._painted = np.full(spec.num_classes, -1, np.int64)
        if parameters.mask_overlap and parameters.mask_remap_path:
            self._painted[:] = load_remap(
                parameters.mask_remap_path,
                [spec.class_name(class_id) for class_id in range(spec.num_classes)],
                most=head.num_classes - 1,
                what="a class of the masks",
            )
            self._painted[list(dropped)] = -1
        self._mask = Image(encoding="mono8")
        self._color = Image(encoding="bgr8")

    def overlapped(self, detections: Detections) -> Mask:
        """Return the mask with the boxes painted over it that the parameters ask for.

        As autoware_tensorrt_yolox does it: in the order of the detections, a later one over the
        earlier ones, edges cut off to whole pixels.
        """
        mask = detections.mask
        assert mask is not None
        values = self._painted[detections.class_ids]
        chosen = np.flatnonzero((values >= 0) & (detections.scores >= self._least_score))
        if not len(chosen):
            return mask
        classes = mask.decode()
        boxes = detections.boxes[chosen]
        low = boxes[:, :2].astype(np.int64)
        high = low + (boxes[:, 2:] - boxes[:, :2]).astype(np.int64)
        for (x1, y1), (x2, y2), value in zip(
            low.tolist(), high.tolist(), values[chosen].tolist(), strict=True
        ):
            classes[y1:y2, x1:x2] = value
        return Mask.encode(classes)

    def build(self, frame: Frame, mask: Mask) -> Image:
        """Return ~/mask, valid until the next call: mono8, whose data are runs of 5 bytes."""
        runs = np.empty(len(mask.values), _RUN)
        runs["value"], runs["length"] = mask.values, mask.lengths
        message = self._mask
        write_header(message.header, frame)
        message.height, message.width, message.step = mask.height, mask.width, mask.width
        message.data = array("B", runs.tobytes())
        return message

    def build_color(self, frame: Frame, mask: Mask) -> Image:
        """Return ~/color_mask, valid until the next call: bgr8, black where there is no class."""
        message = self._color
        write_header(message.header, frame)
        message.height, message.width, message.step = mask.height, mask.width, 3 * mask.width
        message.data = array("B", np.repeat(self._colors[mask.values], mask.lengths, 0).tobytes())
        return message


def color_table(head: SegmentationHead, path: str = "") -> npt.NDArray[np.uint8]:
    """Return the colour of each class, uint8 (256, 3), blue green red; black for NO_CLASS.

    Args:
        head: the model's segmentation head.
        path: CSV file `id,name,r,g,b` with a line for each class; "" for built-in colours.

    Raises:
        ConfigurationError: the file cannot be read, a line is wrong, or it has not one line for
            each class of the head.
    """
    colors = np.zeros((256, 3), np.uint8)
    if not path:
        colors[:NO_CLASS] = [class_color(class_id) for class_id in range(NO_CLASS)]
        return colors
    declared = options_of(CameraParameters)["mask_color_path"]
    expected = "id,name,r,g,b: a class, its name, and red, green and blue from 0 to 255"
    found = {}
    for line, (id_, _, *rgb) in load_rows(path, ("id", "name", "r", "g", "b"), expected=expected):
        numbers = [int(n) if re.fullmatch(r"[0-9]{1,3}", n) else 256 for n in (id_, *rgb)]
        if max(numbers) > 255 or numbers[0] in found:
            raise csv_error(path, line, expected + ", each class once")
        found[numbers[0]] = numbers[1:]
    if sorted(found) != list(range(head.num_classes)):
        plural = "" if len(found) == 1 else "s"
        shown = f"{len(found)} colour{plural} (of {_listed(sorted(found))})"
        raise ConfigurationError(
            (declared, f" = '{path}' with {shown}"),
            expected=f"{head.num_classes}, one for each class of the model's segmentation head, 0 "
            f"to {head.num_classes - 1}",
            fix=("give the file that belongs to the model as ", declared),
        )
    for class_id, (red, green, blue) in found.items():
        colors[class_id] = blue, green, red
    return colors


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:20])) + ", ..." * (len(ids) > 20) or "no class"
