# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Timeline: what ran where and when, in a ring buffer; written as a Perfetto trace or a picture."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.executor.outcomes import DropReason

if TYPE_CHECKING:
    from yolox_trt.executor.detector import StageTimes
    from yolox_trt.executor.device_state import Batch

#: Suffixes that dump() writes as pictures; .json is the trace.
PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class BatchSpan:
    """One detect() call. Times are seconds of the executor's clock.

    Attributes:
        device: name of the device.
        model: model that ran.
        streams: stream ids, one for each frame.
        submitted: when each frame entered its queue.
        start: start of the call.
        end: end of the call.
        stages: (preprocess, inference, postprocess) seconds, zeros where not told apart.
        failed: whether the device failed in it.
    """

    device: str
    model: str
    streams: tuple[str, ...]
    submitted: tuple[float, ...]
    start: float
    end: float
    stages: tuple[float, float, float]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class DropMark:
    """A frame that was dropped at `time`."""

    time: float
    stream: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventMark:
    """Something that happened to a device at `time`: a fault, a return, a move."""

    time: float
    device: str
    text: str


class Timeline:
    """The last spans and marks of an executor; recording one costs about a microsecond.

    Recording is thread safe (an append to a bounded deque); so is reading.

    Args:
        capacity: entries kept; 50000 are some three minutes of eight cameras at 30 Hz.
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self._spans: deque[tuple[Any, ...]] = deque(maxlen=capacity)
        self._drops: deque[tuple[float, str, DropReason]] = deque(maxlen=capacity)
        self._events: deque[EventMark] = deque(maxlen=1000)

    def add_batch(
        self, batch: Batch, end: float, stages: StageTimes | None, *, failed: bool = False
    ) -> None:
        """Record a finished (or failed) call."""
        # Names and times only: a reference to the batch would keep its images alive.
        self._spans.append(
            (
                batch.device,
                batch.server.name,
                tuple([s.config.id for s in batch.streams]),
                tuple([f.submitted for f in batch.frames]),
                batch.started,
                end,
                stages,
                failed,
            )
        )

    def add_drop(self, time: float, stream: str, reason: DropReason) -> None:
        """Record a dropped frame."""
        self._drops.append((time, stream, reason))

    def add_event(self, time: float, device: str, text: str) -> None:
        """Record a fault, a return to service, a move."""
        self._events.append(EventMark(time, device, text))

    def clear(self) -> None:
        """Forget everything."""
        self._spans.clear()
        self._drops.clear()
        self._events.clear()

    def spans(self, since: float = -math.inf) -> list[BatchSpan]:
        """Return the calls that ended at or after `since`, in the order of their ends."""
        return [
            BatchSpan(
                device=str(device),
                model=model,
                streams=streams,
                submitted=submitted,
                start=start,
                end=end,
                stages=(stages.preprocess, stages.inference, stages.postprocess)
                if stages is not None
                else (0.0, 0.0, 0.0),
                failed=failed,
            )
            for device, model, streams, submitted, start, end, stages, failed in (
                self._spans.copy()
            )
            if end >= since
        ]

    def drops(self, since: float = -math.inf) -> list[DropMark]:
        """Return the frames dropped at or after `since`."""
        return [
            DropMark(time, stream, reason.value)
            for time, stream, reason in self._drops.copy()
            if time >= since
        ]

    def events(self, since: float = -math.inf) -> list[EventMark]:
        """Return the events at or after `since`."""
        return [event for event in self._events.copy() if event.time >= since]

    def dump(
        self,
        path: str | Path,
        seconds: float = 5.0,
        *,
        until: float | None = None,
        devices: Iterable[str] = (),
        title: str = "",
    ) -> list[Path]:
        """Write the last seconds to a file.

        Args:
            path: the suffix decides: .json is a trace for https://ui.perfetto.dev or
                chrome://tracing; .png, .svg and .pdf are Gantt pictures; no suffix writes both
                <path>.json and <path>.png.
            seconds: how much of the end of the record, more than 0.
            until: end of what is shown, in seconds of the executor's clock; None: the last entry.
            devices: names of lanes that are shown even if nothing ran there.
            title: headline of the picture.

        Returns:
            The files written.

        Raises:
            ConfigurationError: another suffix, or seconds not above 0.
            MissingDependencyError: a picture was asked for and matplotlib is not installed.
        """
        target = Path(path)
        if not seconds > 0.0:
            raise ConfigurationError(
                f"seconds = {seconds}", expected="more than 0", fix="set `seconds`"
            )
        if target.suffix and target.suffix not in (".json", *PICTURES):
            raise ConfigurationError(
                f"a timeline file with the suffix '{target.suffix}'",
                expected=f".json, {', '.join(PICTURES)}, or none (trace and picture)",
                fix="change the file's name",
            )
        targets = [target]
        if not target.suffix:
            targets = [target.with_name(target.name + s) for s in (".json", ".png")]
        first, last = self._extent()
        last = last if until is None else until
        since = max(first, last - seconds)
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in targets:
            if file.suffix == ".json":
                file.write_text(json.dumps(self.trace(since, devices)), encoding="utf-8")
            else:
                from yolox_trt.executor.gantt import draw_gantt

                draw_gantt(
                    file,
                    self.spans(since),
                    self.drops(since),
                    self.events(since),
                    since=since,
                    until=last,
                    devices=devices,
                    title=title,
                )
        return targets

    def _extent(self) -> tuple[float, float]:
        """Return the times of the first and the last entry; zeros if there is none."""
        marks = [e.time for e in self.events()] + [d.time for d in self.drops()]
        spans = self.spans()
        starts = [min((s.start, *s.submitted)) for s in spans]
        ends = [s.end for s in spans]
        return min(starts + marks, default=0.0), max(ends + marks, default=0.0)

    def trace(self, since: float = -math.inf, devices: Iterable[str] = ()) -> dict[str, Any]:
        """Return the record in Chrome's Trace Event Format (JSON object form).

        One process "devices" with a lane for each device (calls, with their stages nested), one
        process "streams" with a lane for each stream (waiting, then the call; drops and events
        as instants). Times are microseconds from the first entry.
        """
        spans, drops, events = self.spans(since), self.drops(since), self.events(since)
        starts = [min(s.submitted, default=s.start) for s in spans]
        origin = min([*starts, *(d.time for d in drops), *(e.time for e in events)], default=0.0)

        def micro(time: float) -> float:
            return round((time - origin) * 1e6, 3)

        lanes = sorted({*devices, *(s.device for s in spans), *(e.device for e in events)})
        names = sorted({*(n for s in spans for n in s.streams), *(d.stream for d in drops)})
        out: list[dict[str, Any]] = []
        for pid, process, threads in ((1, "devices", lanes), (2, "streams", names)):
            out.append(_metadata("process_name", process, pid))
            out.extend(_metadata("thread_name", t, pid, i + 1) for i, t in enumerate(threads))
        lane_of = {name: i + 1 for i, name in enumerate(lanes)}
        thread_of = {name: i + 1 for i, name in enumerate(names)}
        for span in spans:
            call = {"model": span.model, "batch": len(span.streams), "failed": span.failed}
            base = {"ph": "X", "pid": 1, "tid": lane_of[span.device]}
            out.append(
                base
                | {
                    "name": " + ".join(span.streams),
                    "cat": "detect",
                    "ts": micro(span.start),
                    "dur": round((span.end - span.start) * 1e6, 3),
                    "args": call,
                }
            )
            begin = span.start
            for stage, length in zip(
                ("preprocess", "inference", "postprocess"), span.stages, strict=True
            ):
                if length <= 0.0:
                    continue
                length = min(length, span.end - begin)
                out.append(
                    base
                    | {
                        "name": stage,
                        "cat": "stage",
                        "ts": micro(begin),
                        "dur": round(length * 1e6, 3),
                    }
                )
                begin += length
            for name, submitted in zip(span.streams, span.submitted, strict=True):
                lane = {"ph": "X", "pid": 2, "tid": thread_of[name]}
                if span.start > submitted:
                    out.append(
                        lane
                        | {
                            "name": "wait",
                            "cat": "queue",
                            "ts": micro(submitted),
                            "dur": round((span.start - submitted) * 1e6, 3),
                        }
                    )
                out.append(
                    lane
                    | {
                        "name": span.device,
                        "cat": "detect",
                        "ts": micro(span.start),
                        "dur": round((span.end - span.start) * 1e6, 3),
                        "args": call,
                    }
                )
        for drop in drops:
            out.append(
                {
                    "ph": "i",
                    "s": "t",
                    "pid": 2,
                    "tid": thread_of[drop.stream],
                    "name": f"dropped: {drop.reason}",
                    "cat": "drop",
                    "ts": micro(drop.time),
                }
            )
        for event in events:
            out.append(
                {
                    "ph": "i",
                    "s": "p",
                    "pid": 1,
                    "tid": lane_of[event.device],
                    "name": event.text,
                    "cat": "device",
                    "ts": micro(event.time),
                }
            )
        return {"traceEvents": out, "displayTimeUnit": "ms"}


def _metadata(kind: str, name: str, pid: int, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
