# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged bags: refused by one error, or read with what is damaged counted."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, bytes]]]:
    """Two bags, and the content of their files, which is written anew for each example."""
    made = {}
    for storage in ("mcap", "sqlite3"):
        path = tmp_path_factory.mktemp("fuzz") / storage
        write_bag(path, storage=storage, count=2)
        made[storage] = (path, {each.name: each.read_bytes() for each in path.iterdir()})
    return made


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@examples(15)
@given(data=st.data())
def test_damaged_bags(
    bags: dict[str, tuple[Path, dict[str, bytes]]], storage: str, data: st.DataObject
) -> None:
    path, files = bags[storage]
    name = data.draw(st.sampled_from(sorted(files)))
    content = data.draw(damaged(files[name]))
    keep(content)
    (path / name).write_bytes(content)
    try:
        with closing(ImageBag(path)) as bag:
            shapes = {frame.rows.shape for frame in bag}
        assert len(shapes) <= 4
    except YoloxTrtError as error:
        check_refusal(error)
    finally:
        (path / name).write_bytes(files[name])
