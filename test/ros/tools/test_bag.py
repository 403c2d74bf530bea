# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Bags: images out, detections in."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Writer
from support.bags import write_bag, write_video_bag
from support.video import packets

from yolox_trt.core import ConfigurationError, Detections
from yolox_trt.ros.tools.bag import (
    DetectionBagWriter,
    ImageBag,
    detection_topics,
    open_reader,
)
from yolox_trt.ros.tools.bag_types import (
    DETECTIONS_TYPE,
    VIDEO_DEFINITIONS,
    VISION_DEFINITIONS,
    make_typestore,
)

REPOSITORY = Path(__file__).resolve().parents[3]
#: Type hash of vision_msgs 4.x, as `ros2 topic info --verbose` shows it.
DETECTION2DARRAY_HASH = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"


def test_definitions_are_those_of_the_message_package() -> None:
    folder = REPOSITORY / "interfaces" / "vision_msgs" / "msg"
    for name, text in VISION_DEFINITIONS.items():
        lines = (folder / f"{name.rpartition('/')[2]}.msg").read_text().splitlines()
        fields = [" ".join(line.partition("#")[0].split()) for line in lines]
        assert "\n".join(filter(None, fields)) + "\n" == text


def test_type_hash_is_the_one_of_vision_msgs_4() -> None:
    assert make_typestore().hash_rihs01(DETECTIONS_TYPE) == DETECTION2DARRAY_HASH


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_images_come_in_order_with_their_stamps(tmp_path: Path, storage: str) -> None:
    pictures = write_bag(tmp_path / "bag", storage=storage, count=6)
    frames = list(ImageBag(tmp_path / "bag"))
    assert [frame.stream_id for frame in frames] == [
        "/front/image_raw",
        "/rear/image_raw/compressed",
    ] * 6
    for index, frame in enumerate(frames[::2]):
        assert frame.stamp_ns == 10**9 + index * 10**8
        assert frame.frame_id == "front_optical"
        np.testing.assert_array_equal(frame.rows, pictures[index])
    decoded = cv2.imdecode(cv2.imencode(".png", pictures[0])[1], cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(frames[1].rows, decoded)


def test_detections_stand_beside_the_messages_of_the_bag(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", count=3, malformed=1)
    boxes = np.array([[1.25, 2.5, 30.75, 40.0], [0, 0, 5, 5]], np.float32)
    scores, ids = np.array([0.9, 0.5], np.float32), np.array([12, 0], np.int32)
    detections = Detections(boxes, scores, np.array([1, 7], np.int32), track_ids=ids)
    with closing(ImageBag(tmp_path / "bag", ["/front/image_raw"])) as bag:
        assert len(bag) == 4
        with bag.detection_writer(tmp_path / "out", ("car", "cat")) as writer:
            stamps = []
            for frame in bag:
                stamps.append(frame.stamp_ns)
                writer.write(frame, detections)
        assert bag.refused == 1
    assert len(stamps) == 3

    store = make_typestore()
    with (
        closing(open_reader(tmp_path / "bag")) as source,
        closing(open_reader(tmp_path / "out")) as result,
    ):
        copied = [
            (connection.topic, time, raw)
            for connection, time, raw in result.messages()
            if connection.msgtype != DETECTIONS_TYPE
        ]
        assert sorted(copied) == sorted((c.topic, time, raw) for c, time, raw in source.messages())
        found = [
            (connection, store.deserialize_cdr(raw, DETECTIONS_TYPE))
            for connection, _, raw in result.messages()
            if connection.msgtype == DETECTIONS_TYPE
        ]
    assert {connection.topic for connection, _ in found} == {"/front/detections"}
    assert {connection.digest for connection, _ in found} == {DETECTION2DARRAY_HASH}
    assert [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for _, m in found] == stamps
    first = found[0][1].detections
    assert [d.results[0].hypothesis.class_id for d in first] == ["cat", "7"]
    assert [d.id for d in first] == ["12", ""]
    box = first[0].bbox
    assert (box.center.position.x, box.center.position.y) == (16.0, 21.25)
    assert (box.size_x, box.size_y) == (29.5, 37.5)


def test_a_bag_is_whole_or_not_there(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", count=2)
    with closing(ImageBag(tmp_path / "bag", ["/front/image_raw"])) as bag:
        with pytest.raises(KeyboardInterrupt), bag.detection_writer(tmp_path / "out"):
            next(iter(bag))
            raise KeyboardInterrupt
        assert [path.name for path in tmp_path.iterdir()] == ["bag"]
        with bag.detection_writer(tmp_path / "out") as writer:
            for frame in bag:
                writer.write(frame, Detections.empty())
    with closing(open_reader(tmp_path / "out")) as reader:
        assert reader.message_count == 2 * 3 + 1


def test_messages_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    pictures = write_bag(tmp_path / "bag", count=7, cut={1: 0, 2: 3, 3: 9, 4: 40, 5: 300})
    for topic in ("/front/image_raw", "/rear/image_raw/compressed"):
        with closing(ImageBag(tmp_path / "bag", [topic])) as bag:
            frames = list(bag)
            assert bag.refused == 5
        for frame, picture in zip(frames, (pictures[0], pictures[6]), strict=True):
            np.testing.assert_array_equal(frame.rows, picture)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_bag_that_cannot_be_read_on_is_named(tmp_path: Path, storage: str) -> None:
    write_bag(tmp_path / "bag", storage=storage, count=20)
    (file,) = (path for path in (tmp_path / "bag").iterdir() if path.suffix != ".yaml")
    data = bytearray(file.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    file.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"bag' that cannot be read"):
        list(ImageBag(tmp_path / "bag"))


def test_the_ros_package_reads_what_rosbags_wrote(tmp_path: Path) -> None:
    serialization = pytest.importorskip("rclpy.serialization")
    messages = pytest.importorskip("vision_msgs.msg")
    write_bag(tmp_path / "bag", count=1)
    boxes = np.array([[1, 2, 3, 5]], np.float32)
    detections = Detections(boxes, np.ones(1, np.float32), np.zeros(1, np.int32))
    with (
        closing(ImageBag(tmp_path / "bag", ["/front/image_raw"])) as bag,
        bag.detection_writer(tmp_path / "out") as writer,
    ):
        for frame in bag:
            writer.write(frame, detections)
    with closing(open_reader(tmp_path / "out")) as result:
        (raw,) = [raw for c, _, raw in result.messages() if c.msgtype == DETECTIONS_TYPE]
    message = serialization.deserialize_message(bytes(raw), messages.Detection2DArray)
    assert message.detections[0].bbox.center.position.y == 3.5
    assert message.header.frame_id == "front_optical"


def test_errors_name_what_the_bag_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"does not exist.*check the path"):
        ImageBag(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match=r"without metadata\.yaml.*reindex"):
        ImageBag(tmp_path)
    store = make_typestore()
    kind = "std_msgs/msg/String"
    with Writer(tmp_path / "texts", version=9) as texts:
        remark = texts.add_connection("/remark", kind, typestore=store)
        texts.write(remark, 1, store.serialize_cdr(store.types[kind](data="x"), kind))
    with pytest.raises(ConfigurationError, match=r"which has /remark;.*give another bag"):
        ImageBag(tmp_path / "texts")
    (tmp_path / "text.mcap").write_text("no bag")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ImageBag(tmp_path / "text.mcap")
    write_bag(tmp_path / "bag", count=1)
    with pytest.raises(ConfigurationError, match="/front/image_raw"):
        ImageBag(tmp_path / "bag", ["/side/image_raw"])
    bag = ImageBag(tmp_path / "bag")
    with closing(bag), pytest.raises(ConfigurationError, match="remove it"):
        bag.detection_writer(tmp_path / "bag")


@pytest.mark.parametrize(("transport", "codec"), [("foxglove", "hevc"), ("ffmpeg", "h264")])
def test_video_comes_as_images(tmp_path: Path, transport: str, codec: str) -> None:
    topic = write_video_bag(tmp_path / "bag", packets(codec), transport, codec)
    bag = ImageBag(tmp_path / "bag")
    for _ in range(2):  # a second time from the first keyframe on
        stamps = [frame.stamp_ns for frame in bag]
        assert stamps == [10**9 + index * 10**8 for index in range(12)]
    assert (bag.topics, len(bag), bag.refused) == ((topic,), 12, 0)


def test_the_last_pictures_of_a_video_come_at_its_end(tmp_path: Path) -> None:
    data = packets("h264", b_frames=2, keyframes=30)
    write_video_bag(tmp_path / "bag", data, "ffmpeg", "h264")
    bag = ImageBag(tmp_path / "bag")
    assert len(list(bag)) == 12 and bag.refused == 0


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_packets_that_a_bag_lacks_cost_the_pictures_up_to_the_next_keyframe(
    tmp_path: Path, codec: str
) -> None:
    data = list(packets(codec))
    del data[2]
    write_video_bag(tmp_path / "bag", data, "foxglove", codec)
    bag = ImageBag(tmp_path / "bag")
    assert len(list(bag)) == 8 and bag.refused == 3


def test_video_definitions_are_those_of_the_message_packages(repository: Path) -> None:
    for name, text in VIDEO_DEFINITIONS.items():
        package, _, message = name.partition("/msg/")
        file = repository / "interfaces" / package / "msg" / f"{message}.msg"
        lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
        assert "\n".join(lines) + "\n" == text


def test_detection_topics() -> None:
    assert detection_topics(["/front/image_raw", "/rear/image_raw/compressed"]) == {
        "/front/image_raw": "/front/detections",
        "/rear/image_raw/compressed": "/rear/detections",
    }
    assert detection_topics(["/cam/left", "/cam/right"]) == {
        "/cam/left": "/cam/left/detections",
        "/cam/right": "/cam/right/detections",
    }


def test_a_camera_recorded_raw_and_compressed_gets_detections_of_both(tmp_path: Path) -> None:
    topics = ("/cam/left", "/cam/left/compressed")
    with DetectionBagWriter(tmp_path / "bag", topics, taken=["/cam/left/detections"]):
        pass
    with closing(open_reader(tmp_path / "bag")) as bag:
        found = [connection.topic for connection in bag.connections]
    assert found == ["/cam/left/detections/detections", "/cam/left/compressed/detections"]


def test_a_bag_with_detections_gets_others_beside_them(tmp_path: Path) -> None:
    write_bag(tmp_path / "first", count=2)
    none = Detections.empty()
    for name, following in (("first", "second"), ("second", "third")):
        with (
            closing(ImageBag(tmp_path / name, ["/front/image_raw"])) as bag,
            bag.detection_writer(tmp_path / following) as writer,
        ):
            for frame in bag:
                writer.write(frame, none)
    with closing(open_reader(tmp_path / "third")) as result:
        counts = {c.topic: c.msgcount for c in result.connections if c.msgtype == DETECTIONS_TYPE}
    assert counts == {"/front/detections": 2, "/front/image_raw/detections": 2}
