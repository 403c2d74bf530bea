# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""NodeParameters: declares Options as a node's parameters and keeps their values as a struct."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError, parts_of
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.option import Applies, Kind, Option, parse_path
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.nodes.autoware_parameters import (
    AUTOWARE_ONLY,
    AUTOWARE_ONLY_PREFIX,
    DEPRECATED_ALIASES,
    SOURCES,
    values_behind,
)

T = TypeVar("T")

#: Names that ROS 2 itself gives to every node, and their beginnings.
_ROS_PARAMETERS = {"use_sim_time", "start_type_description_service"}
_QOS_OVERRIDES = "qos_overrides."
#: Topics of ROS 2 itself, whose QoS a `/**` section may override for nodes of other kinds.
_ROS_TOPICS = ("/clock", "/parameter_events", "/rosout")


def descriptor(option: Option, *, read_only: bool) -> ParameterDescriptor:
    """Return the ROS descriptor of an option; rclpy adds the type."""
    unit = f" Unit: {option.unit}." if option.unit else ""
    applies = Applies.READ_ONLY if read_only else option.applies
    message = ParameterDescriptor(
        name=option.name,
        description=f"{option.help}{unit} Changes apply: {applies.value}.",
        additional_constraints=option.range_text,
        read_only=read_only,
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


def check_ros_parameters(overrides: Iterable[Parameter]) -> None:
    """Refuse values that rclpy would, in the middle of making a node: it would be left behind.

    Raises:
        ConfigurationError: a parameter that ROS 2 gives to every node, and no boolean.
    """
    for each in overrides:
        if each.name in _ROS_PARAMETERS and each.type_ is not Parameter.Type.BOOL:
            raise ConfigurationError(
                f"{each.name} = {clean_text(repr(each.value))}", expected="true or false"
            )


def _check_length(option: Option, value: Any) -> None:
    """Raise ConfigurationError for a value of a message that would take long to look at."""
    entries = [value] if isinstance(value, str) else value if hasattr(value, "__len__") else []
    longest = max((len(each) for each in entries if isinstance(each, str)), default=0)
    if len(entries) > LIMITS.parameter_entries or longest > LIMITS.parameter_characters:
        raise ConfigurationError(
            (f"{len(entries)} entries of up to {longest} characters for ", option),
            expected=f"at most {LIMITS.parameter_entries} of {LIMITS.parameter_characters}",
            fix=("set ", option, " to less"),
        )


def _resolved(folders: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(folder.resolve() for folder in folders)


def unused_qos_overrides(nodes: Sequence[Node]) -> list[str]:
    """Return the overrides of QoS that none of the nodes has taken.

    rclpy declares those that it takes, with the publisher or the subscription.
    """
    given = {name for node in nodes for name in overrides_of(node)}
    return sorted(
        name
        for name in given
        if name.startswith(_QOS_OVERRIDES)
        and name.split(".")[1] not in _ROS_TOPICS
        and not any(node.has_parameter(name) for node in nodes)
    )


@dataclass(frozen=True)
class ProcessParameters:
    """What the nodes of a process have in common.

    Attributes:
        folders: the folders below which parameters that name files may be changed at run time, or
            named in a message; without any they are read-only.
        sources: parameter of SOURCES -> its value, where a node does not say.
        told: what has been told in the log once, for all nodes.
    """

    folders: Sequence[Path] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)


class TypedParameters:
    """Goes before rclpy's Node: what sets its parameters by a service passes NodeParameters first.

    Attributes:
        parameters: of the node.
    """

    parameters: NodeParameters[Any]

    def create_service(self, srv_type: type, srv_name: str, callback: Any, **settings: Any) -> Any:
        """Create a service, as rclpy.Node does.

        rclpy's own ones that set parameters raise where a value is of a type that ROS 2 does not
        have: none of the request's parameters would be answered.
        """
        own = {SetParameters: self._set_each, SetParametersAtomically: self._set_all}
        return super().create_service(  # type: ignore[misc]
            srv_type, srv_name, own.get(srv_type, callback), **settings
        )

    def _set_each(self, request: Any, response: Any) -> Any:
        if len(request.parameters) > LIMITS.parameter_entries:  # one answer each, of one look
            response.results = [self._set(request.parameters)] * len(request.parameters)
            return response
        response.results = [self._set([each]) for each in request.parameters]
        return response

    def _set_all(self, request: Any, response: Any) -> Any:
        response.result = self._set(request.parameters)
        return response

    def _set(self, messages: Sequence[Any]) -> SetParametersResult:
        if len(messages) > LIMITS.parameter_entries:
            error = ConfigurationError(
                f"{len(messages)} parameters in a request",
                expected=f"at most {LIMITS.parameter_entries}",
            )
            return SetParametersResult(successful=False, reason=error_text(error))
        parameters = []
        for each in messages:
            try:
                parameters.append(Parameter.from_parameter_msg(each))
            except ValueError:
                error = ConfigurationError(
                    f"a value of the type {each.value.type} for the parameter "
                    f"'{clean_text(each.name, LIMITS.name_characters)}'",
                    expected="a type of rcl_interfaces/msg/ParameterType",
                )
                return SetParametersResult(successful=False, reason=error_text(error))
        try:
            return self.set_parameters_atomically(parameters)
        except Exception as other:  # whatever it is, the request gets its answer
            self.get_logger().error(traceback.format_exc())  # type: ignore[attr-defined]
            return SetParametersResult(successful=False, reason=error_text(other))

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, all or none, as rclpy.Node does; the parameter services come here."""
        try:
            accepted = self.parameters.accept(parameter_list)
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=error_text(error))
        if not accepted:
            return SetParametersResult(successful=True)
        result: SetParametersResult = super().set_parameters_atomically(  # type: ignore[misc]
            accepted
        )
        return result


class NodeParameters(Generic[T]):
    """The parameters of one node: declared with descriptors, checked, kept as a typed struct.

    Their types are those of the options: a value keeps the type that it was declared with, and no
    parameter can be deleted. Those that name files are read-only, or stay below named folders.

    Args:
        node: the node to declare on, a TypedParameters too.
        options: what to declare, by name.
        make: makes the struct of all plain values by name; raises ConfigurationError.
        foreign: names of the process's other parameters; a `/**` section of a YAML file gives
            them to every node, so they are not reported as unknown.
        process: what the node has in common with the others; None for the first one, whose own
            parameter `file_folders` says which folders there are.
        sent: names of overrides that came in a message, which are bound to the folders too.
        on_change: called in the executor's thread with the new struct when a parameter changes,
            before that is answered; a YoloxTrtError from it refuses the change.

    Attributes:
        current: the struct.
        process: for the process's other nodes.

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
        process: ProcessParameters | None = None,
        sent: Collection[str] = (),
        on_change: Callable[[T], None],
    ) -> None:
        self._node = node
        self._options = options
        self._make = make
        self._on_change = on_change
        self._overrides = overrides_of(node)
        self.process = process or ProcessParameters()
        self._plain: dict[str, Any] = {}
        self._folders = _resolved(self.process.folders)
        try:
            if len(sent) > LIMITS.parameter_entries:
                raise ConfigurationError(
                    f"{len(sent)} parameters", expected=f"at most {LIMITS.parameter_entries}"
                )
            for name in sent:  # before any file is read
                target = DEPRECATED_ALIASES[name][0] if name in DEPRECATED_ALIASES else name
                if target in options:
                    _check_length(options[target], self._overrides[name])
                    if isinstance(self._overrides[name], str):
                        self._check_place(options[target], self._overrides[name])
            overrides = {**self.process.sources, **self._overrides}
            behind = values_behind(*(overrides.get(name, "") for name in SOURCES))
            self._report_unknown(behind | self._overrides, {*options, *foreign})
            given = behind | overrides
            overrides = self._aliased(behind, given) | self._aliased(overrides, given)
            for name, option in options.items():
                by_node = option.applies is Applies.BY_NODE
                given = option.default if by_node else overrides.get(name, option.default)
                self._plain[name] = option.plain(given)
            self.current = make(self._plain)
            if process is None:
                folders = [parse_path(each) for each in self._plain.get("file_folders", ())]
                sources = {name: self._plain[name] for name in SOURCES if name in options}
                self.process = ProcessParameters(folders, sources, self.process.told)
                self._folders = _resolved(folders)
        except ConfigurationError as error:
            found, expected, fix = error.parts
            found = (f"node {node.get_name()}: ", *parts_of(found))
            raise ConfigurationError(found, expected=expected, fix=fix) from error
        for option in options.values():
            self._declare(option)
        node.add_on_set_parameters_callback(self._on_set)

    def publish(self, name: str, value: Any) -> None:
        """Set a parameter to what the node makes of it."""
        by_node = self._options[name].applies is Applies.BY_NODE
        if by_node and self._overrides.get(name, value) != value:
            self._node.get_logger().warning(
                f"parameter '{name}' is ignored: the node itself sets it"
            )
        # Not by set_parameters_atomically: this is no request from outside.
        self._node.set_parameters([self._message(name, value)])

    def accept(self, parameters: Iterable[Parameter]) -> list[Parameter]:
        """Return a request's parameters in their types, but for those that change nothing.

        Raises:
            ConfigurationError: one is unknown, of the wrong type, out of range, deleted, or not to
                be changed.
        """
        accepted = []
        for parameter in parameters:
            option = self._options.get(parameter.name)
            if option is None:
                if not self._node.has_parameter(parameter.name):
                    raise ConfigurationError.unknown(
                        "parameter", parameter.name, self._options, fix="see docs/parameters.md"
                    )
                # One that ROS 2 itself has declared. A dump holds the read-only ones too.
                if parameter.value != self._node.get_parameter(parameter.name).value:
                    accepted.append(parameter)
                continue
            if parameter.type_ is Parameter.Type.NOT_SET:
                raise ConfigurationError(
                    ("no value for ", option),
                    expected="one: it cannot be deleted",
                    fix=("set ", option, " to its default"),
                )
            _check_length(option, parameter.value)
            value = option.plain(parameter.value)
            if value == self._plain[option.name]:
                continue
            if option.applies is Applies.BY_NODE:
                raise ConfigurationError(
                    ("a new value for ", option),
                    expected="none: the node itself sets this parameter",
                    fix="leave it out",
                )
            if option.applies is Applies.READ_ONLY:
                raise ConfigurationError(
                    ("a new value for ", option),
                    expected="none: it is read-only after the start",
                    fix=("set ", option, " in the parameter file, and start again"),
                )
            self._check_place(option, value)
            accepted.append(self._message(option.name, value))
        return accepted

    def _check_place(self, option: Option, value: str) -> None:
        """Raise ConfigurationError if an option's file is not where a message may name one."""
        if not option.file or not value:
            return
        # Whether the file is there is not told of one that may not be named.
        path = parse_path(value).resolve() if self._folders else Path()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            below = " or ".join(map(str, self._folders))
            raise ConfigurationError(
                ("a file for ", option, f", '{value}'"),
                expected=f"one below {below}" if below else "none: it is read-only after the start",
                fix=(
                    *("set ", option, " in the parameter file, and start again; or name a folder "),
                    "in the parameter `file_folders` of multi_camera",
                ),
            )

    def _declare(self, option: Option) -> None:
        message = self._message(option.name, self._plain[option.name])
        fixed = option.applies is Applies.READ_ONLY or (option.file and not self._folders)
        about = descriptor(option, read_only=fixed)
        if message.value != []:
            self._node.declare_parameter(option.name, message.value, about, ignore_override=True)
            return
        # rclpy takes the type of the value, and an empty list has none: the type is declared, the
        # value set, and what is read-only is made so at last.
        about.read_only = False
        self._node.declare_parameter(option.name, message.type_, about, ignore_override=True)
        self._node.set_parameters([message])
        if fixed:
            about = descriptor(option, read_only=True)
            about.type = message.type_.value
            self._node.set_descriptor(option.name, about)

    def _message(self, name: str, value: Any) -> Parameter:
        return Parameter(name, Parameter.Type[self._options[name].kind.name], value)

    def _aliased(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return values with those of other names under ours; our own name wins.

        Args:
            values: by name.
            given: all that the node was given, which a value may depend on.
        """
        resolved = dict(values)
        # In the table's order, so that dla_core_id, which says more than gpu_id, comes last.
        for old, (new, convert) in DEPRECATED_ALIASES.items():
            if old not in values or new not in self._options:
                continue
            if new in values:
                self._tell(f"parameter '{old}' is ignored: '{new}', its name here, is set as well")
                continue
            try:
                value = convert(values[old], given)
            except (TypeError, ValueError, OverflowError) as error:  # such as `gpu_id: .inf`
                raise ConfigurationError(
                    f"{old} = {values[old]!r}",
                    expected=("a value that stands for ", self._options[new]),
                    fix=("set ", self._options[new]),
                ) from error
            if value is not None:
                resolved[new] = value
        return resolved

    def _tell(self, line: str) -> None:
        """Warn of something, once for all nodes of the process."""
        if line not in self.process.told:
            self.process.told.add(line)
            self._node.get_logger().warning(line)

    def _report_unknown(self, given: Mapping[str, Any], known: set[str]) -> None:
        for name in sorted(given.keys() - known - DEPRECATED_ALIASES.keys() - _ROS_PARAMETERS):
            if self._node.has_parameter(name) or name.startswith(_QOS_OVERRIDES):
                continue
            if name.startswith(AUTOWARE_ONLY_PREFIX):
                self._tell(f"parameters '{AUTOWARE_ONLY_PREFIX}*' of Autoware mean nothing here")
            elif name in AUTOWARE_ONLY:
                if given[name] != AUTOWARE_ONLY[name]:
                    self._tell(f"parameter '{name}' of Autoware means nothing here")
            else:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                shown = clean_text(name, LIMITS.name_characters)  # it may have come in a message
                self._node.get_logger().warning(
                    f"parameter '{shown}' is set for this node, but no node here has it{hint} "
                    f"(docs/parameters.md lists them)"
                )

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changed = [each for each in parameters if each.name in self._options]
        plain = dict(self._plain)
        try:
            for each in changed:
                plain[each.name] = self._options[each.name].plain(each.value)
            new = self._make(plain)
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
