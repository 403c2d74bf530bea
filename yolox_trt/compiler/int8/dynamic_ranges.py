# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DynamicRanges: the INT8 scale of every tensor, and its JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from yolox_trt.core.documents import read_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.output_paths import write_json

#: Largest magnitude that a symmetric INT8 code stands for (TensorRT uses -127..127 for ranges).
INT8_MAX = 127

#: Ranges smaller than this would make scales that float16 cannot hold.
SMALLEST_AMAX = 1e-6


class DynamicRanges(dict[str, np.float32]):
    """Scales of tensors: tensor name -> float32 scale (amax / 127).

    The scale is what is stored, so that a round trip through any file form gives back the same
    bits; the range (amax) is derived from it.

    Attributes:
        algorithm: how they were found ("max", "entropy", "percentile", "mse", "fixed", ...).
    """

    def __init__(self, scales: Mapping[str, np.float32] | None = None, algorithm: str = "") -> None:
        super().__init__(scales or {})
        self.algorithm = algorithm

    @classmethod
    def from_amax(cls, amax: Mapping[str, float], algorithm: str = "") -> DynamicRanges:
        """Make scales from the largest magnitudes (in the tensors' own units)."""
        ranges = cls(algorithm=algorithm)
        for name, value in amax.items():
            ranges.set_amax(name, value)
        return ranges

    def amax(self, name: str) -> float:
        """Return the largest magnitude that a tensor's codes stand for."""
        return float(self[name]) * INT8_MAX

    def amaxes(self) -> dict[str, float]:
        """Return the largest magnitude of every tensor's codes."""
        return {name: self.amax(name) for name in self}

    def set_amax(self, name: str, value: float) -> None:
        """Set one tensor's range."""
        self[name] = np.float32(max(float(value), SMALLEST_AMAX) / INT8_MAX)

    def save_json(self, path: str | Path) -> None:
        """Write a JSON file: {"algorithm": ..., "ranges": {tensor: amax}, "scales": {tensor: hex}}.

        `ranges` is for people and for setDynamicRange; `scales` keeps the exact float32 (as
        Python's float.hex of it).
        """
        write_json(
            Path(path),
            {
                "algorithm": self.algorithm,
                "ranges": self.amaxes(),
                "scales": {name: float(s).hex() for name, s in self.items()},
            },
        )

    @classmethod
    def load_json(cls, path: str | Path) -> DynamicRanges:
        """Read what save_json wrote, or a plain {"ranges": {tensor: amax}} written by hand.

        Raises:
            ConfigurationError: the file is not of that form.
        """
        with ConfigurationError.instead_of(
            FILE_ERRORS,
            f"dynamic ranges file '{path}' that cannot be read",
            expected='JSON with {"ranges": {"tensor name": largest magnitude}}',
            fix="yolox_trt calibrate MODEL --images FOLDER --ranges FILE",
        ):
            values = read_json(path)
            ranges = cls.from_amax(values["ranges"], values.get("algorithm", ""))
            for name, text in values.get("scales", {}).items():
                ranges[name] = np.float32(float.fromhex(text))
            for name, size in values["ranges"].items():
                if not 0.0 <= size < np.inf:
                    raise ValueError(f"{name}: {size}")
            for name, scale in ranges.items():
                if not 0.0 < scale < np.inf:  # by which all is divided
                    raise ValueError(f"{name}: scale {scale}")
        return ranges
