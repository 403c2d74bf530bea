# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of training options: an error that names the command's option."""

from __future__ import annotations

import math

from yolox_trt.core.errors import ConfigurationError


def check_option(valid: bool, name: str, value: object, expected: str) -> None:
    """Refuse a wrong value.

    :param valid: whether it is right.
    :param name: attribute; the command's option is this with dashes.
    :raises ConfigurationError: it is not.
    """
    if not valid:
        option = f"--{name.replace('_', '-')}"
        raise ConfigurationError(f"{option} {value}", expected=expected, fix=f"change {option}")


def check_share(name: str, value: float) -> None:
    """Refuse what is no share.

    :raises ConfigurationError: not from 0 to 1.
    """
    check_option(0.0 <= value <= 1.0, name, value, "a share from 0 to 1")


def check_positive(name: str, value: float) -> None:
    """Refuse what is not above 0.

    :raises ConfigurationError: 0, negative or not finite.
    """
    check_option(math.isfinite(value) and value > 0, name, value, "a finite number above 0")


def check_input_side(value: int, stride: int) -> None:
    """Refuse a side that the network cannot take.

    :raises ConfigurationError: no positive multiple of the largest stride.
    """
    check_option(
        value > 0 and value % stride == 0, "size", value, f"a positive multiple of {stride}"
    )
