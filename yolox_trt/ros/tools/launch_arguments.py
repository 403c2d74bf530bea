# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Launch arguments -> parameters of multi_camera. Imports neither ROS nor launch."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from yolox_trt.core.documents import parse_yaml
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import read_at_most
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.option import Kind, Option
from yolox_trt.core.shipped_files import shared_folder
from yolox_trt.ros.nodes.parameter_values import parse_node_names
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS, EXECUTOR_OPTIONS

#: Name of the node that owns the devices.
EXECUTOR_NODE = "multi_camera"

#: Launch arguments that are parameters of that node; empty: as in the parameter file.
PARAMETERS = ("model", "cameras", "devices", "engine", "precision", "placement", "autostart")
#: Launch argument -> its help, for those that are no parameter of one node.
_DEVICES_OF = "devices_of"
OTHERS = {
    "config": "Parameter file; empty for none.",
    _DEVICES_OF: 'Devices of single cameras, such as "front:=gpu rear:=dla0".',
    "use_sim_time": "true or false: whether the nodes take their time from /clock.",
    "namespace": "Namespace of all nodes.",
    "log_level": "debug, info, warn, error or fatal.",
}

_TRUTH = {"true": True, "false": False}
_ENVIRONMENT = re.compile(r"\$\(env ([^\s()]+)(?: ([^()]*))?\)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """What the process multi_camera is started with.

    Attributes:
        files: its parameter files; the later one wins.
        overrides: what the arguments give: node, or "/**" for all -> its parameters.
        sections: of the files: node name, or a pattern of names, -> its section.
        cameras: names of the cameras.
        namespace: of all nodes, absolute; "" for the root.
        warnings: a line for each argument or section of the file that reaches no node.
    """

    files: tuple[str, ...]
    overrides: Mapping[str, Mapping[str, Any]]
    sections: Mapping[str, Any]
    cameras: tuple[str, ...]
    namespace: str
    warnings: tuple[str, ...]


def default_values() -> dict[str, str]:
    """Return those of the arguments that are not empty by default."""
    return {"config": str(shared_folder("config") / "multi_camera.yaml"), "log_level": "info"}


def argument_values(arguments: Sequence[str]) -> dict[str, str]:
    """Read NAME:=VALUE, as on a command line.

    Raises:
        ConfigurationError: another form, or a name that is no argument.
    """
    values = {}
    for argument in arguments:
        name, separator, value = argument.partition(":=")
        if not separator or not ("." in name or name in (*PARAMETERS, *OTHERS)):
            raise ConfigurationError(
                f"argument '{argument}'",
                expected=f"NAME:=VALUE, where NAME is {', '.join((*PARAMETERS, *OTHERS))} or "
                "<node>.<parameter>, such as front.score_threshold:=0.5",
                fix="see `yolox_trt up --help`",
            )
        values[name] = value
    return values


def substitute_environment(text: str) -> str:
    """Replace $(env NAME) and $(env NAME default), as ROS 2 launch does.

    Raises:
        ConfigurationError: a variable that is not set, or another substitution.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name not in os.environ and default is None:
            raise ConfigurationError(
                f"$(env {name}), a variable that is not set",
                fix=f"set it, or write $(env {name} default)",
            )
        return os.environ.get(name, default or "")

    text = _ENVIRONMENT.sub(value, text)
    if "$(" in text:
        found = text[text.index("$(") :].partition("\n")[0]
        raise ConfigurationError(
            f"'{found}'",
            expected="$(env NAME) or $(env NAME default)",
            fix="other substitutions need `ros2 launch`",
        )
    return text


def process_settings(
    values: Mapping[str, str],
    *,
    namespace: str | None = None,
    files: Sequence[str] = (),
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    substitute: Callable[[str], str] = substitute_environment,
    strict: bool = False,
) -> ProcessSettings:
    """Make the settings of multi_camera of launch arguments.

    Args:
        values: arguments by name: PARAMETERS, OTHERS and `<node>.<parameter>`.
        namespace: that of the whole process, where another one goes before `namespace`.
        files: parameter files to be read before `config`.
        sections: node, or "/**" for all -> parameters that go before those of the files, and behind
            those of the arguments.
        substitute: replaces the $(...) of the parameter file.
        strict: whether an argument x.y is refused where y is no parameter of a camera; else it is
            left alone, as a parent launch file may have such arguments.

    Raises:
        ConfigurationError: a parameter that multi_camera does not have, a bad value or name, or a
            bad file.
    """
    space = check_namespace(values.get("namespace", "") if namespace is None else namespace)
    read = [read_config(path, substitute) for path in (*files, values.get("config", "")) if path]
    found = {name: section for _, each in read for name, section in each.items()}
    given = {node: dict(parameters) for node, parameters in (sections or {}).items()}
    for node, parameters in _parameters(values).items():
        given.setdefault(node, {}).update(parameters)
    cameras = _cameras(given, found)
    known = {*cameras, *_cameras({}, found)}
    warnings = []
    for name, value in values.items():
        node, dot, parameter = name.partition(".")
        options = EXECUTOR_OPTIONS if node == EXECUTOR_NODE else CAMERA_OPTIONS
        if dot and parameter not in options:
            wrong = _unknown(node, parameter)
            if strict or node == EXECUTOR_NODE:
                raise wrong
            if node in known:  # it may be an argument of the camera's driver
                warnings.append(str(wrong))
        if not dot or parameter not in options:
            continue
        if node != EXECUTOR_NODE:
            parse_node_names([node])
        given.setdefault(node, {})[parameter] = plain_value(options[parameter], value)
    warnings += _unknown_cameras(given, cameras) + unreached_sections(found, space, known)
    paths = [path for path, _ in read]
    if given:
        paths.append(file_in_memory(parameter_text(given)))
    return ProcessSettings(
        files=tuple(paths),
        overrides=given,
        sections=found,
        cameras=tuple(cameras),
        namespace=space,
        warnings=tuple(warnings),
    )


def computer_sections(
    values: Mapping[str, str], substitute: Callable[[str], str] = substitute_environment
) -> dict[str, dict[str, Any]]:
    """Return the parameters of a process that shares its cameras with another computer's.

    Its nodes are in a namespace of their own; the outputs are named as if there was one computer.

    Args:
        values: arguments by name; `computer` is this one's name.
        substitute: replaces the $(...) of the parameter file.

    Raises:
        ConfigurationError: no name of a computer; see also process_settings.
    """
    computer = EXECUTOR_OPTIONS["computer"].plain(values["computer"])
    if not computer:  # it would serve every camera, beside the other computer
        raise ConfigurationError(
            "computer ''",
            expected="this computer's name, such as orin_a",
            fix="computer:=NAME (yolox_trt up: --computer NAME), as in the cameras' `primary` or "
            "`standby`",
        )
    space = f"/{computer}"
    settings = process_settings(values, namespace=space, substitute=substitute)
    sections: dict[str, dict[str, Any]] = {EXECUTOR_NODE: {"computer": computer}}
    for camera in settings.cameras:
        own = parameters_of(settings, f"{space}/{camera}")
        topics = (name for name in CAMERA_OPTIONS if name.endswith("_topic"))
        sections[camera] = {
            name: f"/{camera}{default[1:]}"
            for name in topics
            if (default := str(own.get(name, CAMERA_OPTIONS[name].default))).startswith("~/")
        }
    return sections


def _parameters(values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what the arguments without a dot give: node -> parameters."""
    given: dict[str, dict[str, Any]] = {}
    for name in PARAMETERS:
        if values.get(name):
            value = plain_value(EXECUTOR_OPTIONS[name], values[name])
            given.setdefault(EXECUTOR_NODE, {})[name] = value
    if text := values.get("use_sim_time", ""):
        if text.lower() not in _TRUTH:
            raise ConfigurationError(f"use_sim_time:={text}", expected="true or false")
        given["/**"] = {"use_sim_time": _TRUTH[text.lower()]}
    for pair in values.get(_DEVICES_OF, "").split():
        camera, separator, device = pair.partition(":=")
        if not separator:
            raise ConfigurationError(
                f"{_DEVICES_OF}:='{values[_DEVICES_OF]}'",
                expected='camera:=device, separated by spaces, such as "front:=gpu rear:=dla0"',
            )
        parse_node_names([camera])
        value = plain_value(CAMERA_OPTIONS["device"], device)
        given.setdefault(camera, {})["device"] = value
    return given


def read_config(
    path: str, substitute: Callable[[str], str] = substitute_environment
) -> tuple[str, dict[str, Any]]:
    """Read a ROS parameter file before the process does, whose own errors are hard to read.

    Returns:
        The file that the process reads, and node name, or a pattern of names, -> its section.

    Raises:
        ConfigurationError: no file, no YAML, or not node: ros__parameters: name: value.
    """
    with ConfigurationError.instead_of(
        (OSError, ValueError),
        f"parameter file '{path}' that cannot be read",
        expected="a YAML file such as config/multi_camera.yaml",
        fix="check the path, and mend the line that is named or the one before",
    ):
        text = read_at_most(path, LIMITS.yaml_bytes).decode()
        read = path
        if "$(" in text:
            text = substitute(text)
            read = file_in_memory(text)
        sections = parse_yaml(text)
    sections = {} if sections is None else sections
    found = dict(_nodes(sections)) if isinstance(sections, dict) else {str(sections): None}
    if wrong := [name for name, parameters in found.items() if parameters is None]:
        raise ConfigurationError(
            f"parameter file '{path}' with {wrong[0]!r} that holds no ros__parameters",
            expected="node name: ros__parameters: name: value",
            fix="see config/multi_camera.yaml",
        )
    return read, dict(sections)


def _nodes(sections: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names of nodes, namespaces put before them, and their parameters.

    A namespace may hold nodes in its turn; None stands for a section that holds neither.
    """
    for name, section in sections.items():
        full = f"{above}/{str(name).strip('/')}"
        if not isinstance(name, str) or not isinstance(section, dict) or not section:
            yield full, None
        elif "ros__parameters" in section:
            parameters = section["ros__parameters"] or {}
            yield full, parameters if isinstance(parameters, dict) else None
        else:
            yield from _nodes(section, full)


def check_namespace(text: str) -> str:
    """Return a namespace in its absolute form; "" for the root.

    Raises:
        ConfigurationError: ROS 2 would not take it.
    """
    parts = text.strip("/").split("/") if text.strip("/") else []
    if not all(part.isidentifier() and part.isascii() for part in parts):
        raise ConfigurationError(
            f"namespace '{text}'",
            expected="letters, digits and underscores between single slashes, such as /car/left; "
            "no part begins with a digit",
        )
    return "".join(f"/{part}" for part in parts)


def _cameras(given: Mapping[str, Mapping[str, Any]], sections: Mapping[str, Any]) -> list[str]:
    """Return the names of the cameras that the process will have."""
    cameras = given.get(EXECUTOR_NODE, {}).get("cameras")
    if cameras is None:
        cameras = EXECUTOR_OPTIONS["cameras"].default
        for name, parameters in _nodes(sections):
            if name.rpartition("/")[2] in (EXECUTOR_NODE, "*", "**"):
                cameras = EXECUTOR_OPTIONS["cameras"].plain(parameters.get("cameras", cameras))
    return list(cameras)


def _unknown_cameras(given: Mapping[str, Mapping[str, Any]], cameras: Sequence[str]) -> list[str]:
    """Return a line for each camera that arguments name and the process will not have.

    They are reported and not refused: a camera may be added at run time.
    """
    return [
        f"no camera '{node}' in the parameter `cameras`; expected {', '.join(cameras) or 'none'}; "
        f"fix: the argument's name, or cameras:={','.join([*cameras, node])}"
        for node in given
        if node not in (EXECUTOR_NODE, "/**", *cameras)
    ]


def _pattern(name: str) -> str:
    """Return a regular expression for a section's name: /* is one part of a name, /** any."""
    parts = name.strip("/").split("/")
    return "".join(
        {"**": "(/\\w+)*", "*": "/\\w+"}.get(part, "/" + re.escape(part))
        for part, before in zip(parts, ["", *parts], strict=False)
        if not part == before == "**"  # /**/** is any part, too, in very many ways
    )


def parameters_of(settings: ProcessSettings, node: str) -> dict[str, Any]:
    """Return the parameters that a node gets from files and arguments.

    Args:
        settings: of its process.
        node: its whole name, such as /car/front.
    """
    given: dict[str, Any] = {}
    for name, parameters in _nodes(settings.sections):
        if re.fullmatch(_pattern(name), node):
            given |= parameters
    own = node.rpartition("/")[2]
    return given | {**settings.overrides.get("/**", {}), **settings.overrides.get(own, {})}


def unreached_sections(sections: Mapping[str, Any], namespace: str, cameras: set[str]) -> list[str]:
    """Return a line for each section of a parameter file that should reach a node, and does not.

    ROS 2 leaves such a section out without a word, and the process runs with the defaults. Sections
    of nodes that have nothing to do with cameras are left alone.

    Args:
        sections: of the file.
        namespace: of the nodes, absolute; "" for the root.
        cameras: their names.
    """
    lines = []
    for name, parameters in _nodes(sections):
        node = name.rpartition("/")[2]
        if "*" in node:
            continue
        if node not in (EXECUTOR_NODE, *cameras):
            if parameters.keys() & CAMERA_OPTIONS:
                lines.append(
                    f"section '{name}' of the parameter file is of no camera; expected "
                    f"{', '.join(sorted(cameras))} or {EXECUTOR_NODE}; fix: the section's name"
                )
        elif not re.fullmatch(_pattern(name), f"{namespace}/{node}"):
            lines.append(
                f"section '{name}' of the parameter file reaches no node in the namespace "
                f"'{namespace or '/'}'; expected {namespace}/{node}, or /**/{node} for every "
                "namespace; fix: the section's name"
            )
    return lines


def parameter_text(overrides: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a ROS parameter file that reaches the nodes in any namespace.

    Args:
        overrides: node name, or "/**" for every node -> its parameters.
    """
    sections = {
        node if node.startswith("/") else f"/**/{node}": {"ros__parameters": dict(values)}
        for node, values in overrides.items()
    }
    return yaml.safe_dump(sections)


def file_in_memory(text: str) -> str:
    """Make a file that processes of this user can read until this one ends, which removes it.

    A process that this one becomes (execve) can read it, too.

    Returns:
        Its path.
    """
    descriptor = os.memfd_create("yolox_trt_parameters", 0)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def plain_value(option: Option, text: str) -> Any:
    """Return a launch argument's text as the value of a parameter; arrays are [a, b] or a,b.

    Raises:
        ConfigurationError: the parameter does not take it.
    """
    return option.plain(_value(option, text))


def _unknown(node: str, parameter: str) -> ConfigurationError:
    options = EXECUTOR_OPTIONS if node == EXECUTOR_NODE else CAMERA_OPTIONS
    known = [f"{node}.{name}" for name in options]
    found = f"{node}.{parameter}"
    fix = "see docs/parameters.md"
    return ConfigurationError.unknown("launch argument", found, known, fix=fix)


def _value(option: Option, text: str) -> Any:
    """Return a launch argument's text as a value; arrays are written [a, b] or a,b."""
    if option.kind is Kind.STRING:
        return text
    if option.kind is Kind.STRING_ARRAY:
        # Entries such as person:0.5 would become mappings in YAML.
        items = (item.strip().strip("'\"") for item in text.strip().strip("[]").split(","))
        return [item for item in items if item]
    if option.kind is Kind.INTEGER_ARRAY and not text.startswith("["):
        text = f"[{text}]"
    try:
        return parse_yaml(text)
    except ValueError:
        return text
