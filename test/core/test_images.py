# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Images out of files and videos: their order, their numbers, and what cannot be read."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolox_trt.core import images
from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import (
    ImageFiles,
    images_in,
    is_bag,
    open_images,
    read_image,
    read_image_size,
)
from yolox_trt.ros.tools.bag import DetectionBagWriter


def write(folder: Path, *names: str) -> None:
    for value, name in enumerate(names, start=1):
        cv2.imwrite(str(folder / name), np.full((4, 6, 3), 10 * value, np.uint8))


def ids(folder: Path) -> list[int]:
    source = open_images(folder)
    return [source.origin(frame)["image_id"] for frame in source]


def test_a_folder_is_read_in_the_order_of_names_and_again(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "a.png", "c.bmp")
    source = open_images(tmp_path)
    assert len(source) == 3
    for _ in range(2):
        frames = list(source)
        assert [source.origin(frame)["file_name"] for frame in frames] == [
            "a.png",
            "b.png",
            "c.bmp",
        ]
        assert [int(frame.rows[0, 0, 0]) for frame in frames] == [20, 10, 30]


def test_several_threads_read_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *(f"{n:02}.png" for n in range(1, 13)))
    paths, read = sorted(tmp_path.iterdir()), images.read_image
    together = threading.Barrier(3)  # broken unless three threads read at a time

    def slowly(path: str) -> np.ndarray:
        together.wait(timeout=10.0)
        return read(path)

    monkeypatch.setattr(images, "read_image", slowly)
    frames = list(ImageFiles(paths, threads=3))
    assert [int(frame.rows[0, 0, 0]) for frame in frames] == [10 * n for n in range(1, 13)]


_WITHOUT_MEMORY = """
import resource, sys
from yolox_trt.core.errors import FrameMemoryError
from yolox_trt.core.images import ImageFiles
from yolox_trt.ros.tools.bag import ImageBag
for source in ImageFiles([sys.argv[1]]), ImageBag(sys.argv[2]):
    free = resource.getrlimit(resource.RLIMIT_AS)
    (first,) = source  # what is loaded at first use is there
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    size = first.data.nbytes
    del first
    resource.setrlimit(resource.RLIMIT_AS, (held + size // 2, free[1]))
    try:
        list(source)
    except FrameMemoryError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, free)
    print(len(list(source)), source.refused)
"""


def test_no_memory_is_no_fault_of_an_image(tmp_path: Path) -> None:
    """It is not left out as a broken one is: another time it is read."""
    picture = np.zeros((4096, 8192, 3), np.uint8)
    data = cv2.imencode(".png", picture)[1].tobytes()
    (tmp_path / "large.png").write_bytes(data)
    with DetectionBagWriter(tmp_path / "bag", ["/images"]) as bag:
        bag.write_image(Frame.from_array(picture, stream_id="/images"), data, "png")
    words = [str(tmp_path / "large.png"), str(tmp_path / "bag")]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MEMORY, *words], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[1] == lines[3] == "1 0", done
    for line in lines[0], lines[2]:
        assert "no memory for an image of 4096x8192 pixels" in line


def test_numbers_in_names_are_ids_only_if_every_file_has_its_own(tmp_path: Path) -> None:
    write(tmp_path, "07.png", "12.png")
    assert ids(tmp_path) == [7, 12]
    write(tmp_path, "7.png")
    assert ids(tmp_path) == [1, 2, 3]


