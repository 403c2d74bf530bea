# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Events: what happened to devices and streams, and what the log and the timeline say of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from yolox_trt.core.device import Device

#: Why a device is given up, and what mends that.
BROKEN_CONTEXT = (
    "the CUDA context of this process is broken, and every call on it fails from now on; "
    "fix: restart the process"
)
HANGS = "it hangs; only the return of its call brings it back"


def worth_logging(count: int) -> bool:
    """Tell whether a repetition is logged, by its number: the 1st, 2nd, 4th, 8th ... are."""
    return count & (count - 1) == 0


@dataclass(frozen=True)
class Event:
    """Something worth a line in the log.

    Attributes:
        level: its level.
        text: the line; `{0.NAME}` stands for an attribute of the event.
        mark: likewise what the timeline shows in the lane of `device`, "" for nothing.
    """

    level: ClassVar[int] = logging.ERROR
    text: ClassVar[str]
    mark: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.text.format(self)


@dataclass(frozen=True)
class DeviceBack(Event):
    """A device serves again."""

    device: Device
    level = logging.INFO
    text = "{0.device} is back in service"
    mark = "back in service"


@dataclass(frozen=True)
class DeviceFailed(Event):
    """A device went out of service; `retry_in` in seconds."""

    device: Device
    error: str
    retry_in: float
    text = "{0.device} is out of service, retry in {0.retry_in:g} s: {0.error}"
    mark = "out of service: {0.error}"


@dataclass(frozen=True)
class DeviceGivenUp(Event):
    """No restart is planned for a device any more."""

    device: Device
    why: str
    text = "{0.device} is not retried any more: {0.why}"


@dataclass(frozen=True)
class BatchResized(Event):
    """Calls of a model take fewer frames, because memory was short, or more again."""

    device: Device
    model: str
    limit: int
    why: str
    level = logging.WARNING
    text = "{0.device}: batch of {0.model} is {0.limit} now ({0.why})"
    mark = "batch {0.limit} ({0.why})"


@dataclass(frozen=True)
class StreamMoved(Event):
    """A stream is served by another device from now on."""

    stream: str
    source: Device
    device: Device
    reason: str
    level = logging.WARNING
    text = "stream {0.stream} moves {0.source} -> {0.device}: {0.reason}"
    mark = "{0.stream} from {0.source}: {0.reason}"


@dataclass(frozen=True)
class StreamRoams(Event):
    """A stream's frames have begun to go to different devices."""

    stream: str
    level = logging.INFO
    text = (
        "stream {0.stream} runs where its frame ends first; further moves are counted, not logged"
    )


@dataclass(frozen=True)
class StreamUnserved(Event):
    """No device is left that may serve a stream."""

    stream: str
    reason: str
    text = "stream {0.stream}: no device left ({0.reason})"


@dataclass(frozen=True)
class CallbackHangs(Event):
    """A callback has not returned for so many seconds; `count` counts those of its stream."""

    stream: str
    callback: str
    seconds: float
    count: int
    text = (
        "{0.callback} of stream {0.stream} has not returned for {0.seconds:.2f} s ({0.count} so "
        "far): the stream gets no results until it does, the others go on; fix: hand long work in "
        "the callback to a thread of its own"
    )
