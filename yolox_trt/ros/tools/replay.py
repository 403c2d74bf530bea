# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 bag on its topics again, without rosbag2."""

from __future__ import annotations

import importlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from ament_index_python.resources import get_resources
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.pacing import sleep_until
from yolox_trt.executor.outcomes import worth_logging
from yolox_trt.ros.messages.transports import BY_TYPE
from yolox_trt.ros.nodes.parameter_values import check_topic
from yolox_trt.ros.tools.bag import open_reader, read_messages
from yolox_trt.ros.tools.bag_types import make_typestore
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
#: Seconds that a round of `--loop` takes at least.
LEAST_ROUND = 0.1
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
        0, also after Ctrl-C; 1 if no message was published, or one could not be read.
    """
    # ROS nodes need different names, and two bags may be replayed at once.
    node_name = plain_node(f"yolox_trt_replay_{os.getpid()}")
    with (
        closing(open_reader(options.bag)) as reader,
        ros_node(node_name, ros_args=options.ros_args) as (node, executor),
    ):
        player = BagPlayer(reader, node, executor, options, say)
        publishers = list(player.publishers.values())
        # With --max a consumer is there, but its subscriptions may be found later than its results.
        needed = player.image_publishers if options.max or options.wait is not None else ()
        timeout = max(DISCOVERY, options.wait or 0.0)
        if not wait_for_subscribers(executor, publishers, timeout, needed=needed):
            say("nobody subscribes to the bag's topics yet")
        total = player.count * options.loop or None
        try:
            for _ in rounds(options.loop, lambda: player.published):
                for _ in player.play():
                    on_progress(str(options.bag), player.published, total)
            wait_until_delivered(publishers)
        except KeyboardInterrupt:
            pass
        say(player.summary())
        return 0 if player.published and not player.refused else 1


class BagPlayer:
    """Publishes the messages of a bag as they are: bytes in, bytes out.

    Topics whose message package is not installed are left out and named.

    Args:
        reader: an open rosbags reader.
        node: the node that publishes.
        executor: spins the node.
        options: what is played, and how.
        say: takes a line for each topic and each message that is left out.

    Attributes:
        published: messages published so far.
        refused: messages left out so far: too short to be one of their type.
        publishers: those of the topics, by the number of the bag's connection.
        image_publishers: those of the images.

    Raises:
        ConfigurationError: a topic that the bag does not have, nothing to play, or another number
            of topics of results than of image topics.
        YoloxTrtError: nobody publishes the results that are waited for.
    """

    def __init__(
        self,
        reader: Any,
        node: Node,
        executor: SingleThreadedExecutor,
        options: ReplayOptions,
        say: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._node = node
        self._executor = executor
        self._options = options
        self._say = say
        self.published = 0
        self.refused = 0
        self._late = 0
        known = {connection.topic for connection in reader.connections}
        for name in (*options.topics, *options.remap):
            if name not in known:
                fix = ("check ", _NAMED["topics"], " and ", _NAMED["remap"])
                raise ConfigurationError.unknown("topic of the bag", name, sorted(known), fix=fix)
        store = make_typestore()
        self.publishers: dict[int, Publisher] = {}
        self._stamped: set[int] = set()
        self._images: dict[int, str] = {}
        self._connections = []
        for connection in reader.connections:
            if options.topics and connection.topic not in options.topics:
                continue
            message_type = _message_type(connection.msgtype)
            if message_type is None:
                say(f"{connection.topic} is left out: {connection.msgtype} is not installed")
                continue
            mend = ("give it another name by ", _NAMED["remap"])
            topic = check_topic(options.remap.get(connection.topic, connection.topic), fix=mend)
            self._connections.append(connection)
            self.publishers[connection.id] = node.create_publisher(
                message_type, topic, _recorded_qos(connection, lossless=options.max)
            )
            fields = store.fielddefs.get(connection.msgtype, ((), ()))[1]
            # CompressedVideo begins with a stamp, as a Header does.
            if fields and fields[0][0] in ("header", "timestamp"):
                self._stamped.add(connection.id)
            if connection.msgtype in BY_TYPE:
                self._images[connection.id] = topic
        if not self._connections:
            raise ConfigurationError("a bag with nothing to play", fix=("check ", _NAMED["topics"]))

        self.count = sum(connection.msgcount for connection in self._connections)
        self.image_publishers = [self.publishers[number] for number in self._images]
        self._clock = node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._window = ResultWindow(node, executor, list(self._images.values()), options)

    def play(self) -> Iterator[None]:
        """Publish every message once, and yield after each one."""
        start = 0.0
        first: int | None = None
        for connection, timestamp, raw in read_messages(self._reader, self._connections):
            if first is None:
                start, first = time.monotonic(), timestamp
            data = bytes(raw)
            stamp = timestamp
            if len(data) < (_HEADER_OFFSET + 8 if connection.id in self._stamped else 5):
                self.refused += 1
                if worth_logging(self.refused):
                    text = f"{connection.topic} at {timestamp}: {len(data)} bytes, left out"
                    self._say(text + (f" ({self.refused} so far)" if self.refused > 1 else ""))
                continue
            if connection.id in self._stamped:
                if self._options.restamp:
                    data = _with_stamp(data, self._node.get_clock().now().nanoseconds)
                stamp = _stamp(data)
            image = self._images.get(connection.id, "")
            self._window.wait(image)
            if not self._options.max:
                seconds = (timestamp - first) * 1e-9 / self._options.speed
                self._wait_until(start + seconds, timestamp)
            if self._clock is not None:
                self._publish_clock(timestamp)
            self.publishers[connection.id].publish(data)
            self.published += 1
            self._window.sent(image, stamp)
            self._executor.spin_once(timeout_sec=0.0)
            yield
        self._window.drain()
        if first is not None and not self._options.max:
            # As long as the bag; one of a single message must not become a flood.
            length = self._reader.duration * 1e-9 / self._options.speed
            sleep_until(start + max(length, LEAST_ROUND))

    def summary(self) -> str:
        """Return what was done, in one line."""
        text = f"{self.published} messages on {len(self.publishers)} topics"
        if self._late:
            text += f", {self._late} more than 50 ms late"
        if self.refused:
            text += f", {self.refused} could not be read"
        return text + self._window.summary

    def _wait_until(self, due: float, timestamp: int) -> None:
        """Sleep until a message is due, keeping /clock going."""
        while self._clock is not None and due - time.monotonic() > 1.0 / CLOCK_RATE:
            time.sleep(1.0 / CLOCK_RATE)
            ahead = max(0.0, due - time.monotonic()) * self._options.speed
            self._publish_clock(timestamp - int(ahead * 1e9))
        self._late += time.monotonic() - due > 0.05
        sleep_until(due)

    def _publish_clock(self, nanoseconds: int) -> None:
        assert self._clock is not None
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(nanoseconds, 10**9)
        self._clock.publish(message)


def _message_type(name: str) -> Any:
    """Return the Python class of a message type such as sensor_msgs/msg/Image, or None.

    The name comes from a file: only packages of messages are imported.
    """
    package, _, kind = name.partition("/msg/")
    if package not in get_resources("rosidl_interfaces"):
        return None
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def _recorded_qos(connection: Any, *, lossless: bool) -> QoSProfile:
    """Return the quality of service that a topic was recorded with, reliable where unknown.

    Args:
        connection: of the bag.
        lossless: whether it is reliable in any case.
    """
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    profiles = connection.ext.offered_qos_profiles
    if profiles:
        if profiles[0].reliability.name == "BEST_EFFORT" and not lossless:
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