def test_a_broken_file_is_counted_or_raised(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    source = open_images(tmp_path)
    assert [Path(frame.stream_id).name for frame in source] == ["a.png", "c.png"]
    assert source.refused == 1
    with pytest.raises(FrameError, match=r"b\.png"):
        list(ImageFiles(sorted(tmp_path.iterdir()), strict=True))
    with pytest.raises(FrameError, match=r"b\.png"):
        list(open_images(tmp_path / "b.png"))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(cv2.imencode(f".{suffix}", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at, form = (data.index(b"\xff\xc0") + 5, ">HH") if suffix == "jpg" else (16, ">II")
    struct.pack_into(form, data, at, 32000, 32000)
    bomb = tmp_path / f"bomb.{suffix}"
    bomb.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FrameError, match=r"bomb.*32000x32000.*64 megapixels.*MAX_MEGAPIXELS"):
        read_image(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB
    monkeypatch.setenv("YOLOX_TRT_MAX_MEGAPIXELS", "0.0001")
    write(tmp_path, "a.png")
    assert read_image(tmp_path / "a.png").shape == (4, 6, 3)
    write(tmp_path, "b.bmp")
    monkeypatch.setenv("YOLOX_TRT_MAX_MEGAPIXELS", "0.00001")
    with pytest.raises(FrameError, match="80 bytes at most"):  # before it is looked into
        read_image(tmp_path / "b.bmp")
    monkeypatch.setenv("YOLOX_TRT_MAX_MEGAPIXELS", "many")
    with pytest.raises(ConfigurationError, match="YOLOX_TRT_MAX_MEGAPIXELS=many"):
        read_image(tmp_path / "a.png")


def test_a_video_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.avi"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    assert len(list(open_images(file))) == 1
    monkeypatch.setenv("YOLOX_TRT_MAX_MEGAPIXELS", "0.003")
    with pytest.raises(FrameError, match="64x48"):
        open_images(file)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without images"):
        open_images(tmp_path)
    with pytest.raises(ConfigurationError, match=r"nowhere\.mp4', which does not exist"):
        open_images(tmp_path / "nowhere.mp4")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigurationError, match=r"notes\.txt', which cannot be opened"):
        open_images(tmp_path / "notes.txt")
    with pytest.raises(ConfigurationError, match="which is no name of a file"):
        open_images(tmp_path / "\ud800.mp4")


def test_a_video_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Linux takes any bytes, Python makes halves of characters of them, and OpenCV ended there."""
    file = tmp_path / os.fsdecode(b"caf\xe9.avi")
    made = tmp_path / "a.avi"
    video = cv2.VideoWriter(str(made), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    made.rename(file)
    assert [frame.stream_id for frame in open_images(file)] == [str(file)]


def test_a_name_of_very_many_digits_is_no_number() -> None:
    digits = "9" * 5000
    files = ImageFiles([f"{digits}.jpg", "7.jpg"])
    assert files._ids == {f"{digits}.jpg": 1, "7.jpg": 2}


def test_bags_are_told_by_their_names(tmp_path: Path) -> None:
    assert is_bag("drive.mcap") and is_bag("drive.db3") and not is_bag(tmp_path)
    (tmp_path / "metadata.yaml").write_text("")
    assert is_bag(tmp_path)


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ConfigurationError, match="without images"):
        images_in(tmp_path)
    (tmp_path / "b.jpg").touch()
    assert images_in(tmp_path) == [tmp_path / "b.jpg"]
    for read in (read_image, read_image_size):
        for name in (tmp_path / "a.jpg", "/dev/zero"):
            with pytest.raises(FrameError, match=r"cannot be read \(no plain file\)"):
                read(name)
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ConfigurationError, match=r"a\.mp4', which is a pipe"):
        open_images(tmp_path / "a.mp4")


def test_a_size_is_read_without_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png", "b.png")
    assert read_image_size(tmp_path / "a.png") == (4, 6)
    with (tmp_path / "b.png").open("ab") as file:
        file.truncate(50 << 30)
    monkeypatch.setenv("YOLOX_TRT_MAX_MEGAPIXELS", "0.01")
    with pytest.raises(FrameError, match=r"b\.png' that cannot be read: an image of 80001 bytes"):
        read_image_size(tmp_path / "b.png")


def test_whoever_needs_no_more_images_does_not_wait_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "0.png", "1.png", "2.png")
    ended, asked = threading.Event(), threading.Event()

    def read(path: str) -> np.ndarray:
        if path.endswith("1.png"):
            asked.set()
            assert ended.wait(30)
        return read_image(path)

    monkeypatch.setattr(images, "read_image", read)
    frames = iter(open_images(tmp_path))
    next(frames)
    assert asked.wait(10)
    begin = time.monotonic()
    frames.close()
    assert time.monotonic() - begin < 10
    ended.set()
