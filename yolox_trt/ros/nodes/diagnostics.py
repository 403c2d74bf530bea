# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Counters and states -> diagnostic_msgs/DiagnosticStatus, per stream and per device."""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from yolox_trt.core.errors import DeviceError
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.executor.snapshot import (
    DeviceSnapshot,
    DeviceStatus,
    ExecutorSnapshot,
    ExecutorState,
    StreamSnapshot,
)
from yolox_trt.ros.ingest.pool import IngestPool
from yolox_trt.ros.nodes.camera_counters import CameraCounters

#: Seconds without an image after which a subscribed camera is reported.
SILENT_AFTER = 2.0

#: Part of a core from which on the thread that receives the images is what loses them. What it
#: misses of the whole it spends waiting for Python's lock, which the devices' threads need, too.
BUSY_RECEIVER = 0.6

#: What `lost_in_middleware` is called in a message.
_LOST = "lost in the middleware"
#: Losses for which a faster device or receiver would be the cure.
_FOR_WANT_OF_TIME = (DropReason.OVERFLOW.value, DropReason.STALE.value, _LOST)

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)

_LEVELS = {
    ExecutorState.RUNNING: OK,
    ExecutorState.STARTING: OK,
    ExecutorState.DEGRADED: WARN,
    ExecutorState.ERROR: ERROR,
    ExecutorState.STOPPED: STALE,
}


def status(
    name: str, hardware_id: str, level: bytes, message: str, values: Mapping[str, Any]
) -> DiagnosticStatus:
    """Return one entry of /diagnostics; numbers are written with as many digits as they need."""
    return DiagnosticStatus(
        name=name,
        hardware_id=hardware_id,
        level=level,
        message=message,
        values=[
            KeyValue(key=key, value=f"{value:.6g}" if isinstance(value, float) else str(value))
            for key, value in values.items()
        ],
    )


def _attributes(snapshot: object, *names: str) -> dict[str, Any]:
    """Return entries that are called like the attributes that they show."""
    return {name: getattr(snapshot, name) for name in names}


class ReceiverLoad:
    """How busy the thread is on which rclpy receives the images.

    To be read on that thread: rclpy's executors of one thread run all callbacks on it.
    """

    def __init__(self) -> None:
        self._last: tuple[int, float, float] | None = None

    def read(self) -> float:
        """Return the part of a core that it took since the last reading.

        NaN at first, and where the last reading was on another thread.
        """
        last = self._last
        thread, now, busy = threading.get_ident(), time.monotonic(), time.thread_time()
        self._last = thread, now, busy
        if last is None or last[0] != thread or now <= last[1]:
            return math.nan
        return (busy - last[2]) / (now - last[1])


def receiver_advice(load: float, lost: int) -> str:
    """Return what to do if images are lost because one thread receives them all; "" if not so.

    Args:
        load: of the thread that receives, as ReceiverLoad gives it.
        lost: images that were lost since the last report.
    """
    if not lost or not load >= BUSY_RECEIVER:
        return ""
    return (
        f"{lost} images lost since the last report, while receiving took {load:.0%} of a core; "
        "fix: parameter `ingest_processes`: one for each 100 images of 1920x1280 a second"
    )


