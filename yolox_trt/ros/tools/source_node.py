# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands that publish have in common: quality of service, and waiting for others."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

#: Seconds that subscribers get to be found before the first message; and the others after one.
DISCOVERY = 5.0
SETTLE = 0.5
#: Seconds between the last message and the publisher's end.
LINGER = 0.5


def source_qos(reliable: bool) -> QoSProfile:
    """Return the quality of service of a source: as a camera driver's, or reliable."""
    return QoSProfile(
        depth=10 if reliable else 5,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def rounds(loop: int, published: Callable[[], int]) -> Iterator[int]:
    """Count the rounds of a source, until one has published nothing.

    Args:
        loop: how many, 0 for no end.
        published: returns how many messages were published so far.
    """
    before = -1
    for number in itertools.count() if loop == 0 else range(loop):
        if published() == before:
            return
        before = published()
        yield number


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
