# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT calibrators that read a calibration cache (TensorRT 8.5 to 10.x)."""

from __future__ import annotations

import logging
from typing import Any

from yolox_trt.compiler.int8.calibration_cache import (
    HEADER_ALGORITHMS,
    CacheOptions,
    cache_bytes,
)
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.engines.trt_api import TensorRTApi

_log = logging.getLogger("yolox_trt.build")

_DLA_CALIBRATOR = "IInt8EntropyCalibrator2"


def make_calibrator(api: TensorRTApi, ranges: DynamicRanges, *, on_dla: bool) -> Any:
    """Return a calibrator that hands these scales to the builder and never sees an image.

    TensorRT refuses a cache of another algorithm or version than the calibrator's and its own,
    so the header is written for those; the scales mean the same under each. The DLA takes
    IInt8EntropyCalibrator2 alone.

    Raises:
        ConfigurationError: an algorithm that TensorRT has no calibrator for.
    """
    by_algorithm = {algorithm: name for name, algorithm in HEADER_ALGORITHMS.items()}
    if ranges.algorithm not in by_algorithm:
        raise ConfigurationError(
            f"calibration cache of '{ranges.algorithm}'",
            expected=f"one of {', '.join(by_algorithm)}",
            fix="yolox_trt calibrate MODEL --images FOLDER --cache FILE",
        )
    name = _DLA_CALIBRATOR if on_dla else by_algorithm[ranges.algorithm]
    if name != by_algorithm[ranges.algorithm]:
        _log.info("calibration cache of %s is given to the DLA as %s", ranges.algorithm, name)
    cache = cache_bytes(ranges, CacheOptions(tensorrt=api.version_text, calibrator=name))
    base = getattr(api.module, name)

    class CacheCalibrator(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            # pybind11 trampolines crash when the base class was not initialised.
            base.__init__(self)
            self.asked_for_images = False

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            # Called when the cache was not accepted. None ends the calibration.
            self.asked_for_images = True
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, data: bytes) -> None:
            # The file on disk is the user's; TensorRT's copy of it is not kept.
            return None

        # IInt8LegacyCalibrator's own; the published defaults (a quantile and a cutoff of 1 keep
        # the whole histogram) matter only without a cache.
        def get_quantile(self) -> float:
            return 1.0

        def get_regression_cutoff(self) -> float:
            return 1.0

        def read_histogram_cache(self, length: int) -> None:
            return None

        def write_histogram_cache(self, data: bytes, length: int) -> None:
            return None

    return CacheCalibrator()
