# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Plain values of parameters -> typed ones. Errors leave the parameter's name to its Option."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from yolox_trt.core.device import AUTO, Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.roi import Roi
from yolox_trt.executor.stream_config import device_or_auto

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


def check_topic(text: str, *, fix: str = "") -> str:
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
        ConfigurationError: ROS 2 would not take one, or it is given twice.
    """
    for name in names:
        if not name.isidentifier() or not name.isascii() or names.count(name) > 1:
            raise ConfigurationError(
                f"node name '{name}'",
                expected="letters, digits and underscores, not starting with a digit, each once",
            )
    return tuple(names)
