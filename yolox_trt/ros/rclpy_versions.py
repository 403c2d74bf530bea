# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What differs in rclpy between Humble, Jazzy and Kilted."""

from __future__ import annotations

from typing import Any

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

__all__ = ["SubscriptionEventCallbacks", "create_spinner"]


def create_spinner() -> Any:
    """Return rclpy's events executor where there is one (Kilted on), else the single-threaded one.

    The single-threaded one builds a wait set of every entity of every node for each callback.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        from rclpy.executors import SingleThreadedExecutor

        return SingleThreadedExecutor()
    return EventsExecutor()