class StreamReport:
    """Makes the entries of one camera; remembers the last one, to tell what is new.

    Drops, refusals and lost images since the last entry make it WARN.

    Attributes:
        lost: images that were lost for want of time between the last two entries.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._last: dict[str, int] = {}

    def make(
        self,
        name: str,
        topic: str,
        counters: CameraCounters,
        stream: StreamSnapshot | None,
        now: float,
    ) -> DiagnosticStatus:
        """Return the entry.

        Args:
            name: its name.
            topic: the camera's image topic.
            counters: what the camera node tells of itself.
            stream: the executor's counters; None before the node is configured.
            now: time.monotonic().
        """
        dropped = {each.value: stream.dropped[each] if stream else 0 for each in DropReason}
        dropped["malformed"] += counters.malformed
        dropped["overflow"] += counters.replaced
        values: dict[str, Any] = {
            "subscribed": bool(counters.topic),
            "received": counters.received,
            "processed": stream.processed if stream else 0,
            "published": counters.published,
            "in_flight": stream.in_flight if stream else 0,
            "dropped": sum(dropped.values()),
            **{f"dropped_{reason}": count for reason, count in dropped.items()},
            "lost_in_middleware": counters.lost,
            "received_rate_hz": stream.received_rate if stream else 0.0,
            "processed_rate_hz": stream.processed_rate if stream else 0.0,
            **counters.percentiles(),
            "last_refusal": counters.last_refusal,
        }
        if stream is not None:
            values |= {
                "device": stream.device or "none",
                "queue_age_ms": stream.queue_age * 1e3,
                **_attributes(stream, "model", "deadline_missed", "moves", "last_move"),
                **_attributes(stream, "callback_errors", "callback_hangs"),
            }
        level, message = self._judge(counters, stream, dropped, now)
        return status(name, topic, level, message, values)

    def _judge(
        self,
        counters: CameraCounters,
        stream: StreamSnapshot | None,
        dropped: Mapping[str, int],
        now: float,
    ) -> tuple[bytes, str]:
        # Frames over max_rate, and those of a camera that was switched off, are dropped on purpose.
        wanted = ("rate", "disabled", "stopped")
        present = {name: count for name, count in dropped.items() if name not in wanted}
        present[_LOST] = counters.lost
        new = {
            name: count - self._last.get(name, 0)
            for name, count in present.items()
            if count > self._last.get(name, 0)
        }
        self._last = present
        self.lost = sum(new.get(name, 0) for name in _FOR_WANT_OF_TIME)
        if counters.fault:
            return ERROR, counters.fault
        if stream is None:
            return STALE, "not configured"
        if not stream.enabled:
            return OK, "disabled"
        if not stream.served:
            return ERROR, "no device in service serves this camera"
        if stream.callback_blocked:
            seconds = f"{stream.callback_blocked:.1f} s"
            return ERROR, f"publishing a result has not returned for {seconds}"
        if new:
            losses = ", ".join(f"{count} {name}" for name, count in new.items())
            refusal = f": {counters.last_refusal}" if "malformed" in new else ""
            return WARN, f"dropped since the last report: {losses}{refusal}"
        if not counters.topic:
            return OK, "nobody listens"
        # A camera that is subscribed to on demand gets the same time for its first image.
        if now - max(counters.last_message, counters.subscribed_at) > SILENT_AFTER:
            return WARN, "no image arrives"
        return OK, "running"


def executor_status(
    name: str,
    snapshot: ExecutorSnapshot | None,
    *,
    cameras: int,
    lost: int,
    load: float,
    ingest: IngestPool | None,
    activity: str = "",
) -> DiagnosticStatus:
    """Return the entry of the executor.

    Args:
        name: the entry's name.
        snapshot: its counters and states; None before the node is configured.
        cameras: how many there are.
        lost: images that were lost for want of time since the last entry, of all cameras.
        load: of the thread that receives images.
        ingest: the processes that receive them instead.
        activity: what is going on, such as a build; goes before everything else.
    """
    state = ExecutorState.STOPPED if snapshot is None else snapshot.state
    level, advice = _LEVELS[state], ""
    values: dict[str, Any] = {"state": state.value, "cameras": cameras, "receiver_load": load}
    if ingest is None:
        advice = receiver_advice(load, lost)
        if advice and level == OK:
            level = WARN
    else:
        values |= {"ingest_processes": len(ingest.pids), "ingest_restarts": ingest.restarts}
    if snapshot is not None:
        values |= {
            "placement": snapshot.policy,
            **_attributes(snapshot, "placements", "removed_received", "removed_processed"),
            **_attributes(snapshot, "removed_dropped"),
        }
    message = activity or advice or state.value
    return status(name, platform.node(), level, message, values)


def broken_device(snapshot: ExecutorSnapshot) -> DeviceError | None:
    """Return an error about a device that only a restart of the process brings back, if any."""
    for device, state in snapshot.devices.items():
        if state.status is DeviceStatus.BROKEN:
            return DeviceError(f"device {device} is broken: {state.last_error}")
    return None


def device_status(name: str, snapshot: DeviceSnapshot) -> DiagnosticStatus:
    """Return the entry of one device."""
    in_service = snapshot.status is DeviceStatus.IN_SERVICE
    well = in_service or snapshot.status is DeviceStatus.STARTING
    message = snapshot.status.value.replace("_", " ")
    if snapshot.last_error and not in_service:
        message += f": {snapshot.last_error}"
    return status(
        name,
        platform.node(),
        OK if well else ERROR,
        message,
        {
            "status": snapshot.status.value,
            **_attributes(snapshot, "load", "frames", "batches", "errors", "hangs"),
            **_attributes(snapshot, "out_of_memory", "restarts", "late_results", "last_error"),
            "streams": ", ".join(snapshot.streams),
            **{f"time_ms {model}": time * 1e3 for model, time in snapshot.models.items()},
            **{f"batch_limit {model}": limit for model, limit in snapshot.batch_limits.items()},
            "retry_in_s": snapshot.retry_in,
        },
    )
