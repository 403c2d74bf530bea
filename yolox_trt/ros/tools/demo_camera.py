# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A camera of the demonstration: a panned and zoomed photograph, as a process of its own."""

from __future__ import annotations

import math
import signal
import sys
import threading

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.documents import parse_json
from yolox_trt.core.images import read_image
from yolox_trt.core.memory import apply_malloc_settings
from yolox_trt.evaluation.pacing import Pacer
from yolox_trt.ros.tools.image_publisher import ImagePublisher
from yolox_trt.ros.tools.options import CameraOptions
from yolox_trt.ros.tools.session import plain_node, ros_node
from yolox_trt.ros.tools.source_node import source_qos

#: Seconds of one round of the movement.
ROUND = 8.0


class MovingPicture:
    """A photograph seen by a camera that pans and zooms: a window that moves over it.

    Args:
        photograph: bgr8, uint8 (H, W, 3).
        height: rows of the pictures.
        width: columns of the pictures.
    """

    def __init__(self, photograph: npt.NDArray[np.uint8], height: int, width: int) -> None:
        self._size = (width, height)
        source_height, source_width = photograph.shape[:2]
        # The window holds the whole photograph, so that what it shows stays in sight; the grey
        # margin around it leaves room to move.
        self._window_height = max(source_height, source_width * height / width)
        self._window_width = self._window_height * width / height
        world_height = round(self._window_height * 1.3)
        world_width = round(self._window_width * 1.3)
        self._world = np.full((world_height, world_width, 3), 90, np.uint8)
        top, left = (world_height - source_height) // 2, (world_width - source_width) // 2
        self._world[top : top + source_height, left : left + source_width] = photograph

    def draw(self, time: float, canvas: npt.NDArray[np.uint8]) -> None:
        """Draw the picture of a time (seconds) into a canvas of the pictures' size."""
        phase = 2.0 * math.pi * time / ROUND
        zoom = 1.12 + 0.08 * math.sin(phase)
        window_height = round(self._window_height * zoom)
        window_width = round(self._window_width * zoom)
        world_height, world_width = self._world.shape[:2]
        x = round((world_width - window_width) / 2 * (1 + 0.9 * math.sin(phase / 2)))
        y = round((world_height - window_height) / 2 * (1 + 0.9 * math.cos(phase)))
        window = self._world[y : y + window_height, x : x + window_width]
        cv2.resize(window, self._size, dst=canvas, interpolation=cv2.INTER_LINEAR)


def publish(options: CameraOptions, stop: threading.Event) -> None:
    """Publish until `stop` is set; prints how many were published, and how many came late."""
    photograph = read_image(options.photograph)
    if not options.plain:
        apply_malloc_settings()
    with ros_node(plain_node(f"{options.name}_driver"), large_images=False) as (node, _):
        publisher = ImagePublisher(
            node,
            f"/{options.name}/image_raw",
            frame_id=f"{options.name}_optical",
            qos=source_qos(options.reliable),
            compressed=options.compressed,
        )
        picture = MovingPicture(photograph, *options.size)
        pacer = Pacer(options.rate)
        canvas = (
            np.empty((*options.size, 3), np.uint8)
            if options.compressed
            else publisher.canvas(*options.size)
        )
        while not stop.is_set():
            fresh = not options.still or not publisher.published
            if fresh:
                picture.draw(publisher.published / options.rate, canvas)
            number = str(publisher.published) if options.numbered else None
            pacer.wait()
            publisher.publish(canvas if fresh else None, frame_id=number)
        print(f"PUBLISHED {publisher.published} LATE {pacer.late}", flush=True)


def main() -> int:
    """Publish until SIGINT or SIGTERM; the argument is CameraOptions as JSON."""
    options = CameraOptions(**parse_json(sys.argv[1]))
    cv2.setNumThreads(1)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    publish(options, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
