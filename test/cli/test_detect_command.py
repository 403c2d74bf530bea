# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt detect` and what it writes, with a synthetic network."""

from __future__ import annotations

import _thread
import csv
import json
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from support.frames import random_frame
from support.web import Server
from support.yolox_graphs import build_yolox

from yolox_trt.api import writers
from yolox_trt.api.sources import open_sources
from yolox_trt.cli.main import main
from yolox_trt.core import ConfigurationError, Frame, PostprocessOptions
from yolox_trt.core.device import Device
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(build_yolox(num_classes=5, metadata=True), path)
    return path


def picture(seed: int = 0) -> np.ndarray:
    return np.array(random_frame("bgr8", 96, 144, seed=seed, smooth=True).rows)


def arguments(model: Path, source: Path, out: Path, *more: str) -> list[str]:
    common = ["--model", str(model), "--device", "cpu", "--score", "0.05", "--threads", "1"]
    return ["detect", str(source), "-o", str(out), *common, *more]


def expected(model: Path, pixels: np.ndarray) -> list[list[float]]:
    detector = create_detector(DetectorOptions(model=model, device=Device("cpu"), threads=1))
    options = PostprocessOptions(score_threshold=0.05)
    boxes = detector.detect([Frame.from_array(pixels)], [options])[0].boxes
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]


