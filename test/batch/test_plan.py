# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Sources become parts: every frame is in one of them, and wrong sources are told at once."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from support.bags import write_bag

from yolox_trt.batch import places, plan
from yolox_trt.batch.frames import PIECE_BYTES, open_part, pieces
from yolox_trt.batch.options import SourceOptions
from yolox_trt.batch.places import local_copy, place_of
from yolox_trt.batch.plan import BAG, IMAGES, plan_parts
from yolox_trt.core.errors import ConfigurationError, MissingDependencyError
from yolox_trt.core.frame import Frame
from yolox_trt.core.limits import LIMITS
from yolox_trt.ros.tools.bag import ImageBag

CUT = SourceOptions(part_frames=3)


def times(source: ImageBag) -> list[tuple[str, int]]:
    return [(frame.stream_id, frame.received_ns) for frame in source]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_each_message_of_a_bag_is_in_one_part(tmp_path: Path, storage: str) -> None:
    write_bag(tmp_path / "drive", storage=storage, count=7)
    parts = plan_parts([str(tmp_path / "drive")], CUT)
    assert len(parts) == 5 and len({part.id for part in parts}) == 5
    found = []
    for part in parts:
        with open_part(part) as source:
            found += times(source)
    whole = ImageBag(tmp_path / "drive")
    assert found == times(whole) and len(found) == 14
    whole.close()


def test_the_topics_choose_what_is_in_the_parts(drives: Path) -> None:
    cut = SourceOptions(part_frames=3, topic=["/front/image_raw"])
    with open_part(plan_parts([str(drives / "night")], cut)[0]) as source:
        assert {topic for topic, _ in times(source)} == {"/front/image_raw"}


def test_folders_lists_and_patterns_name_the_same_sources(drives: Path, tmp_path: Path) -> None:
    folder = plan_parts([str(drives)], CUT)
    assert [part.kind for part in folder].count(BAG) == len(folder)
    assert {Path(part.source).name for part in folder} == {"day", "night", "broken.mcap"}
    listed = tmp_path / "drives.txt"
    listed.write_text(f"# a comment\n\n{drives}/pictures\n{drives}/day\n{drives}/day\n")
    parts = plan_parts([str(listed)], CUT)
    assert [part.kind for part in parts] == [IMAGES, *[BAG] * 3]
    assert parts[1:] == folder[1:4]  # the broken one comes first, and a source counts once
    some = plan_parts([f"{drives}/pictures/[01].png"], CUT)
    assert [Path(file).name for part in some for file in part.files] == ["0.png", "1.png"]


def test_images_that_are_named_one_by_one_are_one_source(drives: Path, tmp_path: Path) -> None:
    pictures = drives / "pictures"
    listed = tmp_path / "some.txt"
    listed.write_text(f"{pictures}/2.png\n{pictures}/0.png\n")
    alone = [str(listed), f"{pictures}/*.png"]
    parts = plan_parts(alone, SourceOptions(part_frames=2))
    assert {part.source for part in parts} == {str(pictures)}
    assert [part.number for part in parts] == [0, 1]
    assert [Path(file).stem for part in parts for file in part.files] == ["2", "0", "1"]
    assert plan_parts([*alone, str(pictures)], CUT) == plan_parts([str(pictures)], CUT)


def test_names_may_have_brackets(tmp_path: Path) -> None:
    (tmp_path / "drive[1]").mkdir()
    (tmp_path / "drive[1]" / "a[2].png").touch()
    for source in ("drive[1]", "drive*", "drive[[]1]/*.png", "drive[1]/a[2].png"):
        (part,) = plan_parts([f"{tmp_path}/{source}"], CUT)
        assert [Path(file).name for file in part.files] == ["a[2].png"]


