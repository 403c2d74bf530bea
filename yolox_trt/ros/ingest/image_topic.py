# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ImageTopic and ImageSink: where a camera's images come from, and where they go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import ImageLimits
from yolox_trt.detectors.decoders import DecoderOptions

#: Images in a row of less than half the largest one's size after which buffers become smaller.
SMALL_IMAGES = 100


@dataclass(frozen=True)
class ImageTopic:
    """What to subscribe to.

    Attributes:
        name: the topic's name.
        transport: how the images come, a name of TRANSPORTS.
        reliability, depth, history: QoS of the subscription, in the words of ROS 2.
        max_megapixels: how large an image may be; see ImageLimits.
        decoder, jpeg_scale: how compressed images are decoded; see DecoderOptions.
        input_size: (height, width) of the network's input; None to decode at full size.
        gpu: CUDA device ordinal of the GPU whose decoders are used.
    """

    name: str
    transport: str
    reliability: str
    depth: int
    history: str = "keep_last"
    max_megapixels: float = ImageLimits.max_megapixels
    decoder: str = DecoderOptions.decoder
    jpeg_scale: str = DecoderOptions.jpeg_scale
    input_size: tuple[int, int] | None = None
    gpu: int = 0


class ImageSink(Protocol):
    """Where a camera's images go. Each image that arrives ends in one of the first three calls."""

    def on_frame(self, frame: Frame) -> None:
        """Take an image."""

    def on_refused(self, reason: str) -> None:
        """Count an image that could not be read."""

    def on_full(self) -> None:
        """Count an image that found no room, or that a newer one has replaced."""

    def on_lost(self, count: int) -> None:
        """Count images that the middleware lost on their way."""
