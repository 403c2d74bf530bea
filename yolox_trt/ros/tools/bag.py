# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Images out of rosbag2 bags, and detections into a new one. Needs rosbags, but no ROS.

bag = ImageBag("drive")
with bag.detection_writer("drive_detections", names) as writer:
    for frame in bag:
        writer.write(frame, detect(frame))
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError, FrameError, FrameMemoryError
from yolox_trt.core.files import read_upto, whole_or_none
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import ImageSource
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.optional import require
from yolox_trt.ros.messages.transports import BY_TYPE, TRANSPORTS, FrameReader
from yolox_trt.ros.tools.bag_reader import bounded_reader
from yolox_trt.ros.tools.bag_types import (
    DETECTIONS_TYPE,
    VISION_DEFINITIONS,
    make_typestore,
)

_LOGGER = logging.getLogger(__name__)
_COMPRESSED = TRANSPORTS["compressed"].message_type


def open_reader(path: Any) -> Any:
    """Open a bag with rosbags.

    Args:
        path: a str, a Path, or a path of fsspec's file systems (a UPath).

    Raises:
        ConfigurationError: there is no bag, or it cannot be read.
        MissingDependencyError: rosbags is missing.
    """
    make_reader = bounded_reader()
    folder = Path(path) if isinstance(path, str) else path
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
        Exception,  # as in read_messages, and MemoryError where a length is damaged
        f"bag '{path}' that cannot be read",
        expected="a rosbag2 folder, or an .mcap or .db3 file",
        fix="check the path; `ros2 bag reindex` mends a bag that was not closed",
    ):
        _check_files(folder)
        reader = make_reader(folder)
        reader.open()
        try:
            _check_numbers(reader)
        except ValueError:
            reader.close()
            raise
    return reader


def _check_files(bag: Any) -> None:
    """Refuse what has no end, or waits for a writer when it is opened; and too much metadata."""
    for each in bag.iterdir() if bag.is_dir() else [bag]:
        if each.exists() and not (each.is_file() or each.is_dir()):
            raise ValueError(f"'{each.name}' is no plain file")
    if bag.is_dir():
        with (bag / "metadata.yaml").open("rb") as file:
            if len(read_upto(file, LIMITS.bag_metadata_bytes + 1)) > LIMITS.bag_metadata_bytes:
                raise ValueError(f"metadata.yaml has more than {LIMITS.bag_metadata_bytes} bytes")


def _check_numbers(reader: Any) -> None:
    """Refuse counts and times that are none: rosbags takes whatever stands in metadata.yaml."""
    counts = [each.msgcount for each in reader.connections]
    for what, number in (
        *(("message count", count) for count in counts),
        ("time", reader.start_time),
        ("time", reader.end_time),
    ):
        if not isinstance(number, int) or not 0 <= number < 2**63:
            raise ValueError(f"a {what} {number!r:.40}")
    if sum(counts) >= 2**63:
        raise ValueError(f"{sum(counts)} messages")


def read_messages(
    reader: Any, connections: Sequence[Any], span: tuple[int, int] | None = None
) -> Iterator[tuple[Any, int, bytes]]:
    """Yield connection, time of recording (nanoseconds) and bytes of each message of a bag.

    Args:
        reader: of open_reader.
        connections: those of its connections whose messages are wanted.
        span: times of recording, first and behind the last, nanoseconds; None for all.

    Raises:
        ConfigurationError: the rest of the bag cannot be read.
    """
    read = 0
    start, stop = span or (None, None)
    messages = iter(reader.messages(connections=connections, start=start, stop=stop))
    while True:
        # What a damaged file brings up depends on its storage: sqlite3, lz4, zstandard, struct.
        with ConfigurationError.instead_of(
            Exception,
            f"bag '{reader.path}' that cannot be read on after {read} messages",
            fix="`ros2 bag reindex` mends a bag that was not closed; else record it anew",
        ):
            try:
                connection, timestamp, raw = next(messages)
            except StopIteration:
                return
        read += 1
        yield connection, timestamp, raw


