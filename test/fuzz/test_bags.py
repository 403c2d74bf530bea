# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged bags: refused by one error, or read with what is damaged counted."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz import check_refusal, damaged, examples, keep

pytest.importorskip("sensor_msgs")

from support.bags import write_bag

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.ros.tools.bag import ImageBag

KINDS = ("mcap", "sqlite3", "mcap storage", "mcap file", "sqlite3 message")
NUMBER = re.compile(rb"(?<=: )\d+$", re.MULTILINE)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, bytes]]]:
    """Bags, and the content of their files, which is written anew for each example."""
    made = {}
    for kind in KINDS:
        storage, _, compression = kind.partition(" ")
        path = tmp_path_factory.mktemp("fuzz") / kind
        write_bag(path, storage=storage, count=2, compression=compression)
        made[kind] = (path, {each.name: each.read_bytes() for each in path.iterdir()})
    return made


@st.composite
def renumbered(draw: st.DrawFn, text: bytes) -> bytes:
    """Return metadata one of whose numbers is replaced by what may be none."""
    number = draw(st.sampled_from(sorted({each.span() for each in NUMBER.finditer(text)})))
    values = ("-5", "1" + "0" * 23, "1.5", "null", "x", "[]", "9223372036854775807", "1" * 5000)
    return text[: number[0]] + draw(st.sampled_from(values)).encode() + text[number[1] :]


@pytest.mark.parametrize("storage", KINDS)
@examples(15)
@given(data=st.data())
def test_damaged_bags(
    bags: dict[str, tuple[Path, dict[str, bytes]]], storage: str, data: st.DataObject
) -> None:
    path, files = bags[storage]
    name = data.draw(st.sampled_from(sorted(files)))
    changes = damaged(files[name])
    if name == "metadata.yaml":
        changes |= renumbered(files[name])
    content = data.draw(changes)
    keep(content)
    (path / name).write_bytes(content)
    try:
        with closing(ImageBag(path)) as bag:
            assert len(bag) >= 0
            shapes = {frame.rows.shape for frame in bag}
        assert len(shapes) <= 4
    except YoloxTrtError as error:
        check_refusal(error)
    finally:
        (path / name).write_bytes(files[name])
