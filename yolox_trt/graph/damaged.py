# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a model that contradicts itself brings up, as one error that names the model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from yolox_trt.core.errors import ModelError
from yolox_trt.graph.graph import Graph

P = ParamSpec("P")
R = TypeVar("R")

#: What Python, NumPy, onnx and PyTorch raise where a node's inputs, attributes and constants do not
#: fit each other. What a file or an image raises (OSError) is no damage of the model.
DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


def refuses_damaged(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function raise a ModelError where a model is not what it claims.

    The checks at reading know ONNX's schema, which tells neither how many scales a convolution of
    16 channels needs nor that a stride is no 0. What follows a graph meets that anywhere. The
    Python error stays its cause, which `--traceback` shows.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with ModelError.instead_of(
            DAMAGE,
            f"{_name_of((*args, *kwargs.values()))} which cannot be followed",
            expected="nodes whose inputs, attributes and constants fit each other",
            fix="export the model again; if ONNX Runtime runs it, report it with the model and "
            "what `--traceback` shows",
        ):
            return function(*args, **kwargs)

    return guarded


def _name_of(arguments: tuple[object, ...]) -> str:
    """Name the model among a function's arguments."""
    for each in arguments:
        path = each.path if isinstance(each, Graph) else each
        if isinstance(path, str | Path):
            return f"model '{path}'"
    return "a model"
