# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Roi: the part of a source image that the network sees."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.core.errors import ConfigurationError


@dataclass(frozen=True)
class Roi:
    """A rectangle in source pixels, cropped before the letterbox.

    Attributes:
        x: left edge, in pixels.
        y: top edge, in pixels.
        width: in pixels.
        height: in pixels.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width <= 0 or self.height <= 0:
            raise ConfigurationError(
                f"roi x={self.x} y={self.y} width={self.width} height={self.height}",
                expected="x, y >= 0 and width, height > 0, in pixels",
            )

    def check_inside(self, height: int, width: int) -> None:
        """Raise ConfigurationError if the rectangle leaves an image of height x width pixels."""
        if self.x + self.width > width or self.y + self.height > height:
            raise ConfigurationError(
                f"roi [{self.x}, {self.y}, {self.width}, {self.height}]",
                expected=f"a rectangle inside the {width}x{height} image",
                fix="take a roi that fits the camera's resolution",
            )
