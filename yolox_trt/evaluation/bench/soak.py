# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt soak`: faults for half an hour; memory, descriptors and counters must stay right.

One device runs the model in ONNX Runtime, two pretend to be a GPU and a DLA around simulated
engines; all do the real preprocessing, decoding and NMS. Every few seconds one of them raises,
gives NaN, hangs or runs out of memory, is given up, and is rebuilt by the factory.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.engines.simulated import (
    ConstantLatency,
    Fault,
    FaultInjector,
    SimulatedEngine,
    simulated_spec,
)
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.executor.scheduler_options import SchedulerOptions
from yolox_trt.executor.snapshot import DeviceStatus, ExecutorSnapshot
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.graph.spec import read_spec

#: Devices and the faults that take turns.
DEVICES = (Device("cpu"), Device("gpu"), Device("dla"))
FAULTS = (Fault.RAISE, Fault.NAN, Fault.HANG, Fault.OUT_OF_MEMORY)
#: Largest growth of resident memory after the warm-up, as a share.
GROWTH_LIMIT = 0.02
#: The same for soaks under LONG seconds: the first restarts still fill their pools.
SHORT_GROWTH_LIMIT = 0.10
LONG = 600.0
#: Memory arenas of glibc: malloc_trim hands back what is free in the first one alone, whole; of the
#: others it leaves the top, 10 to 15 MB of what had been freed in one run and in the next one not.
ARENAS = 1
#: Share of the samples at each end whose median is compared, and their least number: with three,
#: what comes for a moment (a device made anew beside the one that it replaces) does not decide.
WINDOW, WINDOW_SAMPLES = 0.15, 3
#: Growth of the descriptors and of the threads that is no leak: a leak comes with each fault. The
#: middleware opens one or two for peers that it discovers late, and a worker that was given up may
#: still be in its call.
SLACK = 2
#: Longest hang, in seconds: longer than the watchdog's time, shorter than the pause of the faults.
WATCHDOG = 0.5
#: Seconds after the last frame until every frame has ended and every device is back in service.
END_LIMIT = 30.0


class FaultyEngine(Engine):
    """An Engine around another one that fails on command.

    Args:
        engine: the real one.
        device: where it pretends to run.
        faults: the commands.
    """

    def __init__(self, engine: Engine, device: Device, faults: FaultInjector) -> None:
        self.device = device
        self.spec, self.max_batch = engine.spec, engine.max_batch
        self.input, self.outputs = engine.input, engine.outputs
        self._engine = engine
        self._faults = faults

    def run(self, batch: int, stream: Any = None) -> None:
        """Run, or fail as commanded; NaN comes of a NaN input, by the network's own arithmetic."""
        if self._faults.take(batch) is Fault.NAN:
            self._engine.input[:batch] = np.nan
        self._engine.run(batch, stream)

    def close(self) -> None:
        """Close the real one."""
        self._engine.close()


def faulty_detector(device: Device, model: Path, faults: FaultInjector) -> Detector:
    """Return a detector that fails on command: ONNX Runtime on the CPU, else a simulated engine."""
    if device.kind == "cpu":
        engine: Engine = OnnxRuntimeEngine(model, spec=read_spec(model), intra_op_num_threads=1)
    else:
        engine = SimulatedEngine(
            device,
            simulated_spec(416, 416),
            ConstantLatency({"gpu": 0.0041, "dla": 0.01169}[device.kind]),
            max_batch=4 if device.kind == "gpu" else 1,
        )
    return CpuDetector(FaultyEngine(engine, device, faults))


