# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, readable for whom they should be, under any name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from yolox_trt.core.files import read_trusted, whole_or_none, write_atomically, write_trusted


def write_in_block(path: Path, data: bytes) -> None:
    with whole_or_none(path) as part:
        part.write_bytes(data)


Write = Callable[[Path, bytes], None]
BOTH = pytest.mark.parametrize("write", [write_atomically, write_in_block])


@contextmanager
def umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@BOTH
@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022, 0o002])
def test_the_umask_says_who_may_read_a_new_file(write: Write, mask: int, tmp_path: Path) -> None:
    with umask(mask):
        write(tmp_path / "new", b"new")
    assert mode(tmp_path / "new") == 0o666 & ~mask


@BOTH
@pytest.mark.parametrize("before", [0o400, 0o600, 0o664])
def test_a_file_keeps_its_mode(write: Write, before: int, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(before)
    write(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", before)


@pytest.mark.parametrize(("mask", "expected"), [(0o002, 0o644), (0o000, 0o644), (0o077, 0o600)])
def test_what_must_be_trusted_is_written_by_its_owner_alone(
    mask: int, expected: int, tmp_path: Path
) -> None:
    path = tmp_path / "engine"
    path.write_bytes(b"old")
    path.chmod(0o666)
    with umask(mask):
        write_trusted(path, b"new")
    assert (read_trusted(path), mode(path)) == (b"new", expected)


@BOTH
@pytest.mark.parametrize("letter", ["a", "木"])
def test_the_longest_name_can_be_written(write: Write, letter: str, tmp_path: Path) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@BOTH
def test_what_cannot_be_put_in_place_leaves_nothing(write: Write, tmp_path: Path) -> None:
    (tmp_path / "taken" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
