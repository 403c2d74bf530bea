# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 bag on its topics again, without rosbag2."""

from __future__ import annotations

import importlib
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.pacing import sleep_until
from yolox_trt.ros.tools.bag import detection_topics, open_reader
from yolox_trt.ros.tools.bag_types import COMPRESSED_TYPE, IMAGE_TYPE, make_typestore
from yolox_trt.ros.tools.options import ReplayOptions
from yolox_trt.ros.tools.result_window import ResultWindow
from yolox_trt.ros.tools.session import plain_node, ros_node
from yolox_trt.ros.tools.source_node import (
    DISCOVERY,
    rounds,
    wait_for_subscribers,
    wait_until_delivered,
)

#: Rate of /clock between messages, as `ros2 bag play --clock` has it, in Hz.
CLOCK_RATE = 40.0
_NAMED = options_of(ReplayOptions)


def run_replay(
    options: ReplayOptions, *, say: Callable[[str], None], on_progress: Progress = no_progress
) -> int:
    """Publish a bag's messages.

    Args:
        options: the bag, and how it is published.
        say: takes a line.
        on_progress: told of each message.

    Returns:
        0, also after Ctrl-C; 1 if no message was published.
    """
    node_name = plain_node("yolox_trt_replay")
    with closing(open_reader(options.bag)) as reader, ros_node(node_name) as (node, executor):
        player = BagPlayer(
            reader, node, executor, topics=options.topics, remaps=options.remap, say=say
        )
        player.restamp = options.restamp
        if options.clock:
            player.publish_clock()
        if options.max:
            player.follow_results(options.results, options.wait, options.window)
        # With --max a consumer is there, but its subscriptions may be found later than its results.
        needed = player.image_publishers if options.max else ()
        timeout = max(DISCOVERY, options.wait) if options.max else DISCOVERY
        if not wait_for_subscribers(executor, player.publishers, timeout, needed=needed):
            say("nobody subscribes to the bag's topics yet")
        total = player.count * options.loop or None
        try:
            for _ in rounds(options.loop):
                for _ in player.play(options.speed):
                    on_progress(str(options.bag), player.published, total)
            wait_until_delivered(player.publishers)
        except KeyboardInterrupt:
            pass
        say(player.summary())
        return 0 if player.published else 1


