# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What differs in rclpy between Humble, Jazzy and Kilted, and the faults of it that are mended."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions, _declare_qos_parameters
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

from yolox_trt.core.errors import ConfigurationError

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
    "AnsweringLifecycleNode",
    "EventHandle",
    "NoEventHandlers",
    "QoSSubscriptionEventType",
    "UnsupportedEventTypeError",
    "WithMessageInfo",
    "create_spinner",
    "init_rclpy",
    "overridden_qos",
    "reported",
]

Transition = TypeVar("Transition", bound=Callable[..., Any])

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

    def create_subscription(
        self, msg_type: type, topic: str, callback: Callable[[Any], Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Create a subscription, as rclpy.Node does.

        rclpy's own one to /clock, with `use_sim_time`, leaves times out that rclpy refuses: each
        would end in a traceback.
        """
        if topic == "/clock":
            callback = functools.partial(self._take_clock, callback)
        kwargs["event_callbacks"] = SubscriptionEventCallbacks(use_default_callbacks=False)
        return super().create_subscription(  # type: ignore[misc]
            msg_type, topic, callback, *args, **kwargs
        )

    def _take_clock(self, callback: Callable[[Any], Any], message: Any) -> None:
        if message.clock.sec >= 0:
            callback(message)
        else:
            self.get_logger().error(  # type: ignore[attr-defined]
                f"/clock says {message.clock.sec} s; expected 0 or more; the time stays as it was",
                throttle_duration_sec=10.0,
            )


def reported(transition: Transition) -> Transition:
    """Have a transition of a managed node report what it raises; rclpy drops it in silence."""

    @functools.wraps(transition)
    def run(self: Any, state: Any) -> Any:
        try:
            return transition(self, state)
        except Exception:
            self.get_logger().error(f"{transition.__name__}: {traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR

    return run  # type: ignore[return-value]


class AnsweringLifecycleNode(LifecycleNode):
    """A managed node that answers a transition which its state does not have, with a failure.

    On Humble and Jazzy rclpy raises instead, and whoever asked waits for ever.
    """

    def _LifecycleNodeMixin__change_state(  # noqa: N802
        self, transition_id: int
    ) -> TransitionCallbackReturn:
        try:
            result: TransitionCallbackReturn = super()._LifecycleNodeMixin__change_state(
                transition_id
            )
        except rclpy_implementation.RCLError as error:
            state = self._state_machine.current_state[1]
            self.get_logger().error(f"transition {transition_id} in the state '{state}': {error}")
            return TransitionCallbackReturn.ERROR
        return result


def overridden_qos(node: Node, topic: str, qos: QoSProfile) -> QoSProfile:
    """Return the QoS of a subscription with the overrides of the node's parameters.

    These are declared, as `qos_overrides.TOPIC.subscription.POLICY`, even if another process
    subscribes in the node's place.

    Args:
        node: has the parameters.
        topic: name of the topic, resolved.
        qos: is changed and returned.

    Raises:
        ConfigurationError: an override that ROS 2 does not take.
    """
    name = f"qos_overrides.{topic}.subscription"
    with ConfigurationError.instead_of(
        Exception,  # RuntimeError, InvalidParameterTypeException and others
        f"a value below `{name}` that ROS 2 does not take",
        expected=f"{name}.depth: a whole number; .reliability: reliable, best_effort or "
        "system_default; .history: keep_last or keep_all",
    ):
        # What create_subscription calls with qos_overriding_options, on every distribution.
        options = QoSOverridingOptions.with_default_policies()
        _declare_qos_parameters(Subscription, node, topic, qos, options)
    return qos


#: What init_rclpy() was given last.
_COMMAND_LINE: list[str] = []


def enclave() -> str:
    """Return the SROS2 enclave of this process, "/" where none is named.

    Of its own arguments, of which the last one counts. rclpy does not tell; the graph names one for
    every node of a name, and whose each is, others say.
    """
    found, of_ros = "/", False
    arguments = iter(_COMMAND_LINE)
    for each in arguments:
        if each in ("--ros-args", "--"):
            of_ros = each == "--ros-args"
        elif of_ros and each in ("-e", "--enclave"):
            found = next(arguments, found)
    return found


def init_rclpy(args: Sequence[str] | None) -> str:
    """Initialise rclpy, without its signal handlers, where no log file can be written too.

    Args:
        args: ROS arguments after the program's name; None for those of sys.argv.

    Returns:
        Why there is no log file; "" where there is one.
    """
    # As rcl_logging_interface finds it; a folder that cannot be written ends rclpy.init.
    home = os.environ.get("ROS_HOME") or "~/.ros"
    folder = Path(os.environ.get("ROS_LOG_DIR") or Path(home) / "log").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    command_line = list(sys.argv if args is None else ["", *args])
    _COMMAND_LINE[:] = command_line
    if not writable:
        command_line += ["--ros-args", "--disable-external-lib-logs"]
    rclpy.init(args=command_line, signal_handler_options=SignalHandlerOptions.NO)
    if writable:
        return ""
    return f"no log file: the folder '{folder}' cannot be written; fix: set ROS_LOG_DIR"


class WithMessageInfo:
    """Callback of a subscription that is told of a message's publisher and number as well.

    rclpy's events executor hands (message, info) over as one argument, as no other executor does.

    Args:
        callback: called with the message, and rclpy's MessageInfo as a dictionary.
    """

    #: By which rclpy decides what the callback takes.
    __signature__ = inspect.signature(lambda message, info: None)

    def __init__(self, callback: Callable[[Any, dict[str, Any]], None]) -> None:
        self._callback = callback

    def __call__(self, *arguments: Any) -> None:
        """Call back."""
        self._callback(*(arguments if len(arguments) == 2 else arguments[0]))


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
