# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the package. Each one says what was found, what was expected and what mends it."""

from __future__ import annotations


class YoloxTrtError(Exception):
    """Base of every error that this package raises on purpose.

    The command line prints it as one line and exits with 2; a node reports it on /diagnostics.

    Args:
        found: what was found, as a short clause.
        expected: what was expected instead.
        fix: the command or parameter that mends it.
    """

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found = found
        self.expected = expected
        self.fix = fix
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(f"fix: {fix}")
        super().__init__("; ".join(parts))


class ConfigurationError(YoloxTrtError, ValueError):
    """A parameter, a configuration file or a command-line argument is wrong."""


class FrameError(YoloxTrtError, ValueError):
    """An image cannot be viewed as its header claims (encoding, size, step, data length)."""


class ModelError(YoloxTrtError, ValueError):
    """A model file is not a YOLOX that this package can run."""


class EngineError(YoloxTrtError, RuntimeError):
    """An engine could not be built, loaded or run."""


class DeviceError(YoloxTrtError, RuntimeError):
    """A Device does not exist on this machine or went out of service."""


class MissingDependencyError(YoloxTrtError, ImportError):
    """An optional package is needed for what was asked and is not installed."""