def test_a_list_that_names_itself_is_refused_with_its_chain(drives: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    outer, inner = tmp_path / "outer.txt", tmp_path / "lists" / "inner.txt"
    inner.write_text(f"{drives}/day\n")
    outer.write_text("lists/inner.txt\nlists/../lists/inner.txt\n")  # twice is no circle
    assert plan_parts([str(outer)], CUT) == plan_parts([str(drives / "day")], CUT)
    inner.write_text("../outer.txt\n")
    with pytest.raises(ConfigurationError, match=f"{outer} -> {inner} -> {outer}.*out of '{inner}"):
        plan_parts([str(outer)], CUT)


def test_an_image_that_is_written_anew_makes_another_part(drives: Path, tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        shutil.copy(drives / "pictures" / name, tmp_path)
    one_each = SourceOptions(part_frames=1)
    before = plan_parts([str(tmp_path)], one_each)
    assert plan_parts([str(tmp_path)], one_each) == before
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes() + b" ")
    after = plan_parts([str(tmp_path)], one_each)
    assert [old.id == new.id for old, new in zip(before, after, strict=True)] == [True, False]


def test_a_coco_set_keeps_its_numbers(drives: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(drives / "pictures")
    images = [{"id": 70 + k, "file_name": f"{k}.png"} for k in (2, 0)]
    (tmp_path / "annotations" / "instances_day.json").write_text(json.dumps({"images": images}))
    (part,) = plan_parts([str(tmp_path)], CUT)
    assert part.image_ids == (72, 70)
    assert [Path(file).name for file in part.files] == ["2.png", "0.png"]


def test_sources_of_fsspec_are_read_where_they_are(drives: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(drives / "day"), "/fleet/day", recursive=True)
    memory.put(str(drives / "night"), "/fleet/night", recursive=True)
    memory.put(str(drives / "pictures"), "/fleet/pictures", recursive=True)
    remote = plan_parts([f"memory://fleet/{name}" for name in ("day", "pictures", "night")], CUT)
    local = plan_parts([str(drives / name) for name in ("day", "pictures", "night")], CUT)
    assert [part.span for part in remote] == [part.span for part in local]
    for here, there in zip(local, remote, strict=True):
        with open_part(here) as own, open_part(there) as other:
            for mine, others in zip(own, other, strict=True):
                assert np.array_equal(mine.data, others.data)
                assert mine.received_ns == others.received_ns


def test_what_is_no_source_is_told_before_any_work(drives: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    (tmp_path / "empty").mkdir()
    for source, text in {
        "nowhere": "which does not exist",
        f"{tmp_path}/a.bin": "a file of another kind",
        f"{tmp_path}/empty": "without images, videos and bags",
        f"{drives}/*.jpg": "which matches nothing",
        "foo://bucket/x": "scheme 'foo://'",
        "http://[::1/x": "Invalid IPv6 URL",
        "github://x": "cannot be reached",
    }.items():
        with pytest.raises(ConfigurationError, match=text):
            plan_parts([str(drives), source], CUT)
    missing = next(s for s in ("oci", "abfs", "dbfs", "oss") if _is_missing(s))
    with pytest.raises(MissingDependencyError, match=f"{missing}://"):
        plan_parts([f"{missing}://bucket/x"], CUT)


def _is_missing(scheme: str) -> bool:
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        return True
    return False


def test_pieces_have_a_limit_and_are_whole_batches() -> None:
    small = [Frame.from_array(np.zeros((2, 2, 3), np.uint8)) for _ in range(20)]
    assert [len(piece) for piece in pieces(small)] == [16, 4]
    assert [len(piece) for piece in pieces(small, 3)] == [18, 2]
    large = [Frame.from_array(np.zeros((PIECE_BYTES // 3000, 1000, 3), np.uint8))] * 5
    assert [len(piece) for piece in pieces(large, 2)] == [2, 2, 1]


def test_each_list_is_read_once(drives: Path, tmp_path: Path) -> None:
    """Lists that name the next one twice would name 2^25 of the last."""
    for number in range(25):
        below = f"{number + 1}.txt" if number < 24 else f"{drives}/day"
        (tmp_path / f"{number}.txt").write_text(f"{below}\n./{below}\n" if number < 24 else below)
    (tmp_path / "all.txt").write_text("".join(f"{number}.txt\n" for number in range(25)))
    for first in ("0.txt", "all.txt"):
        assert {part.source for part in plan_parts([f"{tmp_path}/{first}"], CUT)} == {
            f"{drives}/day"
        }


def test_a_chain_of_lists_has_an_end(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number}.txt").write_text(f"{number + 1}.txt\n")
    with pytest.raises(ConfigurationError, match="named through 64 others"):
        plan_parts([f"{tmp_path}/0.txt"], CUT)


def test_a_list_without_an_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigurationError, match="no plain file"):
        plan_parts([f"{tmp_path}/pipe.txt"], CUT)
    monkeypatch.setattr(plan, "LIMITS", replace(LIMITS, json_bytes=100))
    fsspec.filesystem("memory").pipe("/lists/long.txt", b"x" * 101)
    (tmp_path / "long.txt").write_bytes(b"x" * 101)
    for name in (f"{tmp_path}/long.txt", "memory://lists/long.txt"):
        with pytest.raises(ConfigurationError, match="more than 100 bytes"):
            plan_parts([name], CUT)


def test_what_a_bag_says_of_itself_makes_no_parts_without_number(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", count=1)
    file = tmp_path / "drive/metadata.yaml"
    text, changes = re.subn(r"message_count: \d+", f"message_count: {10**17}", file.read_text())
    text, more = re.subn(r"\bnanoseconds: \d+", f"nanoseconds: {10**18}", text)
    assert changes and more
    file.write_text(text)
    parts = plan_parts([f"{tmp_path}/drive"], CUT)
    assert len(parts) == LIMITS.bag_parts
    assert parts[-1].span[1] == 2**63 - 1


def test_a_copy_takes_no_more_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/films/a.mp4": bytes(60), "/films/bag/a": bytes(30), "/films/bag/b": bytes(30)})
    for room, fits in ((60, True), (59, False)):
        monkeypatch.setattr(places, "scratch_room", lambda room=room: room)
        for name in ("a.mp4", "bag"):
            copy = local_copy(place_of(f"memory://films/{name}"))
            if fits:
                with copy as path:
                    files = [path] if path.is_file() else list(path.iterdir())
                    assert sum(each.stat().st_size for each in files) == 60
                continue
            with pytest.raises(ConfigurationError, match="has more than 59 bytes"):
                copy.__enter__()
