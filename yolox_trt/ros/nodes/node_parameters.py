# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NodeParameters: declares Options as a node's parameters and keeps their values as a struct."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError, parts_of
from yolox_trt.core.option import Applies, Kind, Option
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes.parameters import DEPRECATED_ALIASES

T = TypeVar("T")

#: Names that ROS 2 itself gives to every node, and their beginnings.
_ROS_PARAMETERS = {"use_sim_time", "start_type_description_service"}
_QOS_OVERRIDES = "qos_overrides."
#: Topics of ROS 2 itself, whose QoS a `/**` section may override for nodes of other kinds.
_ROS_TOPICS = ("/clock", "/parameter_events", "/rosout")


def descriptor(option: Option) -> ParameterDescriptor:
    """Return the ROS descriptor of an option."""
    unit = f" Unit: {option.unit}." if option.unit else ""
    message = ParameterDescriptor(
        name=option.name,
        description=f"{option.help}{unit} Changes apply: {option.applies.value}.",
        additional_constraints=option.range_text,
        read_only=option.applies is Applies.READ_ONLY,
        # The type is checked by Option.plain, which takes an integer for a double; rclpy's own
        # check does not, and an empty list has no type in ROS 2.
        dynamic_typing=True,
    )
    low, high = option.minimum, option.maximum
    if low is not None and high is not None:
        if option.kind is Kind.INTEGER:
            message.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        elif option.kind is Kind.DOUBLE:
            message.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
    return message


def overrides_of(node: Node) -> dict[str, Any]:
    """Return what YAML files, launch and `-p` set for a node, by parameter name."""
    # rclpy has no public way to see the overrides of parameters that are not declared, which are
    # just the ones to be reported; the attribute has been there from Foxy to Kilted.
    overrides: Mapping[str, Parameter] = getattr(node, "_parameter_overrides", {})
    return {name: parameter.value for name, parameter in overrides.items()}


class NodeParameters(Generic[T]):
    """The parameters of one node: declared with descriptors, checked, kept as a typed struct.

    Args:
        node: the node to declare on.
        options: what to declare, by name.
        make: makes the struct of all plain values by name; raises ConfigurationError.
        foreign: names of the process's other parameters; a `/**` section of a YAML file gives
            them to every node, so they are not reported as unknown.
        on_change: called in the executor's thread with the new struct when a parameter that
            applies at once changes, before that is answered; a YoloxTrtError from it refuses the
            change.

    Attributes:
        current: the struct.

    Raises:
        ConfigurationError: an override is of the wrong type or out of range.
    """

    def __init__(
        self,
        node: Node,
        options: Mapping[str, Option],
        make: Callable[[Mapping[str, Any]], T],
        *,
        foreign: Iterable[str] = (),
        on_change: Callable[[T], None],
    ) -> None:
        self._node = node
        self._options = options
        self._make = make
        self._on_change = on_change
        self._publishing = False
        overrides = overrides_of(node)
        self._report_unknown(overrides, {*options, *foreign})
        self._plain: dict[str, Any] = {}
        try:
            overrides = self._resolve_aliases(overrides)
            for name, option in options.items():
                by_node = option.applies is Applies.BY_NODE
                given = option.default if by_node else overrides.get(name, option.default)
                self._plain[name] = option.plain(given)
            self.current = make(self._plain)
        except ConfigurationError as error:
            found, expected, fix = error.parts
            found = (f"node {node.get_name()}: ", *parts_of(found))
            raise ConfigurationError(found, expected=expected, fix=fix) from error
        for name, option in options.items():
            value = self._message(name, self._plain[name]).value
            node.declare_parameter(name, value, descriptor(option), ignore_override=True)
        node.add_on_set_parameters_callback(self._on_set)

    def publish(self, name: str, value: Any) -> None:
        """Set a parameter that only the node itself may set."""
        self._publishing = True
        try:
            self._node.set_parameters([self._message(name, value)])
        finally:
            self._publishing = False

    def _message(self, name: str, value: Any) -> Parameter:
        return Parameter(name, Parameter.Type[self._options[name].kind.name], value)

    def _resolve_aliases(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Give Autoware's names to ours, with a warning; our own name wins."""
        resolved, warn = dict(overrides), self._node.get_logger().warning
        # In the table's order, so that dla_core_id, which says more than gpu_id, comes last.
        for old, (new, convert) in DEPRECATED_ALIASES.items():
            if old not in overrides or new not in self._options:
                continue
            if new in overrides:
                warn(f"parameter '{old}' is ignored: '{new}', its name here, is set as well")
                continue
            warn(f"parameter '{old}' is Autoware's name; set '{new}' instead")
            try:
                value = convert(overrides[old])
            except (TypeError, ValueError) as error:
                raise ConfigurationError(
                    f"{old} = {overrides[old]!r}",
                    expected=("a value that stands for ", self._options[new]),
                    fix=("set ", self._options[new]),
                ) from error
            if value is not None:
                resolved[new] = value
        return resolved

    def _report_unknown(self, overrides: Mapping[str, Any], known: set[str]) -> None:
        warn = self._node.get_logger().warning
        for name in sorted(overrides.keys() - known - DEPRECATED_ALIASES.keys() - _ROS_PARAMETERS):
            if self._node.has_parameter(name):
                continue
            if name.startswith(_QOS_OVERRIDES):
                # rclpy declares those that it takes, with the publisher or the subscription.
                if name.split(".")[1] not in _ROS_TOPICS:
                    warn(
                        f"parameter '{name}' has no effect here; fix: for a camera's images set "
                        "`qos_reliability` and `qos_depth`"
                    )
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            warn(
                f"parameter '{name}' is set for this node, but no node here has it{hint} "
                f"(docs/parameters.md lists them)"
            )

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changed = [each for each in parameters if each.name in self._options]
        plain = dict(self._plain)
        try:
            for parameter in changed:
                option = self._options[parameter.name]
                if option.applies is Applies.BY_NODE and not self._publishing:
                    raise ConfigurationError(
                        ("a new value for ", option),
                        expected="none: the node itself sets this parameter",
                        fix="leave it out",
                    )
                plain[parameter.name] = option.plain(parameter.value)
            new = self._make(plain)
            applies = {self._options[each.name].applies for each in changed}
            if Applies.AT_ONCE in applies:
                self._on_change(new)
        except YoloxTrtError as error:
            return SetParametersResult(successful=False, reason=error_text(error))
        self._plain, self.current = plain, new
        names = sorted(each.name for each in changed)
        later = [name for name in names if self._options[name].applies is Applies.AT_CONFIGURE]
        if later:
            # rclpy does not hand the reason of a success on.
            self._node.get_logger().info(
                f"{', '.join(later)}: the change applies at the next configure"
            )
        return SetParametersResult(successful=True)
