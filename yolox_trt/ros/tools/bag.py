# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Images out of rosbag2 bags, and detections into a new one. Needs rosbags, but no ROS.

bag = ImageBag("drive")
with closing(bag.detection_writer("drive_detections", names)) as writer:
    for frame in bag:
        writer.write(frame, detect(frame))
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageSource
from yolox_trt.core.optional import require
from yolox_trt.ros.messages.images import frame_from_compressed, frame_from_image
from yolox_trt.ros.tools.bag_types import (
    COMPRESSED_TYPE,
    DETECTIONS_TYPE,
    IMAGE_TYPE,
    VISION_DEFINITIONS,
    make_typestore,
)

_LOGGER = logging.getLogger(__name__)


def open_reader(path: str | Path) -> Any:
    """Open a bag with rosbags.

    Raises:
        ConfigurationError: there is no bag, or it cannot be read.
        MissingDependencyError: rosbags is missing.
    """
    rosbag2 = require("rosbags.rosbag2", purpose="reading bags")
    folder = Path(path)
    if not folder.exists() or (folder.is_dir() and not (folder / "metadata.yaml").is_file()):
        what = "without metadata.yaml" if folder.exists() else "that does not exist"
        raise ConfigurationError(
            f"bag '{path}' {what}",
            expected="a rosbag2 folder, or an .mcap or .db3 file",
            fix="check the path; `ros2 bag reindex` writes a metadata.yaml that is missing"
            if folder.exists()
            else "check the path",
        )
    with ConfigurationError.instead_of(
        (rosbag2.ReaderError, OSError),
        f"bag '{path}' that cannot be read",
        expected="a rosbag2 folder, or an .mcap or .db3 file",
        fix="check the path; `ros2 bag reindex` mends a bag that was not closed",
    ):
        reader = rosbag2.Reader(Path(path))
        reader.open()
    return reader


class ImageBag(ImageSource):
    """The images of a bag as Frames, in the order of their recording.

    Frame.stream_id is the topic, Frame.received_ns the time of recording (nanoseconds of the
    recorder's clock). Images that cannot be read are counted and logged, not raised.

    Args:
        path: folder, .mcap or .db3 file.
        topics: image topics; empty for all.

    Attributes:
        topics: the topics that are read.
        refused: images that could not be read so far.

    Raises:
        ConfigurationError: no such bag, no such topic, or no images at all.
    """

    def __init__(self, path: str | Path, topics: Sequence[str] = ()) -> None:
        self.path = Path(path)
        self.refused = 0
        self._writer: DetectionBagWriter | None = None
        self._store = make_typestore()
        self._reader = open_reader(path)
        images = {
            connection.topic: connection
            for connection in self._reader.connections
            if connection.msgtype in (IMAGE_TYPE, COMPRESSED_TYPE)
        }
        missing = [topic for topic in topics if topic not in images]
        if missing or not images:
            has = ", ".join(sorted({c.topic for c in self._reader.connections})) or "nothing"
            self.close()
            wanted = f"no images on {', '.join(missing)}" if missing else "no image topic"
            raise ConfigurationError(
                f"{wanted} in bag '{path}', which has {has}",
                expected=f"one of {', '.join(images)}"
                if images
                else f"a topic of {IMAGE_TYPE} or {COMPRESSED_TYPE}",
                fix="name the image topics that the bag has" if images else "give another bag",
            )
        self.topics = tuple(topics or images)
        self._ids = {c.id for c in self._reader.connections if c.topic in self.topics}

    def __len__(self) -> int:
        """Images on the topics."""
        return sum(c.msgcount for c in self._reader.connections if c.id in self._ids)

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames; may be done again."""
        # With a writer every message passes through, so that it is copied in its place.
        connections = [
            connection
            for connection in self._reader.connections
            if self._writer is not None or connection.id in self._ids
        ]
        for connection, timestamp, raw in self._reader.messages(connections=connections):
            if self._writer is not None:
                self._writer.copy(connection, timestamp, raw)
            if connection.id not in self._ids:
                continue
            message = self._store.deserialize_cdr(raw, connection.msgtype)
            convert: Any = (
                frame_from_compressed if connection.msgtype == COMPRESSED_TYPE else frame_from_image
            )
            try:
                frame = convert(message, stream_id=connection.topic, received_ns=timestamp)
            except FrameError as error:
                self.refused += 1
                _LOGGER.warning("%s at %d: %s", connection.topic, timestamp, error)
                continue
            yield frame

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Name topic and stamp."""
        return {"topic": frame.stream_id, "stamp_ns": frame.stamp_ns}

    def detection_writer(
        self, path: str | Path, class_names: Sequence[str] = ()
    ) -> DetectionBagWriter:
        """Begin a new bag that takes every message of this one, and the detections.

        See DetectionBagWriter; messages are copied while the frames are iterated over.
        """
        self._writer = DetectionBagWriter(path, self.topics, class_names)
        return self._writer

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()


