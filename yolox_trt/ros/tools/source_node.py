# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands that publish have in common: a node, its quality of service, a progress bar."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from yolox_trt.ros.middleware import apply_malloc_settings, transport_settings

#: Seconds that subscribers get to be found before the first message; and the others after one.
DISCOVERY = 5.0
SETTLE = 0.5
#: Seconds between the last message and the publisher's end.
LINGER = 0.5


class SourceNode:
    """Context of a command: (node, executor), with the settings for large images.

    A Fast DDS profile that the user has chosen stays; without one the shipped one is taken.
    Ctrl-C raises KeyboardInterrupt, as in any Python program.

    Args:
        name: name of the node.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> tuple[Node, SingleThreadedExecutor]:
        """Start ROS."""
        apply_malloc_settings()
        os.environ.update(transport_settings())
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(self._name, start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        return self._node, self._executor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End ROS."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()


def source_qos(reliable: bool) -> QoSProfile:
    """Return the quality of service of a source: as a camera driver's, or reliable."""
    return QoSProfile(
        depth=10 if reliable else 5,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def make_progress(console: Console) -> Progress:
    """Return a progress bar that counts messages."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def wait_for_subscribers(
    executor: SingleThreadedExecutor,
    publishers: Sequence[Publisher],
    timeout: float = DISCOVERY,
    *,
    needed: Sequence[Publisher] = (),
) -> bool:
    """Wait until every publisher has a subscriber.

    Once one has been found the others get SETTLE seconds more, since a bag has topics that nobody
    wants; the first messages would also be lost if the subscriber had not found the publisher yet.

    Args:
        executor: spun meanwhile.
        publishers: the publishers.
        timeout: longest time in seconds.
        needed: publishers that must each have a subscriber before the others' time runs.

    Returns:
        Whether anybody listens.
    """
    end = time.monotonic() + timeout
    found = False
    while (now := time.monotonic()) < end:
        if (
            not found
            and any(p.get_subscription_count() for p in publishers)
            and all(p.get_subscription_count() for p in needed)
        ):
            found, end = True, now + SETTLE
        executor.spin_once(timeout_sec=0.02)
    return found or any(p.get_subscription_count() for p in publishers)


def wait_until_delivered(publishers: Sequence[Publisher], timeout: float = 2.0) -> None:
    """Wait until subscribers have everything: a publisher that goes takes along what they have
    not taken out of the middleware's queue yet.
    """
    for publisher in publishers:
        publisher.wait_for_all_acked(Duration(seconds=timeout))
    time.sleep(LINGER)


def private_domain(environment: Mapping[str, str]) -> str:
    """Return ROS_DOMAIN_ID of the environment, or one of its own in the range safe on Linux."""
    return environment.get("ROS_DOMAIN_ID") or str(random.SystemRandom().randint(1, 101))
