# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files, patterns, addresses and cameras as sources."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.executors import wait_until
from support.timing import ever_within, stopwatch
from support.web import Server

from yolox_trt.api.sources import open_sources
from yolox_trt.core import images
from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.images import ImageFiles, Video, open_images


def grey(value: int) -> np.ndarray:
    return np.full((6, 8, 3), value, np.uint8)


def write(folder: Path, *names: str) -> None:
    for value, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), grey(10 * value))


def names(*sources: str | Path, **how: Any) -> list[str]:
    opened = open_sources(list(sources), **how)
    return [Path(frame.stream_id).name for source in opened for frame in source]


def test_patterns_and_folders_in_folders(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "a.png", "in/c.bmp")
    (tmp_path / "notes.txt").write_text("no picture")
    assert names(tmp_path) == names(tmp_path / "*") == ["a.png", "b.png"]
    assert names(tmp_path, recursive=True) == ["a.png", "b.png", "c.bmp"]
    assert names(tmp_path, recursive=True, without=tmp_path / "in") == ["a.png", "b.png"]
    assert names(tmp_path / "in", recursive=True, without=tmp_path / "in") == ["c.bmp"]
    write(tmp_path, "other/in/d.png")
    with pytest.raises(ConfigurationError, match=r"without images but for '.*other/in'"):
        names(tmp_path / "other", recursive=True, without=tmp_path / "other" / "in")
    shutil.rmtree(tmp_path / "other")
    assert names(tmp_path / "**" / "*.bmp", tmp_path / "b.png") == ["c.bmp", "b.png"]
    (files,) = open_sources([tmp_path / "in", tmp_path / "a.png"])
    assert len(files) == 2
    with pytest.raises(ConfigurationError, match=r"pattern '.*\*\.jpg', which matches nothing"):
        open_sources(tmp_path / "*.jpg")
    with pytest.raises(ConfigurationError, match="an empty list"):
        open_sources([])
    write(tmp_path, "[1].png")  # a name, not a pattern
    assert names(tmp_path / "[1].png") == ["[1].png"]


@pytest.mark.parametrize(
    "source", ["a" * 5000 + ".jpg", "9" * 5000, "http://[::1/a.jpg", "\ud800.mp4"]
)
def test_a_name_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(ConfigurationError, match="source '"):
        open_sources(source)


def test_a_pipe_that_a_pattern_finds_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "b.png")
    os.mkfifo(tmp_path / "a.png")
    (files,) = open_sources(tmp_path / "*.png")
    assert [Path(frame.stream_id).name for frame in files] == ["b.png"]
    assert files.refused == 1


def test_images_from_the_web() -> None:
    with Server() as server:
        address = server.image("a.png", grey(50))
        unnamed = server.image("image?id=5", grey(60))
        for url, value in ((address, 50), (unnamed, 60)):
            source = open_images(url)
            assert isinstance(source, ImageFiles)
            (frame,) = source
            assert (frame.rows == value).all()
            assert frame.stream_id == url
        with pytest.raises(ConfigurationError, match=r"missing\.png' that cannot be fetched .*404"):
            list(open_images(f"{server.address}/missing.png"))
        no_image = server.image("page.png", grey(1), "text/html")
        server.files["/page.png"] = ("text/html", b"<html>")
        with pytest.raises(FrameError, match=r"page\.png' that cannot be read"):
            list(open_images(no_image))


def test_an_image_that_breaks_off_or_trickles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with Server() as server:
        good, broken = server.image("good.png", noise), server.image("broken.png", noise)
        server.broken = "/broken.png"
        with pytest.raises(ConfigurationError, match=r"broken\.png'.*broke off, \d+ bytes before"):
            list(open_images(broken))
        (source,) = open_sources([good, broken, good])
        assert [frame.stream_id for frame in source] == [good, good]
        assert source.refused == 1 and "broke off" in caplog.text
        monkeypatch.setattr(images, "TRANSFER_S", 0.0)
        with pytest.raises(ConfigurationError, match=r"good\.png'.*bytes in 0 s"):
            list(open_images(good))


def test_what_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images.ANSWER_S == 5.0
    with Server() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        camera = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live"
        monkeypatch.setattr(images, "ANSWER_S", 0.3)
        for address in (f"{server.silent}/a.png", f"{server.silent}/b", camera):

            def ask(address: str = address) -> None:
                said = f"'{address}', which did not answer in"
                with pytest.raises(ConfigurationError, match=said):
                    list(open_images(address))

            assert ever_within(3.0, lambda ask=ask: stopwatch(ask))  # type: ignore[misc]
    monkeypatch.undo()
    with pytest.raises(ConfigurationError, match=r"which cannot be opened; .*check the address"):
        open_sources(camera)  # nobody listens there any more

    # What is not there is never said to be slow, also where OpenCV takes its time to notice.
    monkeypatch.setattr(images, "ANSWER_S", 0.0)
    for missing in ("/dev/video97", "97", "/nowhere/a.mp4"):
        with pytest.raises(ConfigurationError, match=rf"source '{missing}', which does not exist"):
            open_images(missing)


def test_a_slow_reader_of_a_camera_gets_the_newest_image() -> None:
    with Server() as server:
        source = open_images(server.camera(grey(10)))
        assert isinstance(source, Video) and source.live and len(source) == 0
        frames = iter(source)
        first = next(frames)
        changed = time.time_ns()
        server.camera(grey(200))
        # What was on its way has passed when as many as fit into the buffers are skipped.
        assert wait_until(lambda: source.skipped > 40)
        next(frames)  # lay ready
        newest = next(frames)
        assert abs(int(newest.rows.mean()) - 200) < 3
        assert newest.stamp_ns > max(first.stamp_ns, changed)
        source.close()
    assert wait_until(
        lambda: not any(thread.name.startswith("camera ") for thread in threading.enumerate())
    )


def test_a_camera_that_ends_ends_the_images(caplog: pytest.LogCaptureFixture) -> None:
    with Server() as server:
        frames = iter(open_images(server.camera(grey(10))))
        next(frames)
        server.hang_up()
        list(frames)
    assert "sends no more images" in caplog.text
