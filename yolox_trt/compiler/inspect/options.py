# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""InspectOptions: how a model is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.compiler.inspect.hardware import HARDWARE
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.input_size import InputSize, tool_size_option
from yolox_trt.core.option import Kind, OptionGroup, option, options_of


@dataclass(frozen=True, kw_only=True)
class InspectOptions(OptionGroup):
    """How to look at a model."""

    precision: str = option(
        "int8", choices=("int8", "fp16"), help="Of channel multiples, bytes and the peak."
    )
    hardware: str | None = option(
        None,
        kind=Kind.STRING,
        choices=tuple(sorted(HARDWARE)),
        help="Compare with the peak of this hardware.",
    )
    time_ms: float | None = option(
        None,
        kind=Kind.DOUBLE,
        above=0.0,
        unit="ms",
        flag="--time",
        help="Measured time of one run: gives the efficiency.",
    )
    input_size: InputSize | None = tool_size_option()
    batch: int | None = option(None, kind=Kind.INTEGER, minimum=1, help="Count at this batch.")
    tensorrt: str = option(
        "8.6", metavar="VERSION", help="Version of TensorRT's parser, 8.5 or newer"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        declared = options_of(InspectOptions)
        if self.time_ms is not None and self.hardware is None:
            raise ConfigurationError(
                (declared["time_ms"], f" {self.time_ms:g} without the hardware"),
                expected="what it was measured on",
                fix=("set ", declared["hardware"], f" to one of {', '.join(HARDWARE)}"),
            )
