# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt detect` on images, folders, videos and bags, with a synthetic network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from support.frames import random_frame
from support.yolox_graphs import build_yolox

from yolox_trt.cli.main import main
from yolox_trt.core import Frame, PostprocessOptions
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
    assert f"1 images, {len(boxes)} detections" in capsys.readouterr().out


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


def test_bag(model: Path, tmp_path: Path) -> None:
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    bags = pytest.importorskip("yolox_trt.ros.tools.bag_types")
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
