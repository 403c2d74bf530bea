# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Bags that claim, or unpack to, more than may be taken."""

from __future__ import annotations

import os
import sqlite3
import struct
import tracemalloc
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import lz4.frame
import numpy as np
import pytest
import rosbags.rosbag2.storage_mcap
import yaml
from rosbags.rosbag2 import Reader
from support.bags import write_bag

from yolox_trt.core.errors import ConfigurationError, MissingDependencyError
from yolox_trt.ros.tools import bag_reader
from yolox_trt.ros.tools.bag import ImageBag

#: Of a bag that is unpacked; each image of write_bag has 36,864 bytes.
MOST = 200_000


@pytest.fixture(autouse=True)
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_reader, "most_bytes", lambda: MOST)
    monkeypatch.setattr(bag_reader, "scratch_room", lambda: 2 * MOST)


def frames(bag: Path) -> int:
    with closing(ImageBag(bag)) as source:
        return sum(1 for _ in source)


def check_refusal(bag: Path, reason: str) -> None:
    """Have a bag refused, and see that this takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ConfigurationError, match=reason):
            frames(bag)
        assert tracemalloc.get_traced_memory()[1] < 20 * MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("mcap", "storage"), ("mcap", "file"), ("sqlite3", "message"), ("sqlite3", "file")],
)
def test_a_compressed_bag_is_read(tmp_path: Path, storage: str, compression: str) -> None:
    write_bag(tmp_path / "bag", storage=storage, count=2, compression=compression)
    assert frames(tmp_path / "bag") == 4


def record(kind: int, content: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(content)) + content


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def write_mcap(path: Path, chunks: list[tuple[str, bytes, int]], *, index: int = 0) -> None:
    """Write chunks of (compression, data, size that it claims), each of which is 1 ns long."""
    channel = record(3, struct.pack("<H", 1) + text("sensor_msgs/msg/CompressedImage")
                     + text("ros2msg") + text("")) + record(
        4, struct.pack("<HH", 1, 1) + text("/a/image_raw/compressed") + text("cdr") + text("")
    )  # fmt: skip
    magic = b"\x89MCAP0\r\n"
    body = magic + record(1, text("ros2") + text("")) + channel
    entries = b""
    for compression, data, claimed in chunks:
        head = struct.pack("<QQQI", 1, 2, claimed, 0) + text(compression)
        chunk = record(6, head + struct.pack("<Q", len(data)) + data)
        entry = struct.pack("<QQQQ", 1, 2, len(body), len(chunk))
        entry += struct.pack("<IHQ", 10, 1, len(body) + len(chunk)) + struct.pack("<Q", 31)
        entry += text(compression) + struct.pack("<QQ", len(data), claimed)
        body += chunk
        entries += record(8, entry)
    counts = struct.pack("<QHIIIIQQ", 1, 1, 1, 0, 0, len(chunks), 1, 2) + struct.pack("<I", 0)
    summary = channel + entries + record(11, counts)
    footer = record(2, struct.pack("<QQI", len(body) if index else 0, 0, 0))
    path.write_bytes(body + (summary if index else b"") + footer + magic)


def message(size: int, time: int = 1) -> bytes:
    return record(5, struct.pack("<HIQQ", 1, 0, time, time) + bytes(size))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind", ["lz4", "zstd"])
@pytest.mark.parametrize("claimed", [1000, 20_000_000])
def test_a_chunk_unpacks_to_no_more_than_it_may(
    tmp_path: Path, index: int, kind: str, claimed: int
) -> None:
    content = message(20_000_000)
    zstd = rosbags.rosbag2.storage_mcap.zstd
    data = lz4.frame.compress(content) if kind == "lz4" else zstd.compress(content)
    write_mcap(tmp_path / "a.mcap", [(kind, data, claimed)], index=index)
    reason = "1000 bytes in what" if claimed == 1000 else "20000000 bytes at a time; 200000 at most"
    check_refusal(tmp_path / "a.mcap", reason)


def test_chunks_of_the_same_time_are_counted_together(tmp_path: Path) -> None:
    content = message(50_000)
    chunk = "lz4", lz4.frame.compress(content), len(content)
    write_mcap(tmp_path / "a.mcap", [chunk] * 3, index=1)
    assert frames(tmp_path / "a.mcap") == 0  # which are no images, and are counted
    write_mcap(tmp_path / "a.mcap", [chunk] * 1000, index=1)
    check_refusal(tmp_path / "a.mcap", "200124 bytes at a time")
    write_mcap(tmp_path / "a.mcap", [chunk] * 3, index=1)
    assert frames(tmp_path / "a.mcap") == 0  # what was held is let go


def test_compressed_data_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(5000)
    data = lz4.frame.compress(content)[:-100]
    write_mcap(tmp_path / "a.mcap", [("lz4", data, 5000)])
    check_refusal(tmp_path / "a.mcap", "cut off")


def test_a_record_is_no_longer_than_may_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_mcap(path, [])
    data = path.read_bytes()
    with path.open("wb") as file:  # sparse: it takes no place on the disk
        file.write(data[:-37] + struct.pack("<BQ", 5, 1 << 30) + struct.pack("<HIQQ", 1, 0, 1, 1))
        file.seek(1 << 30, os.SEEK_CUR)
        file.seek(-22, os.SEEK_CUR)
        file.write(data[-37:])
    check_refusal(path, "bytes at a time")


def test_a_message_unpacks_to_no_more_than_it_may(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    write_bag(bag, storage="sqlite3", count=1, compression="message")
    data = rosbags.rosbag2.storage_mcap.zstd.compress(bytes(50_000_000))
    with closing(sqlite3.connect(bag / "bag.db3")) as base:
        base.execute("UPDATE messages SET data = ?", (data,))
        base.commit()
    check_refusal(bag, "more than 200000 bytes")


def test_a_value_of_sqlite_is_no_larger_than_it_may_be(tmp_path: Path) -> None:
    """SQLite makes 50 MB of a few bytes, and would make a gigabyte."""
    bag = tmp_path / "bag"
    write_bag(bag, storage="sqlite3", count=1)
    with closing(sqlite3.connect(bag / "bag.db3")) as base:
        base.executescript(
            "CREATE TABLE m (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB GENERATED ALWAYS AS (zeroblob(50000000)));"
            "INSERT INTO m (id, topic_id, timestamp) SELECT id, topic_id, timestamp FROM messages;"
            "DROP TABLE messages; ALTER TABLE m RENAME TO messages;"
        )
    check_refusal(bag, "too big")


def test_a_file_unpacks_to_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    write_bag(bag, storage="sqlite3", count=1, compression="file")
    (bag / "bag.db3.zstd").write_bytes(
        rosbags.rosbag2.storage_mcap.zstd.compress(bytes(50_000_000))
    )
    check_refusal(bag, "room for temporary files")


@pytest.mark.parametrize("count", [-5, 10**23, 1.5, "many", None])
def test_counts_and_times_of_metadata_are_checked(tmp_path: Path, count: object) -> None:
    bag = tmp_path / "bag"
    write_bag(bag, count=1)
    sound = (bag / "metadata.yaml").read_text()
    for change in ("message_count", "nanoseconds_since_epoch"):
        document = yaml.safe_load(sound)
        information = document["rosbag2_bagfile_information"]
        if change == "message_count":
            information["topics_with_message_count"][0]["message_count"] = count
        else:
            information["starting_time"]["nanoseconds_since_epoch"] = count
        (bag / "metadata.yaml").write_text(yaml.safe_dump(document))
        with pytest.raises(ConfigurationError, match="cannot be read"):
            ImageBag(bag)


def test_metadata_without_an_end_is_refused(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", count=1)
    with (tmp_path / "bag/metadata.yaml").open("a") as file:
        file.truncate(50 << 30)
    with pytest.raises(ConfigurationError, match=r"metadata.yaml has more than 4194304 bytes"):
        ImageBag(tmp_path / "bag")


def test_a_pipe_is_no_bag(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", count=1)
    (tmp_path / "bag/bag.mcap").unlink()
    for name in ("bag/bag.mcap", "a.mcap"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ConfigurationError, match="mcap' is no plain file"):
            ImageBag((tmp_path / name).parent if "/" in name else tmp_path / name)


def test_an_old_rosbags_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bag_reader, "_copy", lambda name: SimpleNamespace())
    bag_reader.bounded_reader.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"rosbags \d.*; fix: pip install 'rosbags"):
        ImageBag(tmp_path)


def test_rosbags_itself_stays_as_it_is(tmp_path: Path) -> None:
    content = message(300_000)
    write_mcap(tmp_path / "a.mcap", [("lz4", lz4.frame.compress(content), len(content))], index=1)
    check_refusal(tmp_path / "a.mcap", "at a time")
    with Reader(tmp_path / "a.mcap") as bag:
        assert [len(raw) for _, _, raw in bag.messages()] == [300_000]
