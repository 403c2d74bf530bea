# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What differs in rclpy between Humble, Jazzy and Kilted, and a fault of its events executor."""

from __future__ import annotations

from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        QoSSubscriptionEventType,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        QoSSubscriptionEventType,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

__all__ = [
    "EventHandle",
    "NoEventHandlers",
    "QoSSubscriptionEventType",
    "UnsupportedEventTypeError",
    "create_spinner",
]

#: rcl's event of a publisher or a subscription; Humble has it under another name.
EventHandle: Any = getattr(rclpy_implementation, "EventHandle", None) or getattr(
    rclpy_implementation, "QoSEvent", None
)


class NoEventHandlers:
    """Goes before rclpy's Node: its publishers and subscriptions come without event handlers.

    rclpy gives each of them handlers for incompatible peers, those that rclpy.Node makes for itself
    included. Where one is destroyed while such an event is queued, rclpy's events executor reads
    the destroyed event: spin_once raises InvalidHandle, and with many of them the process ends by
    a segmentation fault (https://github.com/ros2/rclpy/issues/1644). SubscriptionEvents reports
    what the handlers would.
    """

    def create_publisher(self, *args: Any, **kwargs: Any) -> Any:
        """Create a publisher, as rclpy.Node does."""
        kwargs["event_callbacks"] = PublisherEventCallbacks(use_default_callbacks=False)
        return super().create_publisher(*args, **kwargs)  # type: ignore[misc]

    def create_subscription(self, *args: Any, **kwargs: Any) -> Any:
        """Create a subscription, as rclpy.Node does."""
        kwargs["event_callbacks"] = SubscriptionEventCallbacks(use_default_callbacks=False)
        return super().create_subscription(*args, **kwargs)  # type: ignore[misc]


def create_spinner() -> Any:
    """Return rclpy's events executor where there is one, else the single-threaded one.

    Kilted has it, and Jazzy since rclpy 7.1.4. The single-threaded one builds a wait set of every
    entity of every node for each callback. The events executor is safe with nodes that are made
    with NoEventHandlers, and with nodes whose publishers and subscriptions live as long as it.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        from rclpy.executors import SingleThreadedExecutor

        return SingleThreadedExecutor()
    return EventsExecutor()
