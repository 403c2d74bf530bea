# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""StreamConfig: how one camera's frames are queued, ordered and placed."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.postprocess_options import PostprocessOptions


class Overflow(enum.Enum):
    """What happens to a frame that finds its queue full."""

    DROP_OLDEST = "drop_oldest"
    """The oldest waiting frame makes room: the newest wins."""
    DROP_NEWEST = "drop_newest"
    """The arriving frame is refused."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Configuration of one Stream; every attribute but `id` may change at run time.

    Attributes:
        id: name of the stream, unique in an executor; Frame.stream_id refers to it.
        model: name of the model that serves it. A model's name stands for one accuracy: builds
            of one network that differ in precision carry different names.
        device: "auto", or the name of the Device that it prefers (gpu, gpu:1, dla0, cpu). With
            any policy a named device serves the stream for as long as it is in service.
        queue_depth: waiting frames, at least 1. The frame inside a detector does not count.
        overflow: what happens to a frame that finds the queue full (Overflow or its value).
        stale_after: age in seconds since arrival beyond which a waiting frame is dropped before
            work is spent on it; 0 = never.
        priority: streams with a higher number are served first.
        weight: share within a priority when frames wait for one device, at least 1.
        max_rate: most frames a second that are accepted; 0 = no limit.
        deadline: seconds from arrival to result; orders frames within a priority (earliest
            first), and results that come later are counted. It drops nothing (see
            `stale_after`). 0 = none.
        expected_rate: frames a second that the balanced policy reckons with until it has
            measured the stream; 0 = unknown (30 Hz is assumed, or max_rate if lower).
        enabled: whether frames are accepted.
        allow_model_change: whether a device with another model (another accuracy) may serve the
            stream when none with its own model is in service.
        options: thresholds of decode and NMS.
    """

    id: str
    model: str = "default"
    device: str = "auto"
    queue_depth: int = 1
    overflow: Overflow | str = Overflow.DROP_OLDEST
    stale_after: float = 0.0
    priority: int = 0
    weight: int = 1
    max_rate: float = 0.0
    deadline: float = 0.0
    expected_rate: float = 0.0
    enabled: bool = True
    allow_model_change: bool = False
    options: PostprocessOptions = field(default_factory=PostprocessOptions)

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigurationError("a stream without an id", expected="a name", fix="set `id`")
        try:
            object.__setattr__(self, "overflow", Overflow(self.overflow))
        except ValueError:
            raise ConfigurationError(
                f"overflow = '{self.overflow}' (stream {self.id})",
                expected="drop_oldest or drop_newest",
                fix="set `overflow`",
            ) from None
        for name in ("queue_depth", "weight"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise ConfigurationError(
                    f"{name} = {value!r} (stream {self.id})",
                    expected="a whole number of at least 1",
                    fix=f"set `{name}`",
                )
        if not _is_whole(self.priority):
            raise ConfigurationError(
                f"priority = {self.priority!r} (stream {self.id})",
                expected="a whole number; higher goes first",
                fix="set `priority`",
            )
        for name in ("enabled", "allow_model_change"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ConfigurationError(
                    f"{name} = {value!r} (stream {self.id})",
                    expected="true or false",
                    fix=f"set `{name}`",
                )
        for name in ("stale_after", "max_rate", "deadline", "expected_rate"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value) and value >= 0.0):
                raise ConfigurationError(
                    f"{name} = {value!r} (stream {self.id})",
                    expected="a number of at least 0",
                    fix=f"set `{name}`",
                )
        if self.device != "auto":
            Device.parse(self.device)

    @property
    def pinned_device(self) -> Device | None:
        """The Device that `device` names, None for "auto"."""
        return None if self.device == "auto" else Device.parse(self.device)

    @property
    def assumed_rate(self) -> float:
        """Frames a second to reckon with before the stream is measured, in Hz."""
        rate = self.expected_rate or 30.0
        return min(rate, self.max_rate) if self.max_rate else rate


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
