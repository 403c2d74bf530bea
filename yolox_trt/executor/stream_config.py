# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""StreamConfig: how one camera's frames are queued, ordered and placed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from yolox_trt.core.device import AUTO, Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import Applies, OptionGroup, option
from yolox_trt.core.postprocess_options import PostprocessOptions


def device_or_auto(text: str) -> str:
    """Return a Device's name as the package writes it, or "auto" (for "", too).

    Raises:
        ConfigurationError: neither "auto" nor a Device's name.
    """
    device = Device.parse_or_auto(text or AUTO)
    return AUTO if device is None else str(device)


def _option(default: Any, **rest: Any) -> Any:
    return option(default, applies=Applies.AT_ONCE, **rest)


@dataclass(frozen=True, kw_only=True)
class StreamConfig(OptionGroup):
    """Configuration of one Stream; every attribute but `id` may change at run time.

    Attributes:
        id: name of the stream, unique in an executor; Frame.stream_id refers to it.
        model: name of the model that serves it. A model's name stands for one accuracy: builds
            of one network that differ in precision carry different names.
        options: thresholds of decode and NMS.
    """

    id: str
    model: str = "default"
    enabled: bool = _option(True, help="Whether the camera's images are received and processed.")
    queue_depth: int = _option(
        1,
        minimum=1,
        maximum=1000,
        unit="images",
        help="Images that wait for a device at most; the one that a device works on does not "
        "count. 1: only the newest waits.",
    )
    overflow: str = _option(
        "drop_oldest",
        choices=("drop_oldest", "drop_newest"),
        help="Which image is dropped when the queue is full.",
    )
    max_rate: float = _option(
        0.0,
        minimum=0.0,
        maximum=1000.0,
        unit="Hz",
        help="Images processed a second at most; 0 for all. The others are counted.",
    )
    stale_after: float = _option(
        0.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        help="An image that is older is dropped before work is spent on it, and its result counts "
        "as late; 0 for never. The age counts from its stamp where that can be judged, else from "
        "its arrival.",
    )
    withhold_late: bool = _option(
        False,
        help="Whether a result that is older than `stale_after` is dropped instead of published; "
        "it is counted in any case.",
    )
    deadline: float = _option(
        0.0,
        minimum=0.0,
        maximum=3600.0,
        unit="s",
        help="Time from arrival to result that the camera asks for: images with the earliest "
        "deadline go first within a priority, and later results are counted. It drops nothing. "
        "0 for none.",
    )
    expected_rate: float = _option(
        0.0,
        minimum=0.0,
        maximum=1000.0,
        unit="Hz",
        help="Rate that the placement reckons with until it has measured the camera; 0 for "
        "unknown (30 Hz, or `max_rate` where that is lower).",
    )
    priority: int = _option(
        0, minimum=-100, maximum=100, help="Cameras of a higher priority are served first."
    )
    weight: int = _option(
        1,
        minimum=1,
        maximum=1000,
        help="Share among the cameras of one priority when a device has too much to do.",
    )
    device: str = _option(
        AUTO,
        parse=device_or_auto,
        help="Device that serves the camera for as long as it is in service: gpu, gpu:1, dla0, "
        "dla1, cpu, or auto: the placement policy chooses.",
    )
    allow_model_change: bool = _option(
        False,
        help="Whether the camera may move to a device that runs another model, or the same one in "
        "another precision, when none with its own is in service.",
    )
    options: PostprocessOptions = field(default_factory=PostprocessOptions)

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigurationError("a stream without an id", expected="a name", fix="set `id`")
        super().__post_init__()

    @property
    def pinned_device(self) -> Device | None:
        """The Device that `device` names, None for "auto"."""
        return None if self.device in ("", AUTO) else Device.parse(self.device)

    @property
    def assumed_rate(self) -> float:
        """Frames a second to reckon with before the stream is measured, in Hz."""
        rate = self.expected_rate or 30.0
        return min(rate, self.max_rate) if self.max_rate else rate