class ImageBag(ImageSource):
    """The images of a bag as Frames, in the order of their recording.

    Frame.stream_id is the topic, Frame.received_ns the time of recording (nanoseconds of the
    recorder's clock). Images that cannot be read are counted and logged, not raised.

    Args:
        path: folder, .mcap or .db3 file; see open_reader.
        topics: image topics; empty for all.
        span: which part of it, as read_messages takes it.

    Attributes:
        topics: the topics that are read.
        types: of their messages.
        refused: images that could not be read so far.

    Raises:
        ConfigurationError: no such bag, no such topic, or no images at all.
    """

    def __init__(
        self, path: Any, topics: Sequence[str] = (), *, span: tuple[int, int] | None = None
    ) -> None:
        self.path = Path(path) if isinstance(path, str) else path
        self._span = span
        self.refused = 0
        self._writer: DetectionBagWriter | None = None
        self._store = make_typestore()
        self._serde_error = require("rosbags.serde", purpose="reading bags").SerdeError
        self._reader = open_reader(self.path)
        images = {
            connection.topic: connection
            for connection in self._reader.connections
            if connection.msgtype in BY_TYPE
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
                else f"a topic of {', '.join(BY_TYPE)}",
                fix="name the image topics that the bag has" if images else "give another bag",
            )
        self.topics = tuple(topics or images)
        self.types = {topic: images[topic].msgtype for topic in self.topics}
        self._ids = {c.id for c in self._reader.connections if c.topic in self.topics}

    def __len__(self) -> int:
        """Images on the topics; of the whole bag."""
        return sum(c.msgcount for c in self._reader.connections if c.id in self._ids)

    def __iter__(self) -> Iterator[Frame]:
        """Give the frames; may be done again."""
        # With a writer every message passes through, so that it is copied in its place.
        connections = [
            connection
            for connection in self._reader.connections
            if self._writer is not None or connection.id in self._ids
        ]
        readers: dict[str, FrameReader] = {}
        try:
            yield from self._frames(connections, readers)
        finally:
            for reader in readers.values():
                reader.close()

    def _frames(
        self, connections: Sequence[Any], readers: dict[str, FrameReader]
    ) -> Iterator[Frame]:
        for connection, timestamp, raw in read_messages(self._reader, connections, self._span):
            if self._writer is not None:
                self._writer.copy(connection, timestamp, raw)
            if connection.id not in self._ids:
                continue
            reader = readers.get(connection.topic)
            if reader is None:
                transport = BY_TYPE[connection.msgtype]
                reader = readers[connection.topic] = FrameReader(
                    transport, stream_id=connection.topic
                )
            frames: Sequence[Frame] = ()
            try:
                with FrameError.instead_of(
                    (self._serde_error, ValueError, IndexError, struct.error),
                    f"a message of {len(raw)} bytes that is no {connection.msgtype}",
                ):
                    message = self._store.deserialize_cdr(raw, connection.msgtype)
                frames = reader.read(message, timestamp)
            except FrameMemoryError:  # no fault of the image's
                raise
            except FrameError as error:
                self.refused += 1
                _LOGGER.warning("%s at %d: %s", connection.topic, timestamp, error)
            self.refused += reader.given_up()
            yield from frames
        for reader in readers.values():
            yield from reader.flush()
            self.refused += reader.given_up()

    @property
    def recorded(self) -> tuple[int, int]:
        """Times of the first message and behind the last, nanoseconds, as the bag's index says."""
        return int(self._reader.start_time), int(self._reader.end_time)

    def camera_of(self, frame: Frame) -> str:
        """Name the topic."""
        return frame.stream_id

    def origin(self, frame: Frame) -> dict[str, Any]:
        """Name topic and stamp."""
        return {"topic": frame.stream_id, "stamp_ns": frame.stamp_ns}

    def detection_writer(
        self, path: str | Path, class_names: Sequence[str] = ()
    ) -> DetectionBagWriter:
        """Begin a new bag that takes every message of this one, and the detections.

        See DetectionBagWriter; messages are copied while the frames are iterated over.
        """
        taken = {connection.topic for connection in self._reader.connections}
        self._writer = DetectionBagWriter(path, self.topics, class_names, taken=taken)
        return self._writer

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()


#: What image_transport appends to the topic of raw images.
_SUFFIX = re.compile(f"({'|'.join(each.suffix for each in BY_TYPE.values() if each.suffix)})$")


def detection_topics(image_topics: Iterable[str]) -> dict[str, str]:
    """Name a topic for the detections of each image topic.

    It stands beside the images, as a camera node's does: /front/image_raw -> /front/detections.
    Where two image topics would share one, each gets its own: /left/detections.
    """
    topics = [_SUFFIX.sub("", topic) for topic in image_topics]
    beside = [f"{topic.rpartition('/')[0]}/detections" for topic in topics]
    return {
        image: near if beside.count(near) == 1 else f"{topic}/detections"
        for image, topic, near in zip(image_topics, topics, beside, strict=True)
    }


def _apart(topics: Mapping[str, str], taken: Iterable[str]) -> dict[str, str]:
    """Return the topics of detections, none of them twice or taken.

    Those of a camera that is recorded raw and compressed are one: the second gets
    /front/image_raw/compressed/detections.
    """
    used, found = set(taken), {}
    for image, name in topics.items():
        if name in used:
            name = f"{image}/detections"
        while name in used:
            name += "/detections"
        used.add(name)
        found[image] = name
    return found


