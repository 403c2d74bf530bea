# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DlaTarget: whose rules the DLA linter checks."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.core.option import OptionGroup, option

_GROUP = "DLA rules"


@dataclass(frozen=True, kw_only=True)
class DlaTarget(OptionGroup):
    """The DLA that a model is for."""

    tensorrt: str = option(
        "8.6",
        metavar="VERSION",
        help="8.5, 8.6, 8.6.12 (DRIVE OS), 10.3 or 11.4.1; patch numbers may follow",
        group=_GROUP,
    )
    precision: str = option(
        "int8",
        choices=("int8", "fp16"),
        help="What the DLA computes in; with int8, FP16 where a layer needs it.",
        group=_GROUP,
    )
    soc: str = option("orin", choices=("orin", "xavier"), help="Chip.", group=_GROUP)
