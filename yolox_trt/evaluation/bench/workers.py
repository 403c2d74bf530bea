# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""detect() in several processes at a time, a GPU each: what a machine gains by each of them.

As the workers of `yolox_trt batch` on Ray, but without reading and decoding images: frames lie in
ordinary memory, and each process makes one call after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, DeviceError, EngineError, YoloxTrtError
from yolox_trt.core.frame import Frame
from yolox_trt.core.option import options_of
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector, sized_for
from yolox_trt.engines import cuda_driver
from yolox_trt.evaluation.bench.device_timing import describe_device
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import describe_machine
from yolox_trt.evaluation.options import WorkersOptions

#: Seconds before those that are measured, in which all processes are at work.
_WARMUP = 0.5
#: Batches of frames that are rotated.
_SETS = 4
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_COLUMNS = {
    "workers": "{workers}",
    "calls overlap": "{overlap}",
    "frames/s": "{per_second:.0f}",
    "of each": "{each}",
    "efficiency": "{efficiency:.1%}",
}


def measure(options: WorkersOptions, on_progress: Progress = no_progress) -> Report:
    """Measure every number of workers.

    Raises:
        DeviceError: more workers than GPUs.
        EngineError: a worker ended.
        ConfigurationError: a device that is not one of each worker.
        ConfigurationError, ModelError: see detectors.factory.create_detector.
    """
    figures: list[dict[str, Any]] = []
    devices: dict[str, None] = {}  # in the order in which they come
    device = options.detector.device
    named = options_of(type(options.detector))["device"]
    real = device != Device("cpu") and options.detector.engine != "simulated"
    if real and device not in (None, Device("gpu")):
        raise ConfigurationError(
            (named, f" {device}"),
            expected="gpu, of which each worker gets its own, or cpu",
            fix=("set ", named, " to gpu"),
        )
    visible = _visible_gpus() if real else []
    if real and (device or visible) and len(visible) < max(options.workers):
        raise DeviceError(
            f"{len(visible)} GPUs for {max(options.workers)} workers",
            expected="a GPU for each",
            fix=(
                *("set ", options_of(WorkersOptions)["workers"], " to fewer, or "),
                named,
                " to cpu",
            ),
        )
    runs = list(product(options.overlap, options.workers))
    for done, (overlap, workers) in enumerate(runs):
        on_progress("measuring", done, len(runs), f"{workers} workers")
        found = _rates(options, workers, overlap == "yes", visible)
        rates = [rate for rate, _ in found]
        figures.append(
            {"workers": workers, "overlap": overlap, "per_second": sum(rates), "rates": rates}
        )
        devices.update(dict.fromkeys(device for _, device in found))
    for figure in figures:
        fewest = min(
            (each for each in figures if each["overlap"] == figure["overlap"]),
            key=lambda each: each["workers"],
        )
        one = fewest["per_second"] / fewest["workers"]
        figure["efficiency"] = figure["per_second"] / (one * figure["workers"])
        figure["each"] = ", ".join(f"{rate:.0f}" for rate in figure["rates"])
    machine = ", ".join([describe_machine("numpy"), *devices])
    return Report(
        {"machine": machine, "figures": figures}, [Table.of(_COLUMNS, figures)], [machine]
    )


def _visible_gpus() -> list[str]:
    """Return what _VISIBLE calls each GPU that this process sees."""
    count = next(n for n in itertools.count() if cuda_driver.compute_capability(n) is None)
    named = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    return named[:count] or [str(index) for index in range(count)]


def _rates(
    options: WorkersOptions, workers: int, overlap: bool, visible: Sequence[str]
) -> list[tuple[float, str]]:
    """Return frames a second, and the device, of each worker, all at work at the same time."""
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pipes: list[Connection] = []
        for index in range(workers):
            ours, theirs = spawn.Pipe()
            gpu = visible[index] if visible else None
            process = spawn.Process(target=_work, args=(theirs, options, overlap, gpu), daemon=True)
            process.start()
            stack.callback(process.join, 10.0)
            stack.callback(process.terminate)
            theirs.close()
            pipes.append(ours)
        for pipe in pipes:
            _answer(pipe)
        begin = time.monotonic() + _WARMUP
        for pipe in pipes:
            pipe.send(begin)
        return [_answer(pipe) for pipe in pipes]


def _answer(pipe: Connection) -> Any:
    """Return what a worker says; raise what it raised."""
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        raise EngineError(
            "a worker that ended", expected="frames/s", fix="see what it printed; fewer workers"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(pipe: Connection, options: WorkersOptions, overlap: bool, gpu: str | None) -> None:
    """Detect in a process of its own: say that it can, wait for the time, say how fast it was."""
    wanted = options.detector
    if gpu is not None:  # before anything asks for CUDA
        os.environ[_VISIBLE] = gpu
        wanted = dataclasses.replace(wanted, device=Device("gpu"))
    elif wanted.threads is None:
        wanted = dataclasses.replace(wanted, threads=1)
    try:
        detector = create_detector(sized_for(wanted, options.size))
        try:
            detector.warmup()
            work = _calls(detector, options, overlap)
            for _ in range(_SETS):
                next(work)
            pipe.send("ready")
            rate = _rate(work, pipe.recv(), options.seconds, time.monotonic)
            simulated = "simulated " if wanted.engine == "simulated" else ""
            name = f"{simulated}{detector.device}"
            pipe.send((rate, name if gpu is None else describe_device()))
        finally:
            detector.close()
    except YoloxTrtError as error:
        pipe.send(error)


def _rate(work: Iterator[int], begin: float, seconds: float, clock: Callable[[], float]) -> float:
    """Return frames a second, from `begin` on, by the times at which calls ended."""
    while clock() < begin:
        next(work)
    first, frames = clock(), 0
    while (now := clock()) < first + seconds:
        frames += next(work)
    return frames / (now - first)


def _calls(detector: Detector, options: WorkersOptions, overlap: bool) -> Iterator[int]:
    """Make one call after the other; yield the frames of each one that has ended."""
    batch = detector.max_batch
    random = np.random.default_rng(0)
    shape = (*options.size, 3)
    frames = [
        Frame.from_array(random.integers(0, 256, shape, dtype=np.uint8))
        for _ in range(_SETS * batch)
    ]
    thresholds = [PostprocessOptions(0.5, 0.45)] * batch
    most = detector.max_calls if overlap else 1
    under_way: deque[Any] = deque()
    for start in itertools.cycle(range(0, len(frames), batch)):
        under_way.append(detector.enqueue(frames[start : start + batch], thresholds))
        if len(under_way) == most:
            detector.collect(under_way.popleft())
            yield batch
