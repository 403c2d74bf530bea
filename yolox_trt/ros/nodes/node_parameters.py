# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NodeParameters: declares a table of ParameterSpecs on a node and keeps their values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.ros.nodes.parameters import (
    DEPRECATED_ALIASES,
    ROS_PARAMETER_PREFIXES,
    ROS_PARAMETERS,
    ROS_TOPICS,
)
from yolox_trt.ros.parameter_spec import Applies, ParameterKind, ParameterSpec

_TYPES = {
    ParameterKind.BOOL: Parameter.Type.BOOL,
    ParameterKind.INTEGER: Parameter.Type.INTEGER,
    ParameterKind.DOUBLE: Parameter.Type.DOUBLE,
    ParameterKind.STRING: Parameter.Type.STRING,
    ParameterKind.INTEGER_ARRAY: Parameter.Type.INTEGER_ARRAY,
    ParameterKind.STRING_ARRAY: Parameter.Type.STRING_ARRAY,
}


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """Return the ROS descriptor of a parameter."""
    message = ParameterDescriptor()
    message.name = spec.name
    unit = f" Unit: {spec.unit}." if spec.unit else ""
    message.description = f"{spec.description}{unit} Changes apply: {spec.applies.value}."
    message.additional_constraints = spec.range_text
    message.read_only = spec.applies is Applies.READ_ONLY
    # The type is checked by ParameterSpec.normalise, which takes an integer for a double; rclpy's
    # own check does not, and an empty list has no type in ROS 2.
    message.dynamic_typing = True
    if spec.minimum is not None and spec.maximum is not None:
        if spec.kind is ParameterKind.INTEGER:
            message.integer_range = [
                IntegerRange(from_value=int(spec.minimum), to_value=int(spec.maximum))
            ]
        elif spec.kind is ParameterKind.DOUBLE:
            message.floating_point_range = [
                FloatingPointRange(from_value=float(spec.minimum), to_value=float(spec.maximum))
            ]
    return message


def overrides_of(node: Node) -> dict[str, Any]:
    """Return what YAML files, launch and `-p` set for a node, by parameter name."""
    # rclpy has no public way to see the overrides of parameters that are not declared, which are
    # just the ones to be reported; the attribute has been there from Foxy to Kilted.
    overrides: Mapping[str, Parameter] = getattr(node, "_parameter_overrides", {})
    return {name: parameter.value for name, parameter in overrides.items()}


class NodeParameters:
    """The parameters of one node: declared with descriptors, checked, kept as plain values.

    Args:
        node: the node to declare on.
        specs: its table.
        foreign: names of the other tables of the process; a `/**` section of a YAML file gives
            them to every node, so they are not reported as unknown.
        on_change: called in the executor's thread with the changed values that apply at once,
            before they are answered; a ConfigurationError from it refuses them.

    Raises:
        ConfigurationError: an override is of the wrong type or out of range.
    """

    def __init__(
        self,
        node: Node,
        specs: Sequence[ParameterSpec],
        *,
        foreign: Iterable[str] = (),
        on_change: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._node = node
        self._specs = {spec.name: spec for spec in specs}
        self._on_change = on_change
        self._values: dict[str, Any] = {}
        self._publishing = False
        overrides = overrides_of(node)
        self._report_unknown(overrides, {*self._specs, *foreign})
        overrides = self._resolve_aliases(overrides)
        for spec in specs:
            given = overrides.get(spec.name, spec.default)
            if spec.applies is Applies.BY_NODE:
                given = spec.default
            try:
                value = spec.normalise(given)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"node {node.get_name()}: {error.found}",
                    expected=error.expected,
                    fix=error.fix,
                ) from error
            self._values[spec.name] = value
            node.declare_parameter(
                spec.name,
                Parameter(spec.name, _TYPES[spec.kind], value).value,
                descriptor(spec),
                ignore_override=True,
            )
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of all values by name."""
        return dict(self._values)

    def publish(self, name: str, value: Any) -> None:
        """Set a parameter that only the node itself may set."""
        self._publishing = True
        try:
            self._node.set_parameters([Parameter(name, _TYPES[self._specs[name].kind], value)])
        finally:
            self._publishing = False

    def _resolve_aliases(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Give Autoware's names to ours, with a warning; our own name wins."""
        resolved = dict(overrides)
        # In the table's order, so that dla_core_id, which says more than gpu_id, comes last.
        for old, (new, convert) in DEPRECATED_ALIASES.items():
            if old not in overrides or new not in self._specs:
                continue
            if new in overrides:
                self._node.get_logger().warning(
                    f"parameter '{old}' is ignored: '{new}', its name here, is set as well"
                )
                continue
            try:
                value = convert(overrides[old])
            except (TypeError, ValueError) as error:
                raise ConfigurationError(
                    f"node {self._node.get_name()}: {old} = {overrides[old]!r}",
                    expected=f"a value that stands for `{new}`",
                    fix=f"set the parameter `{new}`",
                ) from error
            if value is not None:
                resolved[new] = value
            self._node.get_logger().warning(
                f"parameter '{old}' is Autoware's name; set '{new}' instead"
            )
        return resolved

    def _report_unknown(self, overrides: Mapping[str, Any], known: set[str]) -> None:
        accepted = {*known, *DEPRECATED_ALIASES, *ROS_PARAMETERS}
        for name in sorted(overrides):
            if name in accepted or self._node.has_parameter(name):
                continue
            if name.startswith(ROS_PARAMETER_PREFIXES):
                # rclpy declares those that it takes, with the publisher or the subscription.
                if name.split(".")[1] not in ROS_TOPICS:
                    self._node.get_logger().warning(
                        f"parameter '{name}' has no effect here; fix: for a camera's images set "
                        "`qos_reliability` and `qos_depth`"
                    )
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            self._node.get_logger().warning(
                f"parameter '{name}' is set for this node, but no node here has it{hint} "
                f"(docs/parameters.md lists them)"
            )

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changes: dict[str, Any] = {}
        at_once: dict[str, Any] = {}
        try:
            for parameter in parameters:
                spec = self._specs.get(parameter.name)
                if spec is None:
                    continue
                if spec.applies is Applies.BY_NODE and not self._publishing:
                    raise ConfigurationError(
                        f"a new value for {spec.name}",
                        expected="none: the node itself sets this parameter",
                        fix="leave it out",
                    )
                value = spec.normalise(parameter.value)
                changes[spec.name] = value
                if spec.applies is Applies.AT_ONCE:
                    at_once[spec.name] = value
            if at_once and self._on_change is not None:
                self._on_change(at_once)
        except YoloxTrtError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values.update(changes)
        later = sorted(
            name
            for name in changes.keys() - at_once.keys()
            if self._specs[name].applies is Applies.AT_CONFIGURE
        )
        if later:
            # rclpy does not hand the reason of a success on.
            self._node.get_logger().info(
                f"{', '.join(later)}: the change applies at the next configure"
            )
        return SetParametersResult(successful=True)
