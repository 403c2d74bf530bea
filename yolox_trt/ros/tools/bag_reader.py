# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""rosbags' reader with limits: what a bag says of itself, or unpacks to, is taken in bounds.

rosbags takes as much memory as a length in the file says, and unpacks a chunk, a message or a file
however large it becomes. Copies of its modules are changed, so that a program that uses rosbags
beside this package has them as they are.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from yolox_trt.core.errors import MissingDependencyError
from yolox_trt.core.files import scratch_room
from yolox_trt.core.limits import LIMITS, ImageLimits
from yolox_trt.core.optional import require

#: Below it no read is looked at, as there are many.
_SMALL = 1 << 16
_PIECE = 1 << 20


@functools.cache
def bounded_reader() -> Any:
    """Return rosbags.rosbag2.Reader, whose errors are those of a damaged bag where it is too large.

    Raises:
        MissingDependencyError: rosbags is missing, or of a version that is not changed so.
    """
    require("rosbags.rosbag2", purpose="reading bags")
    try:
        return _bounded(*map(_copy, ("storage_mcap", "storage_sqlite3", "reader")))
    except (AttributeError, ImportError) as error:
        raise MissingDependencyError(
            f"rosbags {version('rosbags')}, whose reader has other parts ({error})",
            expected="a version from 0.11.8 on, before 0.12",
            fix="pip install 'rosbags>=0.11.8,<0.12'",
        ) from error


def _bounded(mcap: Any, sqlite3: Any, reader: Any) -> Any:
    """Put limits into copies of rosbags' modules; return the class that reads bags."""
    zstd, lz4 = reader.zstd, importlib.import_module("lz4.frame")  # which rosbags brings
    mcap.read_exact = _checked(mcap.read_exact)
    mcap.msgsrc = _counted(mcap.msgsrc)
    mcap.DECOMPRESSORS.update(
        lz4=lambda data, size: _unpacked(lz4.LZ4FrameDecompressor(), data, check_bytes(size)),
        zstd=lambda data, size: _unpacked(zstd.ZstdDecompressor(), data, check_bytes(size)),
    )
    sqlite3.apsw = types.SimpleNamespace(**vars(sqlite3.apsw))
    sqlite3.apsw.Connection = _short_values(sqlite3.apsw)
    reader.zstd = types.SimpleNamespace(
        decompress=lambda data: _unpacked(zstd.ZstdDecompressor(), data, most_bytes()),
        open=lambda file, mode: _Scratch(zstd.ZstdFile(file, mode)),
    )
    plugins = reader.DirectoryReader.STORAGE_PLUGINS
    plugins.update(mcap=mcap.McapReader, sqlite3=sqlite3.Sqlite3Reader)
    of_files = {".mcap": mcap.McapReader, ".db3": sqlite3.Sqlite3Reader}
    reader.Reader.STORAGE_PLUGINS.update(of_files)
    return reader.Reader


def most_bytes() -> int:
    """Return the bytes that may be unpacked at a time: an image's, and those of what is beside it.

    Raises:
        ConfigurationError: see ImageLimits.of_environment.
    """
    return ImageLimits.of_environment().max_bytes + LIMITS.bag_chunk_bytes


def check_bytes(size: int) -> int:
    """Return a number of bytes that a bag states.

    Raises:
        ValueError: it is more than most_bytes().
    """
    if size > (most := most_bytes()):
        raise ValueError(f"{size} bytes at a time; {most} at most")
    return size


def _copy(name: str) -> Any:
    """Return a module of rosbags anew, which nobody else has."""
    spec = importlib.util.find_spec(f"rosbags.rosbag2.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sys.modules.get(spec.name) is not module
    return module


def _checked(read_exact: Callable[[Any, int], bytes]) -> Callable[[Any, int], bytes]:
    def read(file: Any, size: int) -> bytes:
        return read_exact(file, size if size < _SMALL else check_bytes(size))

    return read


def _counted(messages_of: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Count the bytes of the chunks that are read at a time: those whose times overlap."""
    held = 0

    def messages(chunk: Any, *arguments: Any) -> Iterator[Any]:
        nonlocal held
        source = messages_of(chunk, *arguments)
        yield next(source)  # when the chunk begins, before it is read
        check_bytes(held + chunk.uncompressed_size)
        held += chunk.uncompressed_size
        try:
            yield from source
        finally:
            held -= chunk.uncompressed_size

    return messages


def _unpacked(decompressor: Any, data: bytes, most: int) -> bytes:
    """Return the content of one frame.

    Raises:
        ValueError: it is cut off, or has more than `most` bytes.
    """
    # lz4 copies what is left of the data for each piece, and takes a piece's memory before.
    step, pieces, left = max(_PIECE, len(data)), [], most
    while not decompressor.eof:
        piece = decompressor.decompress(data, min(left + 1, step))
        left, data = left - len(piece), b""
        if left < 0:
            raise ValueError(f"more than {most} bytes in what is compressed")
        if not piece and decompressor.needs_input:
            raise ValueError("compressed data that is cut off")
        pieces.append(piece)
    return b"".join(pieces)


def _short_values(apsw: Any) -> type[Any]:
    """Return a connection whose values are limited: SQLite makes some of a few bytes."""

    class Connection(apsw.Connection):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.limit(apsw.SQLITE_LIMIT_LENGTH, min(most_bytes(), 2**31 - 1))

    return Connection


class _Scratch:
    """A file that is unpacked into the folder for temporary files."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, scratch_room()

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = _PIECE) -> bytes:
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("unpacked, it has more bytes than there is room for temporary files")
        return data
