# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CpuDetector: preprocess, host engine, decode and NMS on the CPU."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector, StageTimes, Ticket
from yolox_trt.engines.engine import Engine
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor
from yolox_trt.kernels.reference.postprocess import Postprocessor


class CpuDetector(Detector):
    """A Detector over engines with host buffers.

    With one engine a call is over when enqueue() returns. With more, each runs in a thread of its
    own, and as many calls may be under way: a core that works on an image of its own waits for no
    other core, which several threads that share one image do at each layer of the network.

    Args:
        engine: a host engine.
        twins: further engines for the same model, alike in all that counts.

    The detector closes them.

    Raises:
        EngineError: the engine's buffers are not in host memory.
    """

    def __init__(self, engine: Engine, *twins: Engine) -> None:
        if engine.memory != "host":
            raise EngineError(
                f"an engine on {engine.device} with {engine.memory} buffers",
                expected="host buffers",
                fix="use detectors.factory.create_detector, which takes the right detector",
            )
        super().__init__(engine.device, engine.spec, engine.max_batch, 1 + len(twins))
        self.at_once = self.max_calls
        self._preprocessor = CpuPreprocessor(engine.spec.preprocessing)
        self._postprocessor = Postprocessor(engine.spec)
        self._runners = [_Runner(each, own_thread=bool(twins)) for each in (engine, *twins)]
        self._calls = 0

    def warmup(self) -> None:
        """Run each engine once on grey frames, so that the first real frame is not slow."""
        for _ in self._runners:
            super().warmup()

    def close(self) -> None:
        """Release the engines; the detector cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            for runner in self._runners:
                runner.close(wait=not self.in_flight)

    def _start(self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]) -> Ticket:
        # Calls end in the order in which they begin: the engine used longest ago is free.
        runner = self._runners[self._calls % len(self._runners)]
        start = time.perf_counter()
        for option in options:
            self._postprocessor.thresholds(option)  # what does not fit is refused before any work
        try:
            letterboxes = [
                self._preprocessor(frame.on_host(), image)
                for frame, image in zip(frames, runner.inputs, strict=False)
            ]
            preprocessed = time.perf_counter()
            runner.start(len(frames))
        except MemoryError as error:
            self._raise(error, "running")
        self._calls += 1
        return _Call(
            len(frames),
            runner=runner,
            letterboxes=letterboxes,
            options=options,
            preprocess=preprocessed - start,
        )

    def _finish(self, ticket: Ticket) -> list[Detections]:
        assert isinstance(ticket, _Call)
        try:
            inference = ticket.runner.wait()
            inferred = time.perf_counter()
            detections = [
                self._postprocessor(ticket.runner.outputs, index, letterbox, option)
                for index, (letterbox, option) in enumerate(
                    zip(ticket.letterboxes, ticket.options, strict=True)
                )
            ]
            for found, letterbox in zip(detections, ticket.letterboxes, strict=True):
                self.plausibility.look(found, letterbox, self._postprocessor.implausible)
        except MemoryError as error:
            self._raise(error, "running")
        self.stage_times = StageTimes(
            preprocess=ticket.preprocess,
            inference=inference,
            postprocess=time.perf_counter() - inferred,
        )
        return detections


@dataclass(eq=False, kw_only=True)
class _Call(Ticket):
    """A call under way, and what its detections are made with."""

    runner: _Runner
    letterboxes: Sequence[Letterbox]
    options: Sequence[PostprocessOptions]
    preprocess: float


class _Runner:
    """Runs an engine: at once, or in a thread of its own.

    Attributes:
        inputs: input buffer of each image of a batch.
        outputs: output buffers by name.
    """

    def __init__(self, engine: Engine, *, own_thread: bool) -> None:
        self.inputs = [engine.input[i] for i in range(engine.max_batch)]
        self.outputs = dict(engine.outputs)
        self._engine = engine
        self._seconds = 0.0
        self._batches: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if own_thread:
            name = f"detect {engine.device}"
            # A daemon, as the executor's threads are: a run that hangs must not hold up Ctrl-C.
            self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._thread.start()

    def start(self, batch: int) -> None:
        """Start a run; without a thread it is over when this returns."""
        if self._thread is None:
            self._run(batch)
        else:
            self._batches.put(batch)

    def wait(self) -> float:
        """Wait for the run; return its seconds, or raise what it has failed with."""
        if self._thread is not None and (error := self._ends.get()) is not None:
            raise error
        return self._seconds

    def close(self, *, wait: bool) -> None:
        """Release the engine, after the run that is under way.

        Args:
            wait: whether to wait until it is released.
        """
        if self._thread is None:
            self._engine.close()
            return
        self._batches.put(0)
        if wait:
            self._thread.join()

    def _run(self, batch: int) -> None:
        start = time.perf_counter()
        self._engine.run(batch)
        self._seconds = time.perf_counter() - start

    def _serve(self) -> None:
        while batch := self._batches.get():
            try:
                self._run(batch)
            except Exception as error:
                self._ends.put(error)
            else:
                self._ends.put(None)
        self._engine.close()
