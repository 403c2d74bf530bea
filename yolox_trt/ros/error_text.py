# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Errors in the words of ROS: an Option is called by its parameter's name."""

from __future__ import annotations

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.limits import clean_text
from yolox_trt.core.option import Option


def parameter_name(option: Option) -> str:
    """Name an option as a parameter of a node."""
    return f"the parameter `{option.name}`"


def error_text(error: Exception) -> str:
    """Return an error in one clean line; one that was not raised on purpose with its type."""
    if isinstance(error, YoloxTrtError):
        return clean_text(error.text(parameter_name))
    return clean_text(f"{type(error).__name__}: {' '.join(str(error).split())}")
