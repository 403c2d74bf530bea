# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Timeline: what ran where and when, in a ring buffer; `trace` gives it as a Perfetto trace."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.executor.outcomes import DropReason

if TYPE_CHECKING:
    from yolox_trt.detectors.detector import StageTimes
    from yolox_trt.executor.device_state import Batch

#: The stages of a call, in the order of BatchSpan.stages.
STAGES = ("preprocess", "inference", "postprocess")


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
        stages: seconds of each of STAGES, zeros where not told apart.
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
class Mark:
    """Something that happened at `time`.

    Attributes:
        time: when, in seconds of the executor's clock.
        lane: the device of an event (a fault, a return, a move), the stream of a dropped frame.
        text: what happened to the device, or why the frame was dropped.
    """

    time: float
    lane: str
    text: str


#: One frame of a call: 69 bytes, made once, so that the record's memory never grows.
_FRAME = np.dtype(
    [
        ("call", np.int64),
        ("submitted", np.float64),
        ("start", np.float64),
        ("end", np.float64),
        ("preprocess", np.float64),
        ("inference", np.float64),
        ("postprocess", np.float64),
        ("device", np.int32),
        ("model", np.int32),
        ("stream", np.int32),
        ("failed", np.bool_),
    ]
)
_DROP = np.dtype([("time", np.float64), ("stream", np.int32), ("reason", np.int32)])


class _Ring:
    """The last `capacity` rows of a structured array."""

    def __init__(self, dtype: np.dtype[Any], capacity: int) -> None:
        self._rows: npt.NDArray[Any] = np.empty(capacity, dtype)
        self._rows.view(np.uint8).fill(0)  # touches every page now, not one by one later
        self._count = 0

    def append(self, row: tuple[Any, ...]) -> None:
        self._rows[self._count % len(self._rows)] = row
        self._count += 1

    def clear(self) -> None:
        self._count = 0

    def rows(self) -> npt.NDArray[Any]:
        """Return a copy, oldest row first."""
        capacity = len(self._rows)
        if self._count <= capacity:
            return np.array(self._rows[: self._count])
        return np.asarray(np.roll(self._rows, -(self._count % capacity)))


