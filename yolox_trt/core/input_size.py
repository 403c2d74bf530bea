# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Input size of a network: as exported, fixed, or chosen by the shape of the images."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, TypeAlias

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import parse_size, size_option

#: (height, width) in pixels.
Size: TypeAlias = tuple[int, int]
#: A Size, AUTO_SIZE or OWN_SIZE.
InputSize: TypeAlias = "Size | str"

#: The size in which the camera's image is largest, at the cost of the model's own size.
AUTO_SIZE = "auto"
#: Before the (height, width) of a camera's images: the size that AUTO_SIZE is for them.
AUTO_FOR = f"{AUTO_SIZE}:"
#: The size with which the model was exported.
OWN_SIZE = "model"
#: Sizes that fit a network of YOLOX's strides 8, 16 and 32.
SIZE_STEP = 32
#: Pixels that a chosen size may have more than the model's own, as a share.
_MORE_PIXELS = 0.05


def parse_input_size(text: str) -> InputSize:
    """Read "HxW", "auto" or "model"; for Option.parse.

    Raises:
        ConfigurationError: another form.
    """
    word = text.strip().lower()
    if word in (AUTO_SIZE, OWN_SIZE):
        return word
    try:
        return parse_size(word)
    except ConfigurationError as error:
        raise ConfigurationError(
            error.parts[0], expected=f"HxW, such as 320x544, or {AUTO_SIZE}, or {OWN_SIZE}"
        ) from None


def input_size_option(**rest: Any) -> Any:
    """Declare the option `input_size` of what runs a model on images, as a dataclass field."""
    return size_option(
        metavar=f"HxW|{AUTO_SIZE}|{OWN_SIZE}",
        parse=parse_input_size,
        unit="pixels",
        **{
            "help": "Input size of the network: HxW; auto, the size with about as many pixels as "
            "the model's own in which the image is largest, multiples of 32; or model, as it was "
            "exported (default: what the model's metadata wishes, else model; the shipped model "
            "wishes auto).",
            **rest,
        },
    )


def parse_tool_size(text: str) -> InputSize:
    """Read what parse_input_size does, or "auto:HxW" of a camera; for Option.parse.

    Raises:
        ConfigurationError: another form.
    """
    word = text.strip().lower()
    if not word.startswith(AUTO_FOR):
        return parse_input_size(word)
    return AUTO_FOR + format_size(parse_size(word.removeprefix(AUTO_FOR)))


def tool_size_option(auto: str = "", **rest: Any) -> Any:
    """Declare the option `input_size` of what writes or checks a model, as a dataclass field.

    Args:
        auto: what "auto" alone means here; "" where there are no images to choose a size by.
        rest: see `option`.
    """
    words = [AUTO_SIZE, f"{AUTO_FOR}HxW"] if auto else [f"{AUTO_FOR}HxW"]
    return size_option(
        metavar="|".join(("HxW", *words, OWN_SIZE)),
        parse=parse_tool_size,
        help="Input size: HxW; auto:HxW, the one that `auto` is for a camera of this size, such as "
        f"auto:1080x1920; {f'auto, {auto}; ' if auto else ''}or model, as it was exported "
        "(the default).",
        **rest,
    )


def format_size(size: Size) -> str:
    """Return "HxW", as `parse_input_size` reads it."""
    return f"{size[0]}x{size[1]}"


def sized_name(model: str, size: Size | None) -> str:
    """Return an executor's name of a model at a size: "MODEL@HxW"; None for its own size."""
    return model if size is None else f"{model}@{format_size(size)}"


def in_size(size: Size, picture: Size) -> float:
    """Return input pixels for each source pixel of a letterboxed picture, both (height, width)."""
    return min(size[0] / picture[0], size[1] / picture[1])


@functools.lru_cache(maxsize=256)
def best_size(own: Size, picture: Size, step: int = SIZE_STEP) -> Size:
    """Return the input size for pictures of a shape.

    Of all sizes with at most 5 % more pixels than the model's own it is the one in which the
    letterboxed picture is largest, of equals the one with fewest pixels. The picture is never
    smaller than in the model's own size.

    Args:
        own: (height, width) with which the model was exported.
        picture: (height, width) of the images, or of the part of them that is looked at.
        step: both sides are multiples of it: the model's largest stride.

    Examples:
        >>> best_size((416, 416), (1080, 1920))
        (320, 544)
        >>> best_size((416, 416), (480, 640))
        (352, 480)
    """
    budget = math.floor(own[0] * own[1] * (1.0 + _MORE_PIXELS) / step**2)

    def needed(rows: int) -> int:
        """Return the fewest columns that lose no row of these: more would only be padded."""
        return math.ceil(rows * picture[1] / picture[0])

    # The most rows that get all the columns they need. Of fewer rows the picture is smaller; more
    # get fewer columns, and one more gets the most of them.
    rows, beyond = 0, budget + 1
    while beyond - rows > 1:
        middle = (rows + beyond) // 2
        rows, beyond = (middle, beyond) if needed(middle) <= budget // middle else (rows, middle)
    best = own
    for count in range(max(rows, 1), min(rows + 1, budget) + 1):
        size = (count * step, min(needed(count), budget // count) * step)
        best = min(best, size, key=lambda s: (-in_size(s, picture), math.prod(s)))
    return best


def least_size(own: Size, picture: Size, step: int = SIZE_STEP) -> Size:
    """Return the input size for pictures that are to be no larger than in the model's own.

    It is the one with fewest pixels: what it leaves out is padding.

    Args:
        own: (height, width) with which the model was exported.
        picture: (height, width) of the images.
        step: both sides are multiples of it, if the model's own are.

    Examples:
        >>> least_size((416, 416), (1080, 1920))
        (256, 416)
    """
    scale = min(Fraction(own[0], picture[0]), Fraction(own[1], picture[1]))
    height, width = (min(side, math.ceil(scale * length / step) * step)
                     for side, length in zip(own, picture, strict=True))  # fmt: skip
    return height, width
