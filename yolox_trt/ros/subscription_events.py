# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SubscriptionEvents: what the middleware reports of a camera's subscription."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription

from yolox_trt.ros.rclpy_versions import (
    EventHandle,
    QoSSubscriptionEventType,
    UnsupportedEventTypeError,
)

#: Publishers whose numbers are remembered.
_MOST_PUBLISHERS = 64

#: Seconds between two looks.
POLL_PERIOD = 1.0

# Humble has no event of the last kind.
_LOST, _INCOMPATIBLE_QOS, _INCOMPATIBLE_TYPE = (
    "RCL_SUBSCRIPTION_MESSAGE_LOST",
    "RCL_SUBSCRIPTION_REQUESTED_INCOMPATIBLE_QOS",
    "RCL_SUBSCRIPTION_INCOMPATIBLE_TYPE",
)

#: Fast DDS 3.2 follows the report of a lost image by a second one with this count, which no image
#: belongs to (seen with images larger than a segment and best-effort reliability).
_NO_COUNT = 2**31 - 1


def lost_images(event: Any) -> int:
    """Return how many images a message-lost event of rclpy stands for."""
    change = int(event.total_count_change)
    return change if 0 < change < _NO_COUNT else 0


class SubscriptionEvents:
    """Counts lost images, and tells of publishers whose images cannot arrive.

    Fast DDS does not report images that a reliable publisher gave up, nor those that newer ones
    replaced in the subscription's queue: gaps in a publisher's numbers tell of them (from Jazzy on;
    there only where the topic has one publisher). What is reported leaves a gap, too, once another
    image has come: the larger of both counts.

    The middleware keeps these counts, and they are read now and then: event handlers of rclpy that
    did so at once are not safe to destroy (see NoEventHandlers). Everything here is called by the
    thread that spins the node.

    Args:
        node: the node that subscribes.
        subscription: the subscription.
        on_lost: called with the number of images that were lost on their way.
        warn: called with a line about a publisher that does not fit.

    Attributes:
        numbers: number of each publisher's last message; may be those of a former subscription.
    """

    def __init__(
        self,
        node: Node,
        subscription: Subscription[Any],
        on_lost: Callable[[int], None],
        warn: Callable[[str], object],
    ) -> None:
        self._node = node
        self._topic = subscription.topic_name
        self.numbers: dict[Any, int] = {}
        self._reported = self._missing = self._told = 0
        self._on_lost = on_lost
        self._warn = warn
        self._events: dict[str, Any] = {}
        self._looked = time.monotonic()
        with subscription.handle:
            for name in (_LOST, _INCOMPATIBLE_QOS, _INCOMPATIBLE_TYPE):
                kind = getattr(QoSSubscriptionEventType, name, None)
                # A middleware need not support them all.
                with contextlib.suppress(UnsupportedEventTypeError):
                    if kind is not None:
                        self._events[name] = EventHandle(subscription.handle, kind)

    def arrived(self, info: Mapping[str, Any]) -> None:
        """Look for a gap before a message.

        Args:
            info: its MessageInfo.
        """
        number = info.get("publication_sequence_number")
        if number is None:  # Humble, and a middleware that does not count
            return
        identity = info.get("publisher_gid")
        publisher = identity and identity["data"]
        last = self.numbers.get(publisher, number)
        if number > last + 1 and (publisher or self._node.count_publishers(self._topic) == 1):
            self._missing += number - last - 1
        if len(self.numbers) > _MOST_PUBLISHERS:
            self.numbers.clear()
        self.numbers[publisher] = number

    def poll(self) -> None:
        """Look at what has happened since the last time, if that is POLL_PERIOD ago."""
        if time.monotonic() - self._looked >= POLL_PERIOD:
            self._look()

    def _look(self) -> None:
        self._looked = time.monotonic()
        for name, handle in list(self._events.items()):
            try:
                with handle:
                    event = handle.take_event()
            except Exception as error:  # RCLError: a middleware that has no such count
                del self._events[name]
                self._warn(f"{name} of {self._topic} cannot be read, and is not counted: {error}")
                continue
            if event is None:
                continue
            if name == _LOST:
                self._reported += lost_images(event)
            elif event.total_count_change > 0:
                self._warn(self._text(name, event))
        lost = max(self._reported, self._missing)
        if lost > self._told:
            self._on_lost(lost - self._told)
            self._told = lost

    def close(self) -> None:
        """Look for a last time, and release the events, before the subscription is destroyed."""
        self._look()
        for handle in self._events.values():
            handle.destroy_when_not_in_use()
        self._events.clear()

    def _text(self, name: str, event: Any) -> str:
        if name == _INCOMPATIBLE_TYPE:
            return (
                f"a publisher on {self._topic} sends another type, and none of its messages "
                "arrive; expected the type that the parameter `transport` names: sensor_msgs/Image "
                "for raw; fix: the parameters `image_topic` and `transport`"
            )
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        return (
            f"a publisher on {self._topic} offers an incompatible QoS ({policy}), and none of its "
            "images arrive; fix: set the parameter `qos_reliability` to best_effort, or the "
            "publisher to reliable"
        )
