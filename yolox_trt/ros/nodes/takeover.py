# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Takeover: two computers of one vehicle stand in for one another; see duties for the rules."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from yolox_trt.core.limits import LIMITS
from yolox_trt.ros.nodes.camera_set import CameraSet
from yolox_trt.ros.nodes.duties import Duties, Duty
from yolox_trt.ros.rclpy_versions import (
    EventHandle,
    QoSSubscriptionEventType,
    UnsupportedEventTypeError,
)

#: Heartbeats within the time after which silence means death.
_BEATS = 4
#: Seconds between two looks: a takeover is late by as much.
_LOOK_S = 0.02


class Takeover:
    """Sends this computer's heartbeat, listens to the others', and enables and disables cameras.

    The heartbeat is sent by the thread that receives the images: where that one hangs, the computer
    is dead to the others. Its QoS (liveliness manual by topic) lets the middleware tell at once of
    a node that has ended; a middleware without liveliness is served by the time of the last one.

    Args:
        node: the process's managed node.
        cameras: its cameras.
        computer: this computer's name.
        silence: seconds after which a silent computer is dead.
    """

    def __init__(self, node: Node, cameras: CameraSet, computer: str, silence: float) -> None:
        self._node, self._cameras = node, cameras
        self._duties = Duties(computer, silence, time.monotonic())
        lease = Duration(nanoseconds=int(silence * 1e9))
        self._qos = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
            liveliness_lease_duration=lease,
        )
        self._publisher = node.create_publisher(String, heartbeat_topic(computer), self._qos)
        self._listening: dict[str, list[Any]] = {}
        self._refused: dict[str, str] = {}
        self._events: dict[str, Any] = {}
        self._told: set[str] = set()
        self._next_beat = 0.0
        self._period = silence / _BEATS
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(min(self._period, _LOOK_S), self.look, clock=steady)
        self.look()

    def look(self) -> None:
        """Decide anew, and send a heartbeat if it is time or something has changed."""
        now = time.monotonic()
        self._duties.duties = {
            name: Duty(own.primary, own.standby)
            for name, camera in self._cameras.nodes.items()
            if (own := camera.parameters.current).primary
        }
        for computer in self._duties.others - self._listening.keys():
            self._listen(computer)
        for computer, event in list(self._events.items()):
            if _is_gone(event):
                self._duties.lose(computer, now)
        changes = self._duties.decide(now)
        for name in self._duties.duties:
            serves = name in self._duties.serving
            enabled = self._cameras.nodes[name].parameters.current.stream.enabled
            # What came up enabled ends; what refused is asked again; ~/enable may end a camera.
            if name in changes or (enabled != serves and (enabled or name in self._refused)):
                self._enable(name, serves)
        if changes or now >= self._next_beat:
            self._next_beat = now + self._period
            self._publisher.publish(String(data=self._duties.heartbeat))
            self._report()

    def _report(self) -> None:
        """Tell, once each, what must be mistakes in the computers' parameters."""
        duties, logger = self._duties, self._node.get_logger()
        if duties.has_none and "no duty" not in self._told:
            self._told.add("no duty")
            logger.warning(
                f"computer '{duties.computer}' serves none of {', '.join(sorted(duties.duties))}; "
                f"expected {' or '.join(sorted(duties.others))}, the cameras' `primary` and "
                "`standby`; fix: the parameter `computer`, or theirs"
            )
        for computer, silence in duties.other_silences.items():
            if computer not in self._told:
                self._told.add(computer)
                logger.warning(
                    f"computer_silence {silence:g} s of {computer}; expected {duties.silence:g} s, "
                    "as here: a camera may go to and fro; fix: the same on all computers"
                )
        topic = heartbeat_topic(duties.computer)
        if "two of a name" not in self._told and self._node.count_publishers(topic) > 1:
            self._told.add("two of a name")
            logger.error(
                f"another process is computer '{duties.computer}' too (it publishes {topic}); "
                "expected one: both serve its cameras; fix: a `computer` of its own for each"
            )

    def _enable(self, name: str, serves: bool) -> None:
        camera = self._cameras.nodes[name]
        result = camera.set_parameters([Parameter("enabled", value=serves)])[0]
        camera.update_subscription()
        duty = self._duties.duties[name]
        peer = duty.standby if self._duties.computer == duty.primary else duty.primary
        said = "is served here" if serves else "is not served here"
        state = "is alive" if self._duties.lives(peer, time.monotonic()) else "is silent"
        if serves and state == "is alive" and self._duties.lacks(peer, name):
            state = "lives without this camera"
        text = f"camera '{name}' {said}: {peer or 'its standby'} {state}"
        if result.successful:
            self._refused.pop(name, None)
        else:
            text += f"; but it refused: {result.reason}"
            if self._refused.get(name) == text:  # asked again at each look, and told once
                return
            self._refused[name] = text
        self._node.get_logger().warning(text)

    def _listen(self, computer: str) -> None:
        def hear(message: String) -> None:
            # A word for each camera, with "-" and a space, and one for the silence.
            text = message.data[: (LIMITS.cameras + 1) * (LIMITS.node_name_characters + 2)]
            self._duties.hear(computer, text, time.monotonic())

        # A bridge's writer may offer no liveliness: whoever asks for it would hear nothing.
        plain = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        topic = heartbeat_topic(computer)
        self._listening[computer] = [
            self._node.create_subscription(String, topic, hear, qos) for qos in (plain, self._qos)
        ]
        subscription = self._listening[computer][-1]
        kind = getattr(QoSSubscriptionEventType, "RCL_SUBSCRIPTION_LIVELINESS_CHANGED", None)
        # A middleware need not support it.
        with contextlib.suppress(UnsupportedEventTypeError), subscription.handle:
            if kind is not None:
                self._events[computer] = EventHandle(subscription.handle, kind)

    def close(self) -> None:
        """End the heartbeat, before the node is destroyed."""
        self._node.destroy_timer(self._timer)
        for event in self._events.values():
            event.destroy_when_not_in_use()
        self._events.clear()
        for subscription in itertools.chain.from_iterable(self._listening.values()):
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._publisher)


def heartbeat_topic(computer: str) -> str:
    """Return the topic of a computer's heartbeat."""
    return f"/yolox_trt/heartbeat/{computer}"


def _is_gone(event: Any) -> bool:
    """Tell whether the middleware knows of no live publisher any more."""
    try:
        with event:
            status = event.take_event()
    except Exception:  # RCLError: a middleware that has no such event
        return False
    return status is not None and status.alive_count == 0 and status.alive_count_change < 0
