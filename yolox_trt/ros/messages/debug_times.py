# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DebugTimes: the times that Autoware's node publishes of itself, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yolox_trt.core.optional import is_installed, require

_PURPOSE = "`publish_debug`"
#: ~/debug/NAME_ms: from one result to the next, from an image's arrival to its published result,
#: and from its stamp to that.
NAMES = ("cyclic_time", "processing_time", "pipeline_latency")


def message_type() -> Any:
    """Return the type of the messages.

    Raises:
        MissingDependencyError: no package that has it is installed.
    """
    if is_installed("tier4_debug_msgs") and not is_installed("autoware_internal_debug_msgs"):
        # Autoware before 2025.
        return require("tier4_debug_msgs.msg", purpose=_PURPOSE).Float64Stamped
    return require("autoware_internal_debug_msgs.msg", purpose=_PURPOSE).Float64Stamped


class DebugTimes:
    """Publishes NAMES for one camera.

    Args:
        create_publisher: makes a publisher of a message type and a topic.
        now: gives ROS time in nanoseconds.
    """

    def __init__(self, create_publisher: Callable[[Any, str], Any], now: Callable[[], int]) -> None:
        self._message = message_type()()
        self._publishers = [
            create_publisher(type(self._message), f"~/debug/{name}_ms") for name in NAMES
        ]
        self._now = now
        self._last: int | None = None

    def publish(self, stamp_ns: int, received_ns: int, done_ns: int) -> None:
        """Publish the times of a result.

        Args:
            stamp_ns: the image's stamp.
            received_ns: time.monotonic_ns() of its arrival.
            done_ns: time.monotonic_ns() after its result was published.
        """
        cycle = 0 if self._last is None else done_ns - self._last
        self._last, now = done_ns, self._now()
        stamp = self._message.stamp
        stamp.sec, stamp.nanosec = divmod(now, 1_000_000_000)
        times = (cycle, done_ns - received_ns, now - stamp_ns)
        for publisher, time in zip(self._publishers, times, strict=True):
            self._message.data = time * 1e-6
            publisher.publish(self._message)
