# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What of ROS is there, and which cameras publish: the part of `yolox_trt doctor` that needs it."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from yolox_trt.core.check import Check, Status
from yolox_trt.core.errors import MissingDependencyError
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.optional import INSTALL_COMMANDS, is_installed
from yolox_trt.ros.messages.transports import BY_TYPE
from yolox_trt.ros.middleware import transport_settings, transport_warning
from yolox_trt.ros.tools.session import plain_node, ros_node

#: Package -> what for, where not everybody needs it.
_PACKAGES = {
    "vision_msgs": "",
    "cv_bridge": "for images in encodings that this package does not read itself",
    "tier4_perception_msgs": "for Autoware's messages",
}
#: Seconds until other participants of the domain are known, mostly; nobody tells when all are.
_DISCOVERY = 1.0


def middleware() -> Iterator[Check]:
    """Look at the distribution, its middleware and the message packages."""
    distribution = os.environ.get("ROS_DISTRO", "wheels from PyPI")
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    name = rclpy.get_rmw_implementation_identifier()
    yield Check("ROS 2", Status.PASS, f"{distribution}; domain {domain}, discovery {reach.lower()}")
    warning = transport_warning()
    yield Check(
        "middleware",
        Status.NOTE if warning else Status.PASS,
        name + (f": {warning.partition('. ')[0]}" if warning else ", with room for large images"),
        " ".join(
            f"export {key}={value}"
            for key, value in transport_settings().items()
            if "PROFILE" in key
        )
        if warning
        else "",
    )
    for package, purpose in _PACKAGES.items():
        if is_installed(package):
            yield Check(package, Status.PASS, "installed")
            continue
        # No wheel has cv_bridge.
        known = package != "cv_bridge" or "ROS_DISTRO" in os.environ
        yield Check(
            package,
            Status.NOTE if purpose else Status.FAIL,
            "not installed" + (f": {purpose}" if purpose else ""),
            INSTALL_COMMANDS[package] if known else "",
        )


def topics(seconds: float) -> Iterator[Check]:
    """Listen to all cameras of the domain for a while.

    Args:
        seconds: how long, from when the other nodes are known.
    """
    with ros_node(plain_node("yolox_trt_doctor")) as (node, executor):
        _spin(executor, _DISCOVERY)
        found, before = _cameras(node), None
        end = time.monotonic() + seconds
        while (found != before or not found) and time.monotonic() < end:
            before = found
            _spin(executor, _DISCOVERY)
            found = _cameras(node)
        if not found:
            yield Check(
                "cameras",
                Status.NOTE,
                f"nobody publishes images on domain {os.environ.get('ROS_DOMAIN_ID', '0')}",
                "start a camera driver, or yolox_trt publish FOLDER --topic /front/image_raw",
            )
            return
        messages: dict[str, list[Any]] = defaultdict(list)
        for topic, kind in list(found):
            try:
                message_class = BY_TYPE[kind].message_class()
            except MissingDependencyError as error:
                found.remove((topic, kind))
                yield Check(topic, Status.NOTE, f"{kind}, which is not installed", error.fix)
                continue
            node.create_subscription(
                message_class,
                topic,
                partial(_keep, messages[topic]),
                QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
            )
        _spin(executor, seconds)
        for topic, kind in found:
            yield _describe(node, topic, kind, messages[topic], seconds)


def _cameras(node: Node) -> list[tuple[str, str]]:
    """Return topic and type of what publishes images, as far as it is known yet."""
    return [
        (topic, kind)
        for topic, kinds in sorted(node.get_topic_names_and_types())
        for kind in kinds
        if kind in BY_TYPE and node.count_publishers(topic)
    ]


def _keep(messages: list[Any], message: Any) -> None:
    """Keep the last image and None for those before it: pixels of seconds would fill the memory."""
    if messages:
        messages[-1] = None
    messages.append(message)


def _spin(executor: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)


def _describe(node: Node, topic: str, kind: str, messages: list[Any], seconds: float) -> Check:
    publishers = node.get_publishers_info_by_topic(topic)
    qos = {each.qos_profile.reliability.name.lower().replace("_", " ") for each in publishers}
    what = f"{kind.rpartition('/')[2]}, {' and '.join(sorted(qos))}"
    if len(publishers) > 1:
        what += f", {len(publishers)} publishers"
    if not messages:
        fix = f"ros2 topic hz {topic}: look at the driver, and at the network if it is elsewhere"
        return Check(topic, Status.NOTE, f"{what}: no image in {seconds:g} s", fix)
    last = messages[-1]
    form = last.format if hasattr(last, "format") else last.encoding
    size = f" {last.width}x{last.height}" if hasattr(last, "width") else ""
    stamp = last.header.stamp if hasattr(last, "header") else last.timestamp
    form = clean_text(form, LIMITS.name_characters)
    age = node.get_clock().now().nanoseconds * 1e-9 - stamp.sec
    late = abs(age - stamp.nanosec * 1e-9) > 1.0
    found = f"{what}, {form}{size}, {len(messages) / seconds:.1f} Hz"
    if late:
        return Check(
            topic,
            Status.NOTE,
            f"{found}; stamps differ from this clock by {age:.0f} s",
            "set use_sim_time for a bag; else synchronise the clocks, or mend the driver's stamps",
        )
    return Check(topic, Status.PASS, found)
