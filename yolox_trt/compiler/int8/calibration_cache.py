# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT's calibration cache: a text file with one scale a tensor.

First line `TRT-<version>-<algorithm>`, then `<tensor>: <scale>`, the scale as the eight hex
digits of a big-endian IEEE float32 (as NVIDIA's cuDLA-samples write `images: 3c00f9f4`).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolox_trt.compiler.int8.dynamic_ranges import INT8_MAX, SMALLEST_AMAX, DynamicRanges
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.files import read_at_most, write_atomically
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import OptionGroup, option

_WRITE_ONE = "yolox_trt calibrate MODEL --images FOLDER --cache FILE"

#: Calibrator class -> its name in the header. The DLA takes EntropyCalibration2 only.
HEADER_ALGORITHMS: dict[str, str] = {
    "IInt8EntropyCalibrator2": "EntropyCalibration2",
    "IInt8EntropyCalibrator": "EntropyCalibration",
    "IInt8MinMaxCalibrator": "MinMaxCalibration",
    "IInt8LegacyCalibrator": "LegacyCalibration",
}

_HEADER = re.compile(r"TRT-(?P<version>\d+)-(?P<algorithm>\w+)")
#: `0` is the scale of a tensor that was zero in every image. Other scales have eight digits: a
#: line with fewer was cut off.
_LINE = re.compile(r"(?P<name>.+): (?P<scale>[0-9a-fA-F]{8}|0)")


def version_number(tensorrt_version: str) -> int:
    """Return the header's number of a version: 8.6.1 -> 8601, 10.3.0 -> 100300.

    NvInferVersion.h: NV_TENSORRT_VERSION is major * 1000 + minor * 100 + patch up to 8.x and
    major * 10000 + minor * 100 + patch from 10.0 on.

    Raises:
        ConfigurationError: not a version like 8.5, 8.6.1 or 10.3.0.
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", tensorrt_version)
    if match is None:
        raise ConfigurationError(
            f"TensorRT version '{tensorrt_version}'",
            expected="a version such as 8.5.2, 8.6.1 or 10.3.0",
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    if major >= 11:
        raise ConfigurationError(
            f"TensorRT {tensorrt_version}, which has no calibration caches",
            expected="TensorRT 8.5 to 10.x",
            fix="yolox_trt quantize MODEL -o FILE writes the Q/DQ ONNX that 11.x takes",
        )
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def _version(text: str) -> str:
    version_number(text)
    return text


@dataclass(frozen=True, kw_only=True)
class CacheOptions(OptionGroup):
    """What will read a calibration cache: TensorRT refuses another version's or class's header."""

    tensorrt: str = option(
        "8.6.1", parse=_version, metavar="VERSION", help="TensorRT version that reads the cache."
    )
    calibrator: str = option(
        "IInt8EntropyCalibrator2",
        choices=tuple(HEADER_ALGORITHMS),
        metavar="CLASS",
        help="TensorRT class that reads the cache; the DLA has only the default one. The header's "
        "name says nothing about the algorithm that found the ranges.",
    )


def cache_bytes(ranges: DynamicRanges, options: CacheOptions) -> bytes:
    """Return a calibration cache for what will read it.

    Raises:
        ConfigurationError: a tensor name with a line break.
    """
    algorithm = HEADER_ALGORITHMS[options.calibrator]
    lines = [f"TRT-{version_number(options.tensorrt)}-{algorithm}"]
    for name, scale in ranges.items():
        if "\n" in name or "\r" in name:
            raise ConfigurationError(
                f"tensor name {name!r}",
                expected="a name without line breaks",
                fix="yolox_trt optimize MODEL renames it",
            )
        lines.append(f"{name}: {struct.pack('>f', float(scale)).hex()}")
    return ("\n".join(lines) + "\n").encode()


def write_cache(
    path: str | Path, ranges: DynamicRanges, options: CacheOptions | None = None
) -> None:
    """Write a calibration cache, atomically; see cache_bytes."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, cache_bytes(ranges, options or CacheOptions()))


def read_cache(path: str | Path) -> DynamicRanges:
    """Read a calibration cache.

    Returns:
        The scales; `algorithm` is the header's (such as "EntropyCalibration2").

    Raises:
        ConfigurationError: missing header, a line of another form, or a scale that is negative
            or not finite.
    """
    found = f"calibration cache '{path}' that cannot be read"
    with ConfigurationError.instead_of(FILE_ERRORS, found, fix=_WRITE_ONE):
        lines = read_at_most(path, LIMITS.json_bytes).decode().splitlines()
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise ConfigurationError(
            f"first line {lines[0] if lines else ''!r} of '{path}'",
            expected="TRT-<version>-<algorithm>, such as TRT-8601-EntropyCalibration2",
            fix=_WRITE_ONE,
        )
    ranges = DynamicRanges(algorithm=header["algorithm"])
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        digits = match["scale"].zfill(8) if match else "7fc00000"  # not a number
        scale = struct.unpack(">f", bytes.fromhex(digits))[0]
        if match is None or not np.isfinite(scale) or scale < 0.0:
            raise ConfigurationError(
                f"line {number} of '{path}': {line!r}",
                expected="'<tensor>: <8 hex digits of a positive float32>'",
                fix=_WRITE_ONE,
            )
        # With a scale of 0 nothing can be divided; the tensor is zero with a tiny one, too.
        ranges[match["name"]] = np.float32(scale or SMALLEST_AMAX / INT8_MAX)
    return ranges