class DetectionBagWriter(ExitStack):
    """Writes a new mcap bag: messages of another bag, and vision_msgs/Detection2DArray beside them.

    The bag is in its place when its context has ended in order.

    Args:
        path: folder to be made.
        image_topics: topics whose images get detections; see detection_topics, of which two that
            are one, or taken, are told apart.
        class_names: names of the classes, by their ids where these are a few; a class without a
            name is called by its number.
        taken: topics of the other bag.

    Raises:
        ConfigurationError: the folder exists already.
        MissingDependencyError: rosbags is missing.
    """

    def __init__(
        self,
        path: str | Path,
        image_topics: Sequence[str],
        class_names: Sequence[str] | Mapping[int, str] = (),
        *,
        taken: Iterable[str] = (),
    ) -> None:
        super().__init__()
        rosbag2 = require("rosbags.rosbag2", purpose="writing bags")
        self._store = make_typestore()
        point, turn, pose, with_covariance = (
            self._store.types[f"geometry_msgs/msg/{name}"]
            for name in ("Point", "Quaternion", "Pose", "PoseWithCovariance")
        )
        origin = pose(point(0.0, 0.0, 0.0), turn(0.0, 0.0, 0.0, 1.0))
        self._no_pose = with_covariance(origin, np.zeros(36))
        if not isinstance(class_names, Mapping):
            class_names = dict(enumerate(class_names))
        self._class_names = class_names
        self.path = Path(path)
        with ConfigurationError.instead_of(
            (rosbag2.WriterError, OSError),
            f"bag '{path}' that cannot be written",
            expected="the path of a new folder",
            fix="name another one, or remove it first",
        ):
            if self.path.exists():
                raise FileExistsError("it is there already")
            part = self.enter_context(whole_or_none(self.path))
            self._bag = rosbag2.Writer(part, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
            self.enter_context(self._bag)
        self._copied: dict[tuple[str, str], Any] = {}
        self._outputs = {
            image: self._bag.add_connection(topic, DETECTIONS_TYPE, typestore=self._store)
            for image, topic in _apart(detection_topics(image_topics), taken).items()
        }

    def copy(self, connection: Any, timestamp: int, raw: bytes) -> None:
        """Write a message of another bag as it is.

        Args:
            connection: rosbags' connection in the other bag.
            timestamp: time of recording, nanoseconds.
            raw: its bytes.
        """
        key = connection.topic, connection.msgtype  # a topic may come from several bags
        own = self._copied.get(key)
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
            self._copied[key] = own
        self._bag.write(own, timestamp, raw)

    def write_image(self, frame: Frame, data: bytes, kind: str) -> None:
        """Write an encoded image as sensor_msgs/CompressedImage.

        Args:
            frame: its stream_id is the topic, its received_ns the time of recording.
            data: bytes of an image file.
            kind: jpeg or png.
        """
        key = frame.stream_id, _COMPRESSED
        if key not in self._copied:
            self._copied[key] = self._bag.add_connection(*key, typestore=self._store)
        message = self._store.types[_COMPRESSED](
            self._header(frame), kind, np.frombuffer(data, np.uint8)
        )
        raw = self._store.serialize_cdr(message, _COMPRESSED)
        self._bag.write(self._copied[key], frame.received_ns, raw)

    def _header(self, frame: Frame) -> Any:
        types = self._store.types
        stamp = types["builtin_interfaces/msg/Time"](*divmod(frame.stamp_ns, 10**9))
        return types["std_msgs/msg/Header"](stamp, frame.frame_id)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the detections of a frame that ImageBag gave.

        Args:
            frame: its stream_id is the image topic, its received_ns the time of recording.
            detections: boxes in source pixels.
        """
        types = self._store.types
        make = {name.rpartition("/")[2]: types[name] for name in VISION_DEFINITIONS}
        header = self._header(frame)
        found = []
        ids = detections.track_ids
        for track, (x1, y1, x2, y2), score, class_id in zip(
            [0] * len(detections) if ids is None else ids.tolist(),
            detections.boxes.astype(np.float64).tolist(),
            detections.scores.tolist(),
            detections.class_ids.tolist(),
            strict=True,
        ):
            name = self._class_names.get(class_id, str(class_id))
            result = make["ObjectHypothesisWithPose"](
                make["ObjectHypothesis"](name, score), self._no_pose
            )
            centre = make["Point2D"]((x1 + x2) / 2, (y1 + y2) / 2)
            box = make["BoundingBox2D"](make["Pose2D"](centre, 0.0), x2 - x1, y2 - y1)
            found.append(make["Detection2D"](header, [result], box, str(track or "")))
        raw = self._store.serialize_cdr(make["Detection2DArray"](header, found), DETECTIONS_TYPE)
        self._bag.write(self._outputs[frame.stream_id], frame.received_ns, raw)