def test_image(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, results = tmp_path / "a.png", tmp_path / "out", tmp_path / "r.json"
    cv2.imwrite(str(source), picture())
    assert main(arguments(model, source, out, "--json", str(results))) == 0
    found = json.loads(results.read_text())
    boxes = expected(model, picture())
    assert len(boxes) > 0
    np.testing.assert_allclose([f["bbox"] for f in found], boxes, atol=1e-3)
    assert {f["file_name"] for f in found} == {"a.png"}
    assert found[0]["category_name"] == f"class{found[0]['category_id']}"
    annotated = cv2.imread(str(out / "a.png"))
    assert annotated.shape == (96, 144, 3)
    assert (annotated != picture()).any()
    assert f"1 image, {len(boxes)} detections" in capsys.readouterr().out


def test_folder_with_a_broken_image(model: Path, tmp_path: Path) -> None:
    source, results = tmp_path / "in", tmp_path / "r.json"
    source.mkdir()
    for number in (7, 12):
        cv2.imwrite(str(source / f"{number:05d}.png"), picture(number))
    (source / "00009.jpg").write_bytes(b"not a JPEG")
    (source / "notes.txt").write_text("not an image")
    status = main(arguments(model, source, tmp_path / "out", "--json", str(results)))
    assert status == 1  # one image could not be read, the others were done
    assert {f["image_id"] for f in json.loads(results.read_text())} == {7, 12}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00007.png", "00012.png"]


def test_no_images(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    cv2.imwrite(str(source), picture())
    assert main(arguments(model, source, tmp_path / "out", "--no-images")) == 0
    assert not (tmp_path / "out").exists()


def test_video(model: Path, tmp_path: Path) -> None:
    source, results = tmp_path / "drive.avi", tmp_path / "r.json"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 10, (144, 96))
    for seed in range(4):
        writer.write(picture(seed))
    writer.release()
    assert main(arguments(model, source, tmp_path / "out", "--json", str(results))) == 0
    assert {f["image_id"] for f in json.loads(results.read_text())} == {1, 2, 3, 4}
    capture = cv2.VideoCapture(str(tmp_path / "out" / "drive.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert capture.get(cv2.CAP_PROP_FPS) == 10


def test_a_video_that_was_cut_off_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 10, (144, 96))
    for seed in range(12):
        writer.write(picture(seed))
    writer.release()
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    assert main(arguments(model, source, tmp_path / "out")) == 1
    printed = capsys.readouterr()
    assert " images could not be read" in printed.out


def test_a_video_is_whole_or_not_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 10, (144, 96))
    for seed in range(4):
        writer.write(picture(seed))
    writer.release()
    write = writers.AnnotatedWriter.write

    def interrupted(self: writers.AnnotatedWriter, *given: Any) -> None:
        write(self, *given)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(writers.AnnotatedWriter, "write", interrupted)
    assert main(arguments(model, source, tmp_path / "out")) == 128 + signal.SIGTERM
    assert list((tmp_path / "out").iterdir()) == []


def test_bag(model: Path, tmp_path: Path) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    bags = pytest.importorskip("support.bags")
    store = bags.make_typestore()
    types = store.types
    source, out, results = tmp_path / "drive", tmp_path / "new", tmp_path / "r.json"
    with rosbag2.Writer(source, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as bag:
        connection = bag.add_connection("/front/image_raw", bags.IMAGE_TYPE, typestore=store)
        for index in range(3):
            stamp = types["builtin_interfaces/msg/Time"](sec=100 + index, nanosec=5)
            message = types[bags.IMAGE_TYPE](
                header=types["std_msgs/msg/Header"](stamp=stamp, frame_id="front"),
                height=96,
                width=144,
                encoding="bgr8",
                is_bigendian=0,
                step=144 * 3,
                data=picture(index).reshape(-1),
            )
            raw = store.serialize_cdr(message, bags.IMAGE_TYPE)
            bag.write(connection, 10**9 * (200 + index), raw)
    assert main(arguments(model, source, out, "--json", str(results))) == 0
    found = json.loads(results.read_text())
    with rosbag2.Reader(out) as bag:
        messages = [
            (c.topic, stamp, store.deserialize_cdr(raw, c.msgtype))
            for c, stamp, raw in bag.messages()
        ]
    arrays = [(s, m) for topic, s, m in messages if topic == "/front/detections"]
    assert len(arrays) == 3 and len(messages) == 6
    for index, (stamp, message) in enumerate(arrays):
        assert stamp == 10**9 * (200 + index)
        assert (message.header.stamp.sec, message.header.frame_id) == (100 + index, "front")
        boxes = [
            [
                d.bbox.center.position.x - d.bbox.size_x / 2,
                d.bbox.center.position.y - d.bbox.size_y / 2,
                d.bbox.size_x,
                d.bbox.size_y,
            ]
            for d in message.detections
        ]
        wanted = expected(model, picture(index))
        np.testing.assert_allclose(boxes, wanted, atol=1e-3)
        in_json = [f["bbox"] for f in found if f["stamp_ns"] == 10**9 * (100 + index) + 5]
        np.testing.assert_allclose(in_json, wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.png", "does not exist"), ("notes.txt", "source"), ("empty", "without images")],
)
def test_wrong_sources(
    model: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert main(arguments(model, tmp_path / name, tmp_path / "out")) == 2
    assert message in capsys.readouterr().err


def test_never_overwrites_the_source(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    before = (tmp_path / "a.png").read_bytes()
    assert main(arguments(model, tmp_path / "a.png", tmp_path)) == 2
    assert (tmp_path / "a.png").read_bytes() == before
    assert "overwrite" in capsys.readouterr().err


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_are_no_sources_of_the_next_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(f"{folder}/1.png", picture(len(folder)))
    counts = []
    for folder in (".", ".", str(tmp_path)):
        words = arguments(model, Path(folder), Path("detections"), "-r", "--save-crops")
        assert main([*words, "--json", "found.json"]) == 0
        found = json.loads(Path("found.json").read_text())
        counts.append(len({entry["image_id"] for entry in found}))
    assert counts == [2, 2, 2]


def test_no_result_takes_the_place_of_another_source(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor are the results left out of a pattern, which names them."""
    for name in ("a/1.png", "b/1.png", "out/a/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture())
    before = contents(tmp_path)
    words = arguments(model, tmp_path / "**" / "*.png", tmp_path / "out")
    assert main(words) == 2
    assert f"'{tmp_path / 'out/a/1.png'}' as a source and as a result" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_masks_and_crops_take_the_place_of_no_source(model: Path, tmp_path: Path) -> None:
    masks, crops = tmp_path / "out" / "masks", tmp_path / "out" / "crops" / "class3"
    for folder in (masks, crops):
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "a.png"), picture())
    cv2.imwrite(str(crops / "a_1.jpg"), picture())  # as a crop of a.png would be called
    before = contents(tmp_path)
    sources = open_sources(masks / "a.png")
    with pytest.raises(ConfigurationError, match=r"masks/a\.png.*overwrite"):
        writers.MaskWriter(masks, sources, writers.FileNames(sources))
    more = ("--classes", "class3", "--save-crops", "--no-images", str(crops / "a_1.jpg"))
    assert main(arguments(model, crops / "a.png", tmp_path / "out", *more)) == 0
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert crops / "a_1_2.jpg" in after


def test_an_image_in_a_folder_called_masks_and_a_mask_keep_apart(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "masks"):
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "a.png"), picture())
    names = writers.FileNames(open_sources(tmp_path, recursive=True))
    image, mask = (names.free(tmp_path / "out" / "masks" / "a.png") for _ in range(2))
    assert (image.name, mask.name) == ("a.png", "a_2.png")


@pytest.mark.parametrize("letter", ["a", "木"])
def test_the_longest_names_of_images_and_classes(letter: str, tmp_path: Path) -> None:
    """All of 255 bytes, with what is put behind them."""
    labels, out = tmp_path / "labels.txt", tmp_path / "out"
    labels.write_text("".join(f"{letter * 99}{number}\n" for number in range(5)))
    onnx.save(build_yolox(num_classes=5, metadata=True), tmp_path / "net.onnx")
    (tmp_path / "in").mkdir()
    stem = letter * (251 // len(letter.encode()))
    (tmp_path / "in" / f"{stem}.png").write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    more = ("--save-crops", "--save-txt", "--labels", str(labels))
    assert main(arguments(tmp_path / "net.onnx", tmp_path / "in", out, *more)) == 0
    assert (out / f"{stem}.png").is_file() and (out / "labels" / f"{stem}.txt").is_file()
    crops = list((out / "crops").rglob("*.jpg"))
    assert len(crops) > 2
    assert {len(path.name.encode()) > 240 for path in crops} == {True}
    assert {path.parent.name[:80] for path in crops} == {letter * 80}


def test_everything_that_it_writes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", tmp_path / "seen" / "all.csv"
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), picture(len(folder)))
    with Server() as server:
        more = ["--save-crops", "--save-txt", "--csv", str(table), "--classes", "class3"]
        more += [str(tmp_path / "right"), server.image("b", picture(9))]
        assert main(["-v", *arguments(model, tmp_path / "left", out, *more), "--json", "-"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main([*arguments(model, tmp_path / "left", out, *more), "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [sum(f["image_id"] == image for f in found) for image in (1, 2, 3)]
    assert min(counts) > 0
    for number, (line, count) in enumerate(zip(lines, counts, strict=False), start=1):
        assert re.fullmatch(rf"{number}/3 .*/(a\.png|b): {count} class3, \d+ ms", line)
    assert lines[3] == f"3 images, {len(found)} detections"
    assert lines[4] == f"Wrote {out}/, {out / 'crops'}/, {out / 'labels'}/, {table}"
    written = {
        str(path.relative_to(out))
        for path in out.rglob("*.*")
        if path.is_file() and "crops" not in str(path)
    }
    stems = ("left/a", "right/a", "127.0.0.1/b")
    assert written == {
        *("left/a.png", "right/a.png", "127.0.0.1/b.jpg"),
        *(f"labels/{stem}.txt" for stem in stems),
    }
    crops = sorted((out / "crops" / "class3").rglob("*.jpg"))
    assert len(crops) == len(found)
    rows = list(csv.DictReader(table.open()))
    assert [row["class"] for row in rows] == ["class3"] * len(found)
    labels = [line.split() for stem in stems for line in (out / f"labels/{stem}.txt").open()]
    for row, label, entry in zip(rows, labels, found, strict=True):
        x, y, width, height = entry["bbox"]
        box = [float(row[edge]) for edge in ("x1", "y1", "x2", "y2")]
        np.testing.assert_allclose(box, [x, y, x + width, y + height], atol=0.006)
        values = np.array([x + width / 2, y + height / 2, width, height]) / [144, 96, 144, 96]
        assert label[0] == "3"
        np.testing.assert_allclose([float(text) for text in label[1:]], values, atol=1e-5)


def test_a_recording_for_rerun(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, recording = tmp_path / "a.png", tmp_path / "runs" / "a.rrd"
    cv2.imwrite(str(source), picture())
    command = arguments(model, source, tmp_path / "out", "--no-images", "--rerun", str(recording))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "rerun", None)
        assert main(command) == 2
    assert "pip install rerun-sdk" in capsys.readouterr().err
    assert not recording.exists()
    pytest.importorskip("rerun", reason="pip install rerun-sdk")
    assert main(command) == 0
    written = recording.read_bytes()
    assert written[:4] in (b"RRF2", b"RRIO")
    assert b"images/detections" in written
    assert [path.name for path in recording.parent.iterdir()] == ["a.rrd"]


def test_tracks_and_zones_in_a_video(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("edgefirst.tracker", reason="pip install edgefirst-tracker")
    source, out, table = tmp_path / "drive.avi", tmp_path / "out", tmp_path / "t.csv"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), 10, (144, 96))
    for _ in range(3):
        writer.write(picture())
    writer.release()
    more = ["--csv", str(table), "--json", str(tmp_path / "r.json"), "--no-images"]
    assert main(arguments(model, source, out, *more, "--track", "--track-score", "0.05")) == 0
    rows = list(csv.DictReader(table.open()))
    ids = [[row["id"] for row in rows if row["number"] == str(number)] for number in (1, 2, 3)]
    assert set(ids[0]) == {""} and "" not in ids[1]
    assert len(set(ids[1])) == len(ids[1]) and set(ids[1]) == set(ids[2])
    found = json.loads((tmp_path / "r.json").read_text())
    assert [str(entry["track_id"] or "") for entry in found] == [row["id"] for row in rows]
    zone = "--include-zone", "0,0 144,0 144,50 0,50"
    assert main(arguments(model, source, out, *more, *zone, "--zone-anchor", "centre")) == 0
    upper = list(csv.DictReader(table.open()))
    wanted = [row for row in rows if float(row["y1"]) + float(row["y2"]) < 100]
    assert [row["score"] for row in upper] == [row["score"] for row in wanted]
    assert 0 < len(upper) < len(rows)


def test_a_camera_runs_until_ctrl_c(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def press() -> None:
        while not list(out.glob("*")):  # the video is begun with the first image
            time.sleep(0.01)
        time.sleep(0.3)
        _thread.interrupt_main()

    with Server() as server:
        pressing = threading.Thread(target=press)
        pressing.start()
        address = server.camera(picture())
        results = tmp_path / "r.json"
        arguments_ = arguments(model, tmp_path, out, address, "--json", str(results))
        assert main([word for word in arguments_ if word != str(tmp_path)]) == 0
        pressing.join()
    *lines, total, wrote, _ = capsys.readouterr().out.splitlines()
    assert all(f"{number} {address}: " in line for number, line in enumerate(lines, start=1))
    # The last image may have been written when the key was pressed, and not been printed.
    assert abs(int(total.partition(" image")[0]) - len(lines)) <= 1
    assert wrote == f"Wrote {out / '127.0.0.1_camera.mp4'}"
    capture = cv2.VideoCapture(str(out / "127.0.0.1_camera.mp4"))
    assert abs(capture.get(cv2.CAP_PROP_FRAME_COUNT) - len(lines)) <= 1
    assert len({entry["image_id"] for entry in json.loads(results.read_text())}) > 0


def test_a_window_needs_a_display(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    assert main(arguments(model, tmp_path / "a.png", tmp_path / "out", "--show")) == 2
    assert "no display" in capsys.readouterr().err


def test_videos_of_one_name_keep_apart(model: Path, tmp_path: Path) -> None:
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        code = cv2.VideoWriter.fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(tmp_path / folder / "drive.avi"), code, 10, (144, 96))
        writer.write(picture())
        writer.release()
    sources = [str(tmp_path / folder / "drive.avi") for folder in ("left", "right")]
    out, results = tmp_path / "out", tmp_path / "r.json"
    assert main(arguments(model, Path(sources[0]), out, sources[1], "--json", str(results))) == 0
    assert sorted(path.name for path in out.iterdir()) == ["drive.mp4", "drive_2.mp4"]
    assert {entry["image_id"] for entry in json.loads(results.read_text())} == {1, 2}