def detection_topics(image_topics: Iterable[str]) -> dict[str, str]:
    """Name a topic for the detections of each image topic.

    It stands beside the images, as a camera node's does: /front/image_raw -> /front/detections.
    Where two image topics would share one, each gets its own: /left/detections.
    """
    topics = [topic.removesuffix("/compressed") for topic in image_topics]
    beside = [f"{topic.rpartition('/')[0]}/detections" for topic in topics]
    return {
        image: near if beside.count(near) == 1 else f"{topic}/detections"
        for image, topic, near in zip(image_topics, topics, beside, strict=True)
    }


class DetectionBagWriter:
    """Writes a new mcap bag: messages of another bag, and vision_msgs/Detection2DArray beside them.

    Args:
        path: folder to be made.
        image_topics: topics whose images get detections; see detection_topics.
        class_names: names of the classes; a class without a name is called by its number.

    Raises:
        ConfigurationError: the folder exists already.
        MissingDependencyError: rosbags is missing.
    """

    def __init__(
        self, path: str | Path, image_topics: Sequence[str], class_names: Sequence[str] = ()
    ) -> None:
        rosbag2 = require("rosbags.rosbag2", purpose="writing bags")
        self._store = make_typestore()
        point, turn, pose, with_covariance = (
            self._store.types[f"geometry_msgs/msg/{name}"]
            for name in ("Point", "Quaternion", "Pose", "PoseWithCovariance")
        )
        origin = pose(point(0.0, 0.0, 0.0), turn(0.0, 0.0, 0.0, 1.0))
        self._no_pose = with_covariance(origin, np.zeros(36))
        self._class_names = tuple(class_names)
        self.path = Path(path)
        with ConfigurationError.instead_of(
            (rosbag2.WriterError, OSError),
            f"bag '{path}' that cannot be written",
            expected="the path of a new folder",
            fix="name another one, or remove it first",
        ):
            self._bag = rosbag2.Writer(
                self.path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP
            )
            self._bag.open()
        self._copied: dict[int, Any] = {}
        self._outputs = {
            image: self._bag.add_connection(topic, DETECTIONS_TYPE, typestore=self._store)
            for image, topic in detection_topics(image_topics).items()
        }

    def copy(self, connection: Any, timestamp: int, raw: bytes) -> None:
        """Write a message of another bag as it is.

        Args:
            connection: rosbags' connection in the other bag.
            timestamp: time of recording, nanoseconds.
            raw: its bytes.
        """
        own = self._copied.get(connection.id)
        if own is None:
            definition: dict[str, Any] = {"typestore": self._store}
            if connection.msgtype not in self._store.fielddefs:
                definition = {"msgdef": connection.msgdef.data, "rihs01": connection.digest}
            own = self._bag.add_connection(
                connection.topic,
                connection.msgtype,
                serialization_format=connection.ext.serialization_format,
                offered_qos_profiles=connection.ext.offered_qos_profiles,
                **definition,
            )
            self._copied[connection.id] = own
        self._bag.write(own, timestamp, raw)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the detections of a frame that ImageBag gave.

        Args:
            frame: its stream_id is the image topic, its received_ns the time of recording.
            detections: boxes in source pixels.
        """
        types = self._store.types
        make = {name.rpartition("/")[2]: types[name] for name in VISION_DEFINITIONS}
        stamp = types["builtin_interfaces/msg/Time"](*divmod(frame.stamp_ns, 10**9))
        header = types["std_msgs/msg/Header"](stamp, frame.frame_id)
        found = []
        for (x1, y1, x2, y2), score, class_id in zip(
            detections.boxes.astype(np.float64).tolist(),
            detections.scores.tolist(),
            detections.class_ids.tolist(),
            strict=True,
        ):
            named = class_id < len(self._class_names)
            name = self._class_names[class_id] if named else str(class_id)
            result = make["ObjectHypothesisWithPose"](
                make["ObjectHypothesis"](name, score), self._no_pose
            )
            centre = make["Point2D"]((x1 + x2) / 2, (y1 + y2) / 2)
            box = make["BoundingBox2D"](make["Pose2D"](centre, 0.0), x2 - x1, y2 - y1)
            found.append(make["Detection2D"](header, [result], box, ""))
        raw = self._store.serialize_cdr(make["Detection2DArray"](header, found), DETECTIONS_TYPE)
        self._bag.write(self._outputs[frame.stream_id], frame.received_ns, raw)

    def close(self) -> None:
        """Finish the bag."""
        self._bag.close()
