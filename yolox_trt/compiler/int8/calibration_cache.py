# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT's calibration cache: a text file with one scale a tensor.

First line `TRT-<version>-<algorithm>`, then `<tensor>: <scale>`, the scale as the eight hex
digits of a big-endian IEEE float32 (as NVIDIA's cuDLA-samples write `images: 3c00f9f4`).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from yolox_trt.compiler.int8.dynamic_ranges import INT8_MAX, SMALLEST_AMAX, DynamicRanges
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.engines.engine_file import write_atomically

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
            fix="set --tensorrt to the version that builds the engine",
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    if major >= 11:
        raise ConfigurationError(
            f"TensorRT {tensorrt_version}, which has no calibration caches",
            expected="TensorRT 8.5 to 10.x",
            fix="yolox_trt quantize MODEL --qdq FILE writes the Q/DQ ONNX that 11.x takes",
        )
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def write_cache(
    path: str | Path,
    ranges: DynamicRanges,
    *,
    tensorrt_version: str = "8.6.1",
    calibrator: str = "IInt8EntropyCalibrator2",
) -> None:
    """Write a calibration cache, atomically.

    Args:
        path: file to write.
        ranges: the scales.
        tensorrt_version: version that will read it; it refuses another version's header.
        calibrator: TensorRT's calibrator class that will read it (a key of HEADER_ALGORITHMS).

    Raises:
        ConfigurationError: unknown version or calibrator, or a tensor name with a line break.
    """
    if calibrator not in HEADER_ALGORITHMS:
        raise ConfigurationError(
            f"calibrator '{calibrator}'", expected=f"one of {', '.join(HEADER_ALGORITHMS)}"
        )
    lines = [f"TRT-{version_number(tensorrt_version)}-{HEADER_ALGORITHMS[calibrator]}"]
    for name, scale in ranges.scales.items():
        if "\n" in name or "\r" in name:
            raise ConfigurationError(
                f"tensor name {name!r}",
                expected="a name without line breaks",
                fix="yolox_trt optimize MODEL renames it",
            )
        lines.append(f"{name}: {struct.pack('>f', float(scale)).hex()}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, ("\n".join(lines) + "\n").encode())


def read_cache(path: str | Path) -> DynamicRanges:
    """Read a calibration cache.

    Returns:
        The scales; `algorithm` is the header's (such as "EntropyCalibration2").

    Raises:
        ConfigurationError: missing header, a line of another form, or a scale that is negative
            or not finite.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"calibration cache '{path}' that cannot be read ({error})",
            fix="yolox_trt calibrate MODEL --images FOLDER --cache FILE",
        ) from error
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise ConfigurationError(
            f"first line {lines[0] if lines else ''!r} of '{path}'",
            expected="TRT-<version>-<algorithm>, such as TRT-8601-EntropyCalibration2",
            fix="yolox_trt calibrate MODEL --images FOLDER --cache FILE",
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
                fix="yolox_trt calibrate MODEL --images FOLDER --cache FILE",
            )
        # With a scale of 0 nothing can be divided; the tensor is zero with a tiny one, too.
        ranges.scales[match["name"]] = np.float32(scale or SMALLEST_AMAX / INT8_MAX)
    return ranges
