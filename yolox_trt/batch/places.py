# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Places: files and folders, on a disk of this machine or wherever fsspec reaches."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolox_trt.core.errors import ConfigurationError, MissingDependencyError
from yolox_trt.core.files import read_at_most, read_upto, scratch_room, write_atomically
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import parse_path
from yolox_trt.core.optional import require

#: A Path, or a UPath of universal_pathlib, which has the same methods.
Place = Any


def place_of(text: str) -> Place:
    """Return the place that a text names: a path of this machine, or scheme://...

    Raises:
        ConfigurationError: a scheme that fsspec does not know, or an address that is none of it.
        MissingDependencyError: the package is missing that the scheme needs.
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        return parse_path(text).absolute()
    upath = require("upath", purpose=f"{scheme}://")
    known = require("fsspec.registry").known_implementations
    if scheme not in known and scheme not in require("fsspec.registry").registry:
        raise ConfigurationError.unknown(
            "scheme", f"{scheme}://", sorted(known), fix="install the fsspec package that serves it"
        )
    with reaching(text):
        try:
            place = upath.UPath(text)
            _ = place.fs
        except ImportError as error:
            hint = known.get(scheme, {}).get("err", str(error))
            raise MissingDependencyError(
                f"'{text}', whose scheme {scheme}:// needs a package that is missing",
                expected=f"fsspec's package for {scheme}://",
                fix=f"{hint} (pip install)",
            ) from error
    return place


@contextlib.contextmanager
def reaching(place: Place) -> Iterator[None]:
    """Turn what a file system raises in the block, whichever it is, into a ConfigurationError."""
    with ConfigurationError.instead_of(
        Exception,  # each fsspec package has exceptions of its own
        f"'{place}' that cannot be reached",
        expected="a file or folder that this machine may read",
        fix="check the path, the network and the access rights",
    ):
        yield


def is_remote(place: Place) -> bool:
    """Tell whether a place is none of this machine's own files."""
    return not isinstance(place, Path) or hasattr(place, "protocol")


@contextlib.contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """Yield a path of this machine with a file's or folder's content: itself, or a copy.

    Raises:
        ConfigurationError: it cannot be reached, or is larger than what may be copied.
    """
    if not is_remote(place):
        yield place
        return
    left = room = scratch_room()
    with tempfile.TemporaryDirectory(prefix="yolox_trt_batch_") as folder:
        target = Path(folder, place.name)
        with reaching(place):
            files = [place] if place.is_file() else [f for f in place.iterdir() if f.is_file()]
            if files != [place]:
                target.mkdir()
            for file in files:
                own = target if file is place else target / file.name
                with file.open("rb") as source, own.open("wb") as copy:
                    while data := source.read(1 << 20):
                        left -= len(data)
                        if left < 0:
                            raise _too_large(place, room)
                        copy.write(data)
        yield target


def _too_large(place: Place, room: int) -> ConfigurationError:
    return ConfigurationError(
        f"'{place}', which must be copied to be read and has more than {room} bytes",
        expected=f"at most {LIMITS.scratch_bytes} bytes, and half of what is free in "
        f"{tempfile.gettempdir()}",
        fix="set TMPDIR to a folder with more room, or copy it to this machine yourself",
    )


def read_place(place: Place, most: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: as open() and read() do; other file systems have exceptions of their own.
        ValueError: the file has more bytes than `most`, which are not read.
    """
    if not is_remote(place):
        return read_at_most(place, most)
    with place.open("rb") as file:
        data = read_upto(file, most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most} bytes")
    return data


def read_parquet(place: Place, columns: Any) -> Any:
    """Return the table of a Parquet file: of bounded size, its texts in UTF-8.

    Args:
        place: the file.
        columns: the schema that it must have.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: the file cannot be read, or is another one.
    """
    pa, pq = require("pyarrow", purpose="Parquet"), require("pyarrow.parquet")
    data = pa.py_buffer(read_place(place, LIMITS.result_bytes))
    file = pq.ParquetFile(data)
    if not file.schema_arrow.equals(columns):
        raise ValueError(f"columns {', '.join(file.schema_arrow.names)}")
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    values = sum(g.column(number).num_values for g in groups for number in range(g.num_columns))
    if values > LIMITS.result_values:
        raise ValueError(f"more than {LIMITS.result_values} values")
    # A text that comes again takes its bytes once in the file, and in the table each time.
    leaves = map(file.schema.column, range(len(file.schema)))
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    short = pq.ParquetFile(data, read_dictionary=texts).read()
    if short.nbytes + sum(map(_text_bytes, short.columns)) > LIMITS.result_bytes:
        raise ValueError(f"more than {LIMITS.result_bytes} bytes, unpacked")
    table = file.read()
    table.validate(full=True)
    return table


def _text_bytes(values: Any) -> int:
    """Return the bytes of the texts that a column of dictionaries stands for."""
    pa = require("pyarrow", purpose="Parquet")
    compute = require("pyarrow.compute", purpose="Parquet")
    total = 0
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        if pa.types.is_dictionary(chunk.type):
            lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
            total += compute.sum(lengths.cast(pa.int64())).as_py() or 0
        elif pa.types.is_list(chunk.type) or pa.types.is_struct(chunk.type):
            parts = chunk.flatten()
            total += sum(map(_text_bytes, [parts] if isinstance(parts, pa.Array) else parts))
    return total


def write_whole(place: Place, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole.

    An object store shows a file when it is complete; other remote file systems may show a part.

    Raises:
        OSError: as open() does.
    """
    if is_remote(place):
        place.write_bytes(data)
    else:
        write_atomically(place, data)


def make_folder(place: Place) -> None:
    """Make a folder, with those above it, unless it is there.

    Raises:
        ConfigurationError: it cannot be made.
    """
    with ConfigurationError.instead_of(
        Exception,
        f"'{place}' that cannot be written",
        expected="a folder that exists or can be made",
        fix="give another path",
    ):
        place.mkdir(parents=True, exist_ok=True)