class _Numbers(dict[str, int]):
    """Name -> its number, for rows of fixed size; a name that is asked for gets the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self.names)
        self.names.append(name)
        return number


class Timeline:
    """The last calls, drops and events of an executor; recording one takes some microseconds.

    All memory is taken at the start. Recording and reading are thread safe.

    Args:
        capacity: frames kept, and half as many drops; 50000 are more than three minutes of eight
            cameras at 30 Hz, in 4 MB.
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self._lock = threading.Lock()
        self._frames = _Ring(_FRAME, capacity)
        self._drops = _Ring(_DROP, max(1, capacity // 2))
        self._events: deque[Mark] = deque(maxlen=1000)
        self._numbers = _Numbers()
        self._calls = 0

    def add_batch(
        self, batch: Batch, end: float, stages: StageTimes | None, *, failed: bool = False
    ) -> None:
        """Record a finished (or failed) call."""
        start = min(batch.began, end)  # calls of a device do not overlap here
        if stages is None:
            times = 0.0, 0.0, 0.0
        elif batch.model.at_once > 1:
            times = 0.0, end - start, 0.0  # its own stages began while others had their turn
        else:
            times = stages.preprocess, stages.inference, stages.postprocess
        numbers = self._numbers
        with self._lock:
            self._calls += 1
            device, model = numbers[batch.state.name], numbers[batch.model.name]
            for stream, pending in zip(batch.streams, batch.frames, strict=True):
                self._frames.append(
                    (
                        self._calls,
                        pending.submitted,
                        start,
                        end,
                        *times,
                        device,
                        model,
                        numbers[stream.config.id],
                        failed,
                    )
                )

    def add_drop(self, time: float, stream: str, reason: DropReason) -> None:
        """Record a dropped frame."""
        with self._lock:
            self._drops.append((time, self._numbers[stream], self._numbers[reason.value]))

    def add_event(self, time: float, device: str, text: str) -> None:
        """Record a fault, a return to service, a move."""
        self._events.append(Mark(time, device, text))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._frames.clear()
            self._drops.clear()
        self._events.clear()

    def spans(self, since: float = -math.inf) -> list[BatchSpan]:
        """Return the calls that ended at or after `since`, in the order of their ends."""
        with self._lock:
            rows = self._frames.rows()
        rows = rows[rows["end"] >= since]
        names = self._numbers.names
        spans = []
        for _, group in itertools.groupby(rows.tolist(), key=lambda row: row[0]):
            frames = list(group)
            _, _, start, end, *times, device, model, _, failed = frames[0]
            spans.append(
                BatchSpan(
                    device=names[device],
                    model=names[model],
                    streams=tuple(names[frame[9]] for frame in frames),
                    submitted=tuple(frame[1] for frame in frames),
                    start=start,
                    end=end,
                    stages=(times[0], times[1], times[2]),
                    failed=failed,
                )
            )
        return spans

    def drops(self, since: float = -math.inf) -> list[Mark]:
        """Return the frames dropped at or after `since`."""
        with self._lock:
            rows = self._drops.rows()
        names = self._numbers.names
        return [
            Mark(time, names[stream], names[reason])
            for time, stream, reason in rows[rows["time"] >= since].tolist()
        ]

    def events(self, since: float = -math.inf) -> list[Mark]:
        """Return the events at or after `since`."""
        return [event for event in self._events.copy() if event.time >= since]

    def extent(self, since: float = -math.inf) -> tuple[float, float]:
        """Return the times of the first and the last entry, in seconds; zeros if there is none."""
        times = [mark.time for mark in (*self.events(since), *self.drops(since))]
        for span in self.spans(since):
            times += [span.start, span.end, *span.submitted]
        return min(times, default=0.0), max(times, default=0.0)

    def trace(self, since: float = -math.inf, devices: Iterable[str] = ()) -> dict[str, Any]:
        """Return the record in Chrome's Trace Event Format (JSON object form).

        One process "devices" with a lane for each device (calls, with their stages nested), one
        process "streams" with a lane for each stream (waiting, then the call; drops and events
        as instants). Times are microseconds from the first entry.
        """
        spans, drops, events = self.spans(since), self.drops(since), self.events(since)
        origin, _ = self.extent(since)

        def micro(time: float) -> float:
            return round((time - origin) * 1e6, 3)

        lanes = sorted({*devices, *(s.device for s in spans), *(e.lane for e in events)})
        names = sorted({*(n for s in spans for n in s.streams), *(d.lane for d in drops)})
        out: list[dict[str, Any]] = []
        for pid, process, threads in ((1, "devices", lanes), (2, "streams", names)):
            out.append(_metadata("process_name", process, pid))
            out.extend(_metadata("thread_name", t, pid, i + 1) for i, t in enumerate(threads))

        def add(pid: int, lane: str, category: str, name: str, at: float, **more: Any) -> None:
            tid = 1 + (lanes if pid == 1 else names).index(lane)
            base = {"pid": pid, "tid": tid, "cat": category, "name": name, "ts": micro(at)}
            out.append(base | more)

        def add_slice(
            pid: int, lane: str, category: str, name: str, begin: float, end: float, **more: Any
        ) -> None:
            length = round((end - begin) * 1e6, 3)
            add(pid, lane, category, name, begin, ph="X", dur=length, **more)

        for span in spans:
            call = {"model": span.model, "batch": len(span.streams), "failed": span.failed}
            title = " + ".join(span.streams)
            add_slice(1, span.device, "detect", title, span.start, span.end, args=call)
            begin = span.start
            for stage, length in zip(STAGES, span.stages, strict=True):
                if length > 0.0:
                    end = min(begin + length, span.end)
                    add_slice(1, span.device, "stage", stage, begin, end)
                    begin = end
            for name, submitted in zip(span.streams, span.submitted, strict=True):
                if span.start > submitted:
                    add_slice(2, name, "queue", "wait", submitted, span.start)
                add_slice(2, name, "detect", span.device, span.start, span.end, args=call)
        for drop in drops:
            add(2, drop.lane, "drop", f"dropped: {drop.text}", drop.time, ph="i", s="t")
        for event in events:
            add(1, event.lane, "device", event.text, event.time, ph="i", s="p")
        return {"traceEvents": out, "displayTimeUnit": "ms"}


def _metadata(kind: str, name: str, pid: int, tid: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}
