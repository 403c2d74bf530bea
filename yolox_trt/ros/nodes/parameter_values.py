# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Plain values of parameters -> typed ones. Errors leave the parameter's name to its Option."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from yolox_trt.compiler.int8.options import CalibrateOptions
from yolox_trt.core.device import AUTO, Device
from yolox_trt.core.errors import ConfigurationError, Message
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.option import options_of, parse_path
from yolox_trt.core.roi import Roi
from yolox_trt.executor.stream_config import device_or_auto

#: Values of Autoware's calibration_algorithm -> ours.
_AUTOWARE_ALGORITHMS = {
    "Entropy": "entropy",
    "MinMax": "max",
    **dict.fromkeys(("Legacy", "Percentile"), "percentile"),
}

#: A topic's name as ROS 2 takes it, where the substitutions of _SUBSTITUTION stand for a letter.
_TOPIC = re.compile(r"(?:~?/)?[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*")
_SUBSTITUTION = re.compile(r"\{(?:node|ns|namespace)\}")


def parse_devices(names: Iterable[str]) -> tuple[Device | None, ...]:
    """Read the names of Devices; None stands for `auto`, and for no name at all.

    Raises:
        ConfigurationError: neither `auto` nor a device's name.
    """
    devices = map(device_or_auto, names)
    return tuple(None if each == AUTO else Device.parse(each) for each in devices) or (None,)


def parse_calibration_algorithm(text: str) -> str:
    """Read the name of a calibration algorithm, ours or Autoware's.

    Raises:
        ConfigurationError: an unknown one.
    """
    name = _AUTOWARE_ALGORITHMS.get(text, text)
    parse = options_of(CalibrateOptions)["algorithm"].parse
    assert parse is not None
    return str(parse(name))


def parse_folders(names: Iterable[str]) -> tuple[Path, ...]:
    """Read names of folders, absolute or below the home folder (~).

    Raises:
        ConfigurationError: one is neither.
    """
    folders = tuple(map(parse_path, names))
    for folder in folders:
        if not folder.is_absolute():
            raise ConfigurationError(
                f"folder '{folder}'", expected="an absolute path, such as /opt/models"
            )
    return folders


def parse_computer(name: str) -> str:
    """Read the name of a computer, a part of a topic's name; "" for none.

    Raises:
        ConfigurationError: ROS 2 would not take it.
    """
    if name and not (name.isidentifier() and name.isascii()):
        raise ConfigurationError(
            f"computer '{name}'",
            expected="letters, digits and underscores, no digit first, such as orin_a",
        )
    return name


def parse_roi(values: Sequence[int]) -> Roi | None:
    """Read [x, y, width, height] in source pixels; [] or four zeros for None.

    Raises:
        ConfigurationError: another number of values, or no rectangle.
    """
    if not any(values):
        return None
    if len(values) != 4:
        raise ConfigurationError(
            f"roi = {list(values)}",
            expected="[x, y, width, height] in pixels, or [] for the whole image",
        )
    return Roi(*values)


def check_topic(text: str, *, fix: Message = "") -> str:
    """Check a topic's name (https://design.ros2.org/articles/topic_and_service_names.html).

    Args:
        text: absolute, relative or below the node (~/); returned as it is.
        fix: what mends it, where that is no Option's matter.

    Raises:
        ConfigurationError: ROS 2 would not take it.
    """
    if not _TOPIC.fullmatch(_SUBSTITUTION.sub("x", text)):
        raise ConfigurationError(
            f"topic name '{text}'",
            expected="letters, digits and underscores between single slashes, such as "
            "/front/image_raw or ~/image_raw; no part begins with a digit; of substitutions "
            "{node}, {ns} and {namespace}",
            fix=fix,
        )
    return text


def parse_node_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of nodes, each of which may be given once.

    Raises:
        ConfigurationError: ROS 2 would not take one, it is given twice, or they are too many.
    """
    if len(names) > LIMITS.cameras:
        raise ConfigurationError(
            f"{len(names)} cameras",
            expected=f"{LIMITS.cameras} at most",
            fix="start further processes for the others",
        )
    longest = LIMITS.node_name_characters
    for name in names:
        well = name.isidentifier() and name.isascii() and len(name) <= longest
        if not well or names.count(name) > 1:
            raise ConfigurationError(
                f"node name '{clean_text(name, longest)}'",
                expected="letters, digits and underscores, not starting with a digit, each once, "
                f"{longest} characters at most",
            )
    return tuple(names)
