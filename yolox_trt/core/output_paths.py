# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a command will write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from enum import Enum
from pathlib import Path
from typing import Any

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import scratch_path, write_atomically
from yolox_trt.core.option import parse_path


class OutputFile:
    """Reads the name of a file that will be written: `option(None, parse=OutputFile(".json"))`.

    Args:
        suffixes: what the name must end in, one of these; none for any.
    """

    def __init__(self, *suffixes: str) -> None:
        self.suffixes = suffixes

    def __call__(self, text: str) -> Path:
        """Return the path.

        Raises:
            ConfigurationError: the name ends in something else.
        """
        path = parse_path(text)
        if self.suffixes and path.suffix.lower() not in self.suffixes:
            raise ConfigurationError(
                f"the output file '{text}'",
                expected=f"a name that ends in {' or '.join(self.suffixes)}",
            )
        return path


def parse_output_folder(text: str) -> Path:
    """Read the name of a folder that will be written into, or made; for Option.parse.

    Raises:
        ConfigurationError: it, or what should hold it, is a file.
    """
    path = parse_path(text)
    for each in (path, *path.parents):
        if each.exists() and not each.is_dir():
            raise ConfigurationError(f"'{each}', which is a file", expected="a folder")
    return path


def file_key(path: Path) -> object:
    """Return what is equal for paths of one file: by its inode where it is there, else by name."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return path.resolve()


def prepare_outputs(*paths: str | Path | None) -> None:
    """Make the missing folders of files that a command will write at its end.

    Called before the work, so that a wrong path is told at once.

    Args:
        paths: files to write; None and "" where none was asked for.

    Raises:
        ConfigurationError: a path is a folder, a device or a pipe, or its folder cannot be made
            or written.
    """
    for path in (Path(path) for path in paths if path):
        if path.exists() and not path.is_file():  # a device would be replaced, not written to
            raise ConfigurationError(
                f"'{path}', which is {'a folder' if path.is_dir() else 'no plain file'}",
                expected="a file to write",
                fix="give a file name"
                + (f", such as {path / 'NAME'}" if path.is_dir() else " in a folder"),
            )
        prepare_folder(path.parent, for_file=path)


def prepare_folder(folder: Path, for_file: Path | None = None) -> None:
    """Make a folder that a command will write into, unless it is there.

    Args:
        folder: the folder.
        for_file: the file in it that the user named, for the error.

    Raises:
        ConfigurationError: it cannot be made, or takes no file.
    """
    with ConfigurationError.instead_of(
        OSError,
        f"'{for_file or folder}' cannot be written",
        expected="a folder that exists or can be made, with write permission",
        fix="give another path",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        # os.access knows nothing of file systems that take no file, such as /proc.
        part = scratch_path(folder)
        part.touch(exist_ok=False)
        part.unlink()


def check_own(folder: Path) -> None:
    """Refuse a folder that another user has made, where a fixed name would be written into it.

    That user could have put links there under the names of what will be written.

    Raises:
        ConfigurationError: it, or the link that leads to it, belongs to another user.
    """
    for status in (folder.lstat(), folder.stat()):
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(
                f"folder '{folder}' of user {status.st_uid}",
                expected=f"one of this user ({os.geteuid()}), or of root",
                fix="give another folder",
            )


def json_text(document: Any) -> str:
    """Return a document as JSON.

    Dataclasses become objects; paths, devices and other values become text; what is not finite
    becomes null, for which JSON has no number.
    """
    return json.dumps(_plain(document), indent=1, allow_nan=False) + "\n"


def write_json(path: Path, document: Any) -> None:
    """Write a document as json_text gives it, whole or not at all."""
    write_atomically(path, json_text(document).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and "__str__" not in type(value).__dict__:
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return _plain(value.tolist())
    return str(value)