class BagPlayer:
    """Publishes the messages of a bag as they are: bytes in, bytes out.

    Topics whose message package is not installed are left out and named.

    Args:
        reader: an open rosbags reader.
        node: the node that publishes.
        executor: spins the node.
        topics: topics to play, empty for all.
        remaps: topic in the bag -> topic to publish.
        say: takes a line for each topic that is left out.

    Attributes:
        published: messages published so far.
        late: messages that went out more than 50 ms late.
        restamp: whether header stamps are replaced by the present time.

    Raises:
        ConfigurationError: a topic that the bag does not have, or nothing to play.
    """

    def __init__(
        self,
        reader: Any,
        node: Node,
        executor: SingleThreadedExecutor,
        *,
        topics: Sequence[str],
        remaps: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._node = node
        self._executor = executor
        self.published = 0
        self.late = 0
        self.restamp = False
        self._window: ResultWindow | None = None
        self._clock: Publisher | None = None
        known = {connection.topic for connection in reader.connections}
        for name in (*topics, *remaps):
            if name not in known:
                fix = ("check ", _NAMED["topics"], " and ", _NAMED["remap"])
                raise ConfigurationError.unknown("topic of the bag", name, sorted(known), fix=fix)
        store = make_typestore()
        self._publishers: dict[int, Publisher] = {}
        self._stamped: set[int] = set()
        self._images: dict[int, str] = {}
        self._connections = []
        for connection in reader.connections:
            if topics and connection.topic not in topics:
                continue
            message_type = _message_type(connection.msgtype)
            if message_type is None:
                say(f"{connection.topic} is left out: {connection.msgtype} is not installed")
                continue
            topic = remaps.get(connection.topic, connection.topic)
            self._connections.append(connection)
            self._publishers[connection.id] = node.create_publisher(
                message_type, topic, _recorded_qos(connection)
            )
            fields = store.fielddefs.get(connection.msgtype, ((), ()))[1]
            if fields and fields[0][0] == "header":
                self._stamped.add(connection.id)
            if connection.msgtype in (IMAGE_TYPE, COMPRESSED_TYPE):
                self._images[connection.id] = topic
        if not self._connections:
            raise ConfigurationError("a bag with nothing to play", fix=("check ", _NAMED["topics"]))

    @property
    def publishers(self) -> list[Publisher]:
        """The publishers of the bag's topics."""
        return list(self._publishers.values())

    @property
    def image_publishers(self) -> list[Publisher]:
        """The publishers of the bag's images."""
        return [self._publishers[number] for number in self._images]

    @property
    def count(self) -> int:
        """Messages of one round."""
        return sum(connection.msgcount for connection in self._connections)

    def publish_clock(self) -> None:
        """Publish /clock: the time of recording."""
        self._clock = self._node.create_publisher(Clock, "/clock", 10)

    def follow_results(self, result_topics: Sequence[str], timeout: float, window: int) -> None:
        """Send images only as fast as their results come.

        Args:
            result_topics: topics of the results in the order of the image topics; empty for those
                beside the images, such as /front/detections for /front/image_raw.
            timeout: seconds to wait for the consumer.
            window: images of one topic that may be under way.

        Raises:
            ConfigurationError: another number of topics than of image topics.
            YoloxTrtError: nobody publishes the results.
        """
        images = list(self._images.values())
        named = dict(zip(images, result_topics, strict=False)) or detection_topics(images)
        if len(named) != len(images):
            raise ConfigurationError(
                f"{len(result_topics)} topics of results for {len(images)} image topics",
                expected=f"one for each of {', '.join(images)}",
                fix=("give ", _NAMED["results"], " once for each image topic"),
            )
        self._window = ResultWindow(self._node, self._executor, named, depth=window)
        self._window.wait_for_consumer(timeout)

    def play(self, speed: float) -> Iterator[None]:
        """Publish every message once, and yield after each one.

        Args:
            speed: 1 for the speed of the recording; not used when results set the pace.
        """
        start: float | None = None
        first = 0
        for connection, timestamp, raw in self._reader.messages(connections=self._connections):
            if start is None:
                start, first = time.monotonic(), timestamp
            data = bytes(raw)
            stamp = timestamp
            if connection.id in self._stamped:
                if self.restamp:
                    data = _with_stamp(data, self._node.get_clock().now().nanoseconds)
                stamp = _stamp(data)
            image = self._images.get(connection.id)
            if self._window is not None and image is not None:
                self._window.wait(image)
            elif self._window is None:
                self._wait_until(start + (timestamp - first) * 1e-9 / speed, timestamp, speed)
            if self._clock is not None:
                self._publish_clock(timestamp)
            self._publishers[connection.id].publish(data)
            self.published += 1
            if self._window is not None and image is not None:
                self._window.sent(image, stamp)
            self._executor.spin_once(timeout_sec=0.0)
            yield
        if self._window is not None:
            self._window.drain()

    def summary(self) -> str:
        """Return what was done, in one line."""
        text = f"{self.published} messages on {len(self._publishers)} topics"
        if self.late:
            text += f", {self.late} more than 50 ms late"
        if self._window is not None:
            text += f", {self._window.summary}"
        return text

    def _wait_until(self, due: float, timestamp: int, speed: float) -> None:
        """Sleep until a message is due, keeping /clock going."""
        while (left := due - time.monotonic()) > 0.0:
            if self._clock is None:
                sleep_until(due)
                return
            if left > 1.0 / CLOCK_RATE:
                time.sleep(1.0 / CLOCK_RATE)
                ahead = (due - time.monotonic()) * speed
                self._publish_clock(timestamp - int(max(0.0, ahead) * 1e9))
            else:
                time.sleep(left)
        if left < -0.05:
            self.late += 1

    def _publish_clock(self, nanoseconds: int) -> None:
        assert self._clock is not None
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(nanoseconds, 10**9)
        self._clock.publish(message)


def _message_type(name: str) -> Any:
    """Return the Python class of a message type such as sensor_msgs/msg/Image, or None."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def _recorded_qos(connection: Any) -> QoSProfile:
    """Return the quality of service that a topic was recorded with, reliable where unknown."""
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    profiles = connection.ext.offered_qos_profiles
    if profiles:
        if profiles[0].reliability.name == "BEST_EFFORT":
            qos.reliability = ReliabilityPolicy.BEST_EFFORT
        if profiles[0].durability.name == "TRANSIENT_LOCAL":
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            qos.depth = max(10, min(profiles[0].depth, 1000))
    return qos


# A message that begins with a Header: 4 bytes of CDR encapsulation (the second one tells the byte
# order), then int32 sec and uint32 nanosec.
_HEADER_OFFSET = 4


def _stamp(data: bytes) -> int:
    order = "<" if data[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", data, _HEADER_OFFSET)
    return int(sec) * 10**9 + int(nanosec)


def _with_stamp(data: bytes, nanoseconds: int) -> bytes:
    order = "<" if data[1] & 1 else ">"
    stamp = struct.pack(f"{order}iI", *divmod(nanoseconds, 10**9))
    return data[:_HEADER_OFFSET] + stamp + data[_HEADER_OFFSET + 8 :]
