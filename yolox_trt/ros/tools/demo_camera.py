# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A camera of the demonstration: a panned and zoomed photograph, as a process of its own."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.ros.middleware import apply_malloc_settings
from yolox_trt.ros.tools.image_publisher import ImagePublisher
from yolox_trt.ros.tools.pacer import Pacer
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


def main(args: Sequence[str] | None = None) -> int:
    """Publish until SIGINT or SIGTERM; prints "LATE n" for pictures that came late."""
    parser = argparse.ArgumentParser(prog="python -m yolox_trt.ros.tools.demo_camera")
    parser.add_argument("name", help="camera's name: it publishes /NAME/image_raw")
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--rate", type=float, default=10.0, help="pictures a second")
    parser.add_argument("--size", type=int, nargs=2, default=(1920, 1280), help="width height")
    parser.add_argument("--still", action="store_true", help="draw one picture, send it again")
    parser.add_argument("--plain", action="store_true", help="leave malloc as it is")
    parser.add_argument("--reliable", action="store_true", help="reliable quality of service")
    parser.add_argument(
        "--number", action="store_true", help="write each picture's number into its frame_id"
    )
    options = parser.parse_args(args)
    if not options.plain:
        apply_malloc_settings()
    cv2.setNumThreads(1)
    photograph = cv2.imread(str(options.photograph), cv2.IMREAD_COLOR)
    if photograph is None:
        raise ConfigurationError(
            f"'{options.photograph}', which OpenCV cannot decode",
            expected="a JPEG or PNG file",
            fix="pip install --force-reinstall scikit-image",
        )
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f"{options.name}_driver", start_parameter_services=False)
    try:
        publisher = ImagePublisher(
            node,
            f"/{options.name}/image_raw",
            frame_id=f"{options.name}_optical",
            qos=source_qos(options.reliable),
        )
        width, height = options.size
        picture = MovingPicture(photograph, height, width)
        pacer = Pacer(options.rate)
        canvas = publisher.canvas(height, width)
        while not stop.is_set():
            if not options.still or not publisher.published:
                picture.draw(publisher.published / options.rate, canvas)
            if options.number:
                publisher.frame_id = str(publisher.published)
            publisher.publish(canvas)
            pacer.wait()
        print(f"PUBLISHED {publisher.published} LATE {pacer.late}", flush=True)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
