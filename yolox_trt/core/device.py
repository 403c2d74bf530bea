# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Device: where an engine runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from yolox_trt.core.errors import ConfigurationError

#: Stands for a device where something else makes the choice.
AUTO = "auto"
_PATTERN = re.compile(r"(?P<gpu>gpu)(?::(?P<gpu_index>\d+))?|dla(?P<core>\d+)|(?P<cpu>cpu)")


@dataclass(frozen=True, order=True)
class Device:
    """One place where an engine runs: `gpu`, `gpu:1`, `dla0`, `dla1` or `cpu`.

    Attributes:
        kind: "gpu", "dla" or "cpu".
        index: CUDA device ordinal for "gpu", DLA core for "dla", 0 for "cpu".
    """

    kind: str
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read a device's name.

        Raises:
            ConfigurationError: the name is none of gpu, gpu:N, dlaN, cpu.
        """
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            raise ConfigurationError(f"device '{text}'", expected="gpu, gpu:N, dla0, dla1 or cpu")
        if match["gpu"]:
            return cls("gpu", int(match["gpu_index"] or 0))
        if match["core"] is not None:
            return cls("dla", int(match["core"]))
        return cls("cpu")

    @classmethod
    def parse_or_auto(cls, text: str) -> Device | None:
        """Read a device's name; None for "auto".

        Raises:
            ConfigurationError: neither "auto" nor a device's name.
        """
        if text.strip().lower() == AUTO:
            return None
        try:
            return cls.parse(text)
        except ConfigurationError as error:
            raise ConfigurationError(error.found, expected=f"{AUTO}, {error.expected}") from None

    @property
    def is_cuda(self) -> bool:
        """Whether frames are preprocessed by CUDA kernels for this device (GPU and DLA)."""
        return self.kind != "cpu"

    @property
    def cuda_index(self) -> int:
        """CUDA device ordinal of its memory; a DLA uses that of the GPU beside it, 0."""
        return self.index if self.kind == "gpu" else 0

    def __str__(self) -> str:
        if self.kind == "gpu":
            return "gpu" if self.index == 0 else f"gpu:{self.index}"
        if self.kind == "dla":
            return f"dla{self.index}"
        return self.kind