@dataclass
class SoakReport:
    """What a soak found.

    Attributes:
        seconds: length.
        received: frames submitted.
        processed: results.
        dropped: frames lost, by reason.
        faults: faults commanded, by kind.
        errors: failures that the executor counted.
        restarts: returns to service.
        late_results: results of given-up calls that were discarded.
        memory_start: resident bytes, median after the warm-up.
        memory_end: resident bytes, median at the end.
        descriptors_start: open files after the warm-up.
        descriptors_end: open files at the end.
        threads_start: threads after the warm-up.
        threads_end: threads at the end.
        memory: resident bytes over time, (seconds, bytes).
        problems: what was wrong; empty if all was well.
    """

    seconds: float = 0.0
    received: int = 0
    processed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    restarts: int = 0
    late_results: int = 0
    memory_start: float = math.nan
    memory_end: float = math.nan
    descriptors_start: float = math.nan
    descriptors_end: float = math.nan
    threads_start: float = math.nan
    threads_end: float = math.nan
    memory: list[tuple[float, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Growth of resident memory after the warm-up, as a share."""
        return self.memory_end / self.memory_start - 1.0

    def judge(self, samples: Sequence[tuple[float, float, float, float]], warm_up: float) -> None:
        """Take in what was measured, and add what leaks to the problems.

        Args:
            samples: (seconds, resident bytes, descriptors, threads), in their order.
            warm_up: seconds at the start that do not count.
        """
        self.memory = [(time, memory) for time, memory, _, _ in samples]
        counted = np.array([s for s in samples if s[0] >= warm_up])
        if len(counted) < 4:
            return
        count = max(WINDOW_SAMPLES, int(WINDOW * len(counted)))
        first, last = np.median(counted[:count], axis=0), np.median(counted[-count:], axis=0)
        self.memory_start, self.memory_end = float(first[1]), float(last[1])
        self.descriptors_start, self.descriptors_end = float(first[2]), float(last[2])
        self.threads_start, self.threads_end = float(first[3]), float(last[3])
        limit = GROWTH_LIMIT if self.seconds >= LONG else SHORT_GROWTH_LIMIT
        if self.growth >= limit:
            self.problems.append(f"resident memory grew by {self.growth:.1%}")
        for what, start, end in (
            ("descriptors", self.descriptors_start, self.descriptors_end),
            ("threads", self.threads_start, self.threads_end),
        ):
            if end > start + SLACK:
                self.problems.append(f"{what} leak: {start:g} became {end:g}")


def check_lengths(seconds: float, warm_up: float, **positive: float) -> None:
    """Refuse a warm-up that is not shorter than the soak, and what must be positive but is not."""
    for name, value in positive.items():
        if not value > 0:
            raise ConfigurationError(
                f"{name} = {value}", expected="more than 0", fix=f"set `{name}`"
            )
    if not 0.0 <= warm_up < seconds:
        raise ConfigurationError(
            f"warm_up = {warm_up} s in a soak of {seconds} s",
            expected="from 0 to less than its length",
            fix="set `warm_up`",
        )


class Soak:
    """Load, faults and measurements.

    Args:
        seconds: length of the soak.
        warm_up: seconds at the start that do not count for memory, less than `seconds`.
        fault_period: seconds from one fault to the next.
        streams: cameras.
        rate: frames a second of each.
        model: ONNX file that ONNX Runtime runs; None takes the shipped one.
        progress: called about once a second with the seconds that have passed and what was done.
    """

    def __init__(
        self,
        *,
        seconds: float,
        warm_up: float,
        fault_period: float,
        streams: int = 4,
        rate: float = 10.0,
        model: Path | None = None,
        progress: Callable[[float, str], None] | None = None,
    ) -> None:
        check_lengths(seconds, warm_up, fault_period=fault_period, rate=rate, streams=streams)
        self._seconds = seconds
        self._warm_up = warm_up
        self._fault_period = fault_period
        self._names = [f"camera{i}" for i in range(streams)]
        self._rate = rate
        self._model = model or default_model()
        self._progress = progress
        self._injectors = {device: FaultInjector() for device in DEVICES}
        self._process = require("psutil", purpose="watching the memory").Process()
        self._samples: list[tuple[float, float, float, float]] = []
        self._results = dict.fromkeys(self._names, 0)
        self._drops = dict.fromkeys(self._names, 0)
        self._refused = dict.fromkeys(self._names, 0)
        self._last_stamp = dict.fromkeys(self._names, -1)
        self._callback_lock = threading.Lock()
        self._problems: list[str] = []
        self._faults: dict[str, int] = {}

    def run(self) -> SoakReport:
        """Run it and return what was found."""
        executor = InferenceExecutor(
            {(device, "default"): self._detector(device) for device in DEVICES},
            policy="balanced",
            options=SchedulerOptions(
                watchdog=WATCHDOG,
                watchdog_factor=5.0,
                batch_window=0.002,
                backoff=0.5,
                backoff_max=4.0,
                batch_recovery=5.0,
            ),
            factory=lambda device, model: self._detector(device),
        )
        # Every device has a camera of its own, and the GPU a second one for its batches.
        homes = itertools.cycle([str(device) for device in DEVICES] + ["gpu"])
        for name, home in zip(self._names, homes, strict=False):
            executor.add_stream(
                StreamConfig(id=name, device=home, queue_depth=2, expected_rate=self._rate),
                self._on_result,
                self._on_drop,
            )
        with executor:
            executor.wait_started(60.0)
            submitted = self._feed(executor)
            snapshot = self._wait_empty(executor)
        self._check_counters(snapshot, submitted)
        return self._report(snapshot)

    def _detector(self, device: Device) -> Detector:
        return faulty_detector(device, self._model, self._injectors[device])

    def _feed(self, executor: InferenceExecutor) -> int:
        """Submit frames and command faults until the time is over; return frames of a stream."""
        rng = np.random.default_rng(0)
        pictures: list[npt.NDArray[np.uint8]] = [
            rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in self._names
        ]
        turns = itertools.cycle(itertools.product(FAULTS, DEVICES))
        begin = time.monotonic()
        next_fault, next_sample = self._fault_period, 0.0
        number = 0
        while (now := time.monotonic() - begin) < self._seconds:
            for name, picture in zip(self._names, pictures, strict=True):
                frame = Frame.from_array(
                    picture,
                    stream_id=name,
                    stamp_ns=number,
                    received_ns=time.monotonic_ns(),
                )
                if not executor.submit(frame).accepted:
                    self._refused[name] += 1
            number += 1
            # The last fault leaves time to come back before the counters are read.
            if now >= next_fault and now < self._seconds - 2.0 * WATCHDOG:
                fault, device = next(turns)
                count = 3 if fault is Fault.OUT_OF_MEMORY else 1
                self._injectors[device].inject(fault, count=count, seconds=2.0 * WATCHDOG)
                self._faults[fault.value] = self._faults.get(fault.value, 0) + 1
                next_fault += self._fault_period
            if now >= next_sample:
                self._sample(now, executor)
                next_sample += max(0.5, min(1.0, self._seconds / 200.0))
            time.sleep(max(0.0, begin + number / self._rate - time.monotonic()))
        return number

    def _sample(self, now: float, executor: InferenceExecutor) -> None:
        process = self._process
        descriptors = process.num_fds() if hasattr(process, "num_fds") else math.nan
        self._samples.append(
            (now, process.memory_info().rss, descriptors, threading.active_count())
        )
        snapshot = executor.snapshot()
        for stream in snapshot.streams.values():
            if stream.received != stream.processed + stream.dropped_total + stream.in_flight:
                self._problems.append(f"at {now:.0f} s the counters do not add up: {stream}")
        if self._progress is not None:
            done = sum(s.processed for s in snapshot.streams.values())
            errors = sum(d.errors for d in snapshot.devices.values())
            self._progress(now, f"{done} results, {errors} failures")

    def _wait_empty(self, executor: InferenceExecutor) -> ExecutorSnapshot:
        for injector in self._injectors.values():
            injector.clear()
        end = time.monotonic() + END_LIMIT
        while True:
            snapshot = executor.snapshot()
            in_flight = any(s.in_flight for s in snapshot.streams.values())
            missing = [
                str(device)
                for device, state in snapshot.devices.items()
                if state.status is not DeviceStatus.IN_SERVICE
            ]
            if not in_flight and not missing:
                return snapshot
            if time.monotonic() > end:
                after = f"{END_LIMIT:g} s after the last frame"
                if in_flight:
                    self._problems.append(f"frames are still in flight {after}")
                if missing:
                    self._problems.append(f"{', '.join(missing)} did not come back until {after}")
                return snapshot
            time.sleep(0.02)

    def _check_counters(self, snapshot: ExecutorSnapshot, submitted: int) -> None:
        for name, stream in snapshot.streams.items():
            with self._callback_lock:
                results, drops = self._results[name], self._drops[name]
            found = (stream.received, stream.processed, stream.dropped_total)
            expected = (submitted, results, drops + self._refused[name])
            if found != expected or submitted != sum(expected[1:]):
                self._problems.append(
                    f"{name}: received, processed, dropped are {found}; the callbacks and "
                    f"submit() counted {expected}"
                )

    def _report(self, snapshot: ExecutorSnapshot) -> SoakReport:
        streams, devices = snapshot.streams.values(), snapshot.devices.values()
        report = SoakReport(
            seconds=self._seconds,
            received=sum(s.received for s in streams),
            processed=sum(s.processed for s in streams),
            dropped={r.value: sum(s.dropped[r] for s in streams) for r in DropReason},
            faults=self._faults,
            errors=sum(d.errors for d in devices),
            restarts=sum(d.restarts for d in devices),
            late_results=sum(d.late_results for d in devices),
            problems=self._problems,
        )
        report.judge(self._samples, self._warm_up)
        if not report.errors and report.faults:
            report.problems.append("no fault reached a device")
        return report

    def _on_result(self, result: Any) -> None:
        name, stamp = result.frame.stream_id, result.frame.stamp_ns
        with self._callback_lock:
            self._results[name] += 1
            if stamp <= self._last_stamp[name]:
                self._problems.append(f"{name}: frame {stamp} after {self._last_stamp[name]}")
            self._last_stamp[name] = stamp

    def _on_drop(self, frame: Frame, reason: DropReason) -> None:
        with self._callback_lock:
            self._drops[frame.stream_id] += 1


def steady_memory() -> None:
    """Let resident memory follow what is in use: one arena, and no huge pages (Linux, glibc).

    NumPy asks for huge pages for arrays of 4 MB and more, and the kernel gives and takes them in
    steps of 2 MB: up to 18 MB came and went within minutes, more than what is looked for.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        none = ctypes.c_ulong(0)
        libc.prctl(41, ctypes.c_ulong(1), none, none, none)  # PR_SET_THP_DISABLE, linux/prctl.h
        libc.mallopt(-8, ARENAS)  # M_ARENA_MAX of malloc.h
