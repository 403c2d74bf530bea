# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a command will write."""

from __future__ import annotations

import os
from pathlib import Path

from yolox_trt.core.errors import ConfigurationError


def prepare_outputs(*paths: str | Path | None) -> None:
    """Make the missing folders of files that a command will write at its end.

    Called before the work, so that a wrong path is told at once.

    Args:
        paths: files to write; None and "" where none was asked for.

    Raises:
        ConfigurationError: a path is a folder, or its folder cannot be made or written.
    """
    for path in (Path(path) for path in paths if path):
        if path.is_dir():
            raise ConfigurationError(
                f"'{path}', which is a folder",
                expected="a file to write",
                fix=f"give a file name, such as {path / 'NAME'}",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"'{path}' cannot be written ({error.strerror or error}: {path.parent})",
                expected="a path whose folders exist or can be made",
                fix="give another path",
            ) from error
        if not os.access(path.parent, os.W_OK):
            raise ConfigurationError(
                f"'{path}' cannot be written (no permission for {path.parent})",
                expected="a folder with write permission",
                fix="give another path",
            )
