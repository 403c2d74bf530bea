# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Where the shipped files are: models/, config/, launch/."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from yolox_trt.core.errors import ConfigurationError

#: Environment variable that goes before the shipped model.
MODEL_VARIABLE = "YOLOX_TRT_MODEL"


def shared_folder(name: str) -> Path:
    """Return a shipped folder: of the source tree, else of the installation (share/yolox_trt).

    Args:
        name: "models", "config" or "launch".

    Raises:
        ConfigurationError: there is none.
    """
    root = Path(__file__).resolve().parents[2]
    candidates = [root / name] if (root / "package.xml").is_file() else []
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    candidates += [Path(prefix) / "share" / "yolox_trt" / name for prefix in prefixes if prefix]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ConfigurationError(
        f"no folder {name}/ of this package",
        expected="it in one of " + ", ".join(map(str, candidates)),
        fix="install the package again",
    )


def default_model() -> Path:
    """Return the model that is used where none is named.

    That is the environment variable YOLOX_TRT_MODEL, or else the ONNX file that is shipped in
    models/; where there are several, the first by name.

    Raises:
        ConfigurationError: neither exists.
    """
    named = os.environ.get(MODEL_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ConfigurationError(
                f"{MODEL_VARIABLE}={named}, which is no file",
                expected="a YOLOX ONNX file",
                fix=f"set or unset {MODEL_VARIABLE}",
            )
        return Path(named)
    folder = shared_folder("models")
    shipped = sorted(folder.rglob("*.onnx"))
    if not shipped:
        raise ConfigurationError(
            f"no ONNX file in {folder}",
            expected="a model",
            fix=f"name one, or set the environment variable {MODEL_VARIABLE} to it",
        )
    return shipped[0]


def is_shipped(model: str | Path) -> bool:
    """Whether a file lies in models/ of this package."""
    with contextlib.suppress(ConfigurationError, OSError):
        return Path(model).resolve().is_relative_to(shared_folder("models").resolve())
    return False
