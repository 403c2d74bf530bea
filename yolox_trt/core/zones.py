# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Zones: polygons of a camera's image in which detections count, or do not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import Applies, Kind, OptionGroup, option, options_of

#: float32 (M, 2): x and y of each corner, in pixels of the source image.
Polygon: TypeAlias = "npt.NDArray[np.float32]"

_NUMBER = r"-?\d+(?:\.\d*)?"
_CORNERS = re.compile(rf"{_NUMBER},{_NUMBER}(?: {_NUMBER},{_NUMBER})*")


def parse_polygons(texts: Iterable[str]) -> tuple[Polygon, ...]:
    """Read polygons, each "x,y x,y x,y"; for Option.parse.

    Raises:
        ConfigurationError: another form, a polygon without an area, or too many corners in all.
    """
    texts = tuple(texts)
    # Before anything is read: a message sets them, in the thread that receives all images.
    found = sum(text.count(",") for text in texts)
    if found > LIMITS.zone_corners:
        raise ConfigurationError(
            f"polygons with {found} corners",
            expected=f"{LIMITS.zone_corners} at most, all together",
            fix="leave out corners that lie close together",
        )
    polygons = []
    for text in texts:
        corners: Polygon = np.empty((0, 2), np.float32)
        plain = ",".join(part.strip() for part in " ".join(text.split()).split(","))
        if _CORNERS.fullmatch(plain):
            corners = np.array(re.split("[ ,]", plain), np.float32).reshape(-1, 2)
        if len(corners) < 3 or not np.isfinite(corners).all() or _area(corners) < 1.0:
            raise ConfigurationError(
                f"polygon '{text}'",
                expected="three corners or more, in pixels, that enclose an area: '0,700 1920,700 "
                "1920,1280'",
            )
        polygons.append(corners)
    return tuple(polygons)


@dataclass(frozen=True, kw_only=True, eq=False)
class Zones(OptionGroup):
    """Where in a camera's image detections count."""

    include_zones: tuple[Polygon, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_polygons,
        unit="pixels",
        applies=Applies.AT_ONCE,
        flag="--include-zone",
        metavar="'X,Y ...'",
        help="A polygon in which detections count, as 'x,y x,y x,y'; without any the whole image.",
    )
    exclude_zones: tuple[Polygon, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_polygons,
        unit="pixels",
        applies=Applies.AT_ONCE,
        flag="--exclude-zone",
        metavar="'X,Y ...'",
        help="A polygon in which detections do not count.",
    )
    zone_anchor: str = option(
        "bottom",
        choices=("bottom", "centre"),
        applies=Applies.AT_ONCE,
        help="The point of a box that must be in a zone: the middle of its lowest row of pixels, "
        "where the object stands, or its centre.",
    )

    def __bool__(self) -> bool:
        """Whether there is any zone."""
        return bool(self.include_zones or self.exclude_zones)

    def check_inside(self, height: int, width: int) -> None:
        """Refuse a zone that no detection of an image can be in.

        Raises:
            ConfigurationError: a polygon lies beside an image of height x width pixels.
        """
        for name in ("include_zones", "exclude_zones"):
            for polygon in getattr(self, name):
                (left, top), (right, bottom) = polygon.min(axis=0), polygon.max(axis=0)
                if right < 0 or bottom < 0 or left > width or top > height:
                    declared = options_of(type(self))[name]
                    raise ConfigurationError(
                        (
                            declared,
                            f" from {left:g},{top:g} to {right:g},{bottom:g}, beside the image",
                        ),
                        expected=f"pixels of the {width}x{height} image",
                        fix=("set ", declared, " for the camera's resolution"),
                    )

    def select(self, detections: Detections) -> Detections:
        """Return the detections that count, in their order."""
        if not self or not len(detections):
            return detections
        x1, y1, x2, y2 = detections.boxes.T
        # A box that the image's lower edge cuts ends there, as zones do: at row 1280 or at 1279.
        y = y2 - 1 if self.zone_anchor == "bottom" else (y1 + y2) / 2
        points = np.stack(((x1 + x2) / 2, y))
        kept = np.ones(len(detections), bool)
        if self.include_zones:
            kept = np.any([inside(points, zone) for zone in self.include_zones], axis=0)
        for zone in self.exclude_zones:
            kept &= ~inside(points, zone)
        return detections[kept]


def inside(points: npt.NDArray[np.float32], polygon: Polygon) -> npt.NDArray[np.bool_]:
    """Tell which points lie in a polygon or on an edge of it.

    A point is inside where an odd number of edges is to its right.

    Args:
        points: (2, N), x and y.
        polygon: (M, 2); may be concave, and cross itself.

    Returns:
        bool (N,).
    """
    x, y = points[:, :, None]
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, axis=0).T
    crosses = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):  # of horizontal edges, which none crosses
        right = x < (x2 - x1) * (y - y1) / (y2 - y1) + x1
    on_line = (x - x1) * (y2 - y1) == (y - y1) * (x2 - x1)
    within = (np.minimum(x1, x2) <= x) & (x <= np.maximum(x1, x2))
    within &= (np.minimum(y1, y2) <= y) & (y <= np.maximum(y1, y2))
    return np.asarray(((crosses & right).sum(axis=1) % 2 == 1) | (on_line & within).any(axis=1))


def _area(polygon: Polygon) -> float:
    """Return a polygon's area, in square pixels (the shoelace formula)."""
    (x1, y1), (x2, y2) = polygon.T.astype(float), np.roll(polygon, -1, axis=0).T.astype(float)
    return abs(float((x1 * y2 - x2 * y1).sum())) / 2
