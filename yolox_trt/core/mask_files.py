# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PNG files that hold the class of each pixel in 8 bits, NO_CLASS (255) where it is not known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.images import read_image
from yolox_trt.core.mask import NO_CLASS


def read_mask_file(path: Path, num_classes: int) -> npt.NDArray[np.uint8]:
    """Read the class of each pixel, uint8 (H, W).

    Raises:
        ConfigurationError: no such file, not 8 bits of one channel, or a class out of range.
    """

    def refusal(found: str) -> ConfigurationError:
        return ConfigurationError(
            found,
            expected=f"a PNG of one 8-bit channel, classes 0 to {num_classes - 1}, or {NO_CLASS} "
            "for none",
            fix="write it anew: the numbers of a palette, not its colours, are the classes",
        )

    try:
        classes = read_image(path, as_stored=True)
    except FrameError as error:
        raise refusal(f"mask '{path}' that cannot be read ({error.parts[0]})") from error
    if classes.ndim != 2 or classes.dtype != np.uint8:
        channels = classes.shape[2] if classes.ndim == 3 else 1
        raise refusal(f"mask '{path}' of {channels} channels of {classes.dtype}")
    known = classes[classes != NO_CLASS]
    if known.size and known.max() >= num_classes:
        raise refusal(f"class {known.max()} in mask '{path}'")
    return classes
