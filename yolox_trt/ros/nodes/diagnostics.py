# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Counters and states -> diagnostic_msgs/DiagnosticStatus, per stream and per device."""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from yolox_trt.core.device import Device
from yolox_trt.core.errors import DeviceError
from yolox_trt.core.limits import clean_text
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
#: What is worth a warning though nothing was dropped for it.
_REPEATED = "images with the stamp of the one before (is the camera frozen?)"
_LATE = "results older than `stale_after`"
#: Losses for which a faster device or receiver would be the cure.
_FOR_WANT_OF_TIME = (DropReason.OVERFLOW.value, DropReason.STALE.value, _LOST)

# STALE would mean that nothing has come from this node.
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_LEVELS = {
    ExecutorState.RUNNING: OK,
    ExecutorState.STARTING: OK,
    ExecutorState.DEGRADED: WARN,
    ExecutorState.ERROR: ERROR,
    ExecutorState.STOPPED: OK,
}


def status(
    name: str, hardware_id: str, level: bytes, message: str, values: Mapping[str, Any]
) -> DiagnosticStatus:
    """Return one entry of /diagnostics: numbers in as many digits as they need, texts clean."""
    return DiagnosticStatus(
        name=clean_text(name),
        hardware_id=clean_text(hardware_id),
        level=level,
        message=clean_text(message),
        values=[
            KeyValue(
                key=clean_text(key),
                value=f"{value:.6g}" if isinstance(value, float) else clean_text(str(value)),
            )
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

    Drops, lost images, repeated stamps and late results since the last entry make it WARN.

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
        notice: str = "",
        why_silent: Callable[[], tuple[bytes, str]] = lambda: (WARN, ""),
    ) -> DiagnosticStatus:
        """Return the entry.

        Args:
            name: its name.
            topic: the camera's image topic.
            counters: what the camera node tells of itself.
            stream: the executor's counters; None before the node is configured.
            now: time.monotonic().
            notice: what is wrong beside the camera, such as another node of its name.
            why_silent: asked where no image arrives; gives the level and the reason, or "".
        """
        # Images may arrive meanwhile, in other threads: each counter is read once.
        totals = counters.former if stream is None else counters.former.plus(stream)
        malformed, replaced, stamps = counters.malformed, counters.replaced, counters.stamps
        dropped = {each.value: totals.dropped.get(each, 0) for each in DropReason}
        dropped["malformed"] += malformed
        dropped["overflow"] += replaced
        values: dict[str, Any] = {
            "subscribed": bool(counters.topic),
            "received": totals.received + malformed + replaced,
            "processed": totals.processed,
            "published": counters.published,
            "in_flight": totals.in_flight,
            "dropped": sum(dropped.values()),
            **{f"dropped_{reason}": count for reason, count in dropped.items()},
            "lost_in_middleware": counters.lost,
            "received_rate_hz": stream.received_rate if stream else 0.0,
            "processed_rate_hz": stream.processed_rate if stream else 0.0,
            **counters.percentiles(),
            "stamp_age_ms": stamps.age * 1e3,
            "stamp_lag_ms": stamps.lag * 1e3,
            "stamps_repeated": stamps.repeated,
            "clocks_agree": "unknown" if stamps.agree is None else stamps.agree,
            "last_refusal": counters.last_refusal,
        }
        if stream is not None:
            values |= {
                "device": stream.device or "none",
                "queue_age_ms": stream.queue_age * 1e3,
                **_attributes(stream, "model", "deadline_missed", "late", "moves", "last_move"),
                **_attributes(stream, "callback_errors", "callback_hangs"),
            }
        level, message = self._judge(counters, stream, dropped, now, why_silent)
        if notice:
            level, message = max(level, WARN), f"{notice}; {message}"
        return status(name, topic, level, message, values)

    def _judge(
        self,
        counters: CameraCounters,
        stream: StreamSnapshot | None,
        dropped: Mapping[str, int],
        now: float,
        why_silent: Callable[[], tuple[bytes, str]],
    ) -> tuple[bytes, str]:
        # Frames over max_rate, and those of a camera that was switched off, are dropped on purpose.
        wanted = ("rate", "disabled", "stopped")
        present = {name: count for name, count in dropped.items() if name not in wanted}
        present[_LOST] = counters.lost
        present[_REPEATED] = counters.stamps.repeated
        present[_LATE] = stream.late if stream is not None else 0
        new = {
            name: count - self._last.get(name, 0)
            for name, count in present.items()
            if count > self._last.get(name, 0)
        }
        self._last = present
        notes = [f"{new.pop(name)} {name}" for name in (_REPEATED, _LATE) if name in new]
        self.lost = sum(new.get(name, 0) for name in _FOR_WANT_OF_TIME)
        if counters.fault:
            return ERROR, counters.fault
        if stream is None:
            return OK, "not configured"
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
            notes.insert(0, f"dropped: {losses}{refusal}")
        if notes:
            return WARN, f"since the last report: {'; '.join(notes)}"
        if not counters.topic:
            return OK, "nobody listens"
        # A camera that is subscribed to on demand gets the same time for its first image.
        if now - max(counters.last_message, counters.subscribed_at) > SILENT_AFTER:
            level, reason = why_silent()
            return level, f"no image arrives{reason and ': '}{reason}"
        if counters.stamps.agree is False:
            return OK, (
                f"running; stamps lag {counters.stamps.lag:.6g} s behind this computer's clock, "
                "and ages are judged against that"
            )
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
    refusal: str = "",
    notice: str = "",
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
        refusal: why a configure has failed.
        notice: what is wrong beside the node, such as another one of its name.
    """
    state = "unconfigured" if snapshot is None else snapshot.state.value
    level, advice = OK if snapshot is None else _LEVELS[snapshot.state], ""
    if refusal:
        level, advice = ERROR, f"not configured: {refusal}"
    values: dict[str, Any] = {"state": state, "cameras": cameras, "receiver_load": load}
    if ingest is None:
        advice = advice or receiver_advice(load, lost)
        if advice and level == OK:
            level = WARN
    else:
        faults = ingest.faults
        running, restarts = ingest.count - len(faults), ingest.restarts
        values |= {"ingest_processes": running, "ingest_restarts": restarts}
        if faults:
            level, advice = ERROR, "; ".join(f"{name} {why}" for name, why in faults.items())
    if snapshot is not None:
        values |= {
            "placement": snapshot.policy,
            **_attributes(snapshot, "placements", "removed_received", "removed_processed"),
            **_attributes(snapshot, "removed_dropped"),
        }
    message = activity or advice or state
    if notice:
        level, message = max(level, WARN), f"{notice}; {message}"
    return status(name, platform.node(), level, message, values)


def broken_device(snapshot: ExecutorSnapshot) -> DeviceError | None:
    """Return an error about a device that only a restart of the process brings back, if any."""
    for device, state in snapshot.devices.items():
        if state.status is DeviceStatus.BROKEN:
            return DeviceError(f"device {device} is broken: {state.last_error}")
    return None


def device_status(node: str, device: Device, snapshot: DeviceSnapshot) -> DiagnosticStatus:
    """Return the entry of one device of a node."""
    in_service = snapshot.status is DeviceStatus.IN_SERVICE
    well = in_service or snapshot.status is DeviceStatus.STARTING
    message = snapshot.status.value.replace("_", " ")
    if snapshot.last_error and not in_service:
        message += f": {snapshot.last_error}"
    if snapshot.slow and in_service:
        message += ", but slow: " + ", ".join(
            f"{model} takes {1e3 * snapshot.models[model]:.3g} ms, at the warm-up "
            f"{1e3 * snapshot.warm_up[model]:.3g} ms"
            for model in snapshot.slow
        )
    doubts = {model: text for model, text in snapshot.implausible.items() if text}
    if doubts and in_service:
        message += "".join(f"; {model}: {text}" for model, text in doubts.items())
    return status(
        f"{node}: device {device}",
        f"{platform.node()}:{device}",
        (WARN if snapshot.slow or doubts else OK) if well else ERROR,
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
