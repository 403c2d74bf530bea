# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Simulated engines: latency models, devices that share a memory, faults on command."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.faults import OutOfMemoryError
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, ModelSpec
from yolox_trt.engines.engine import Engine


class LatencyModel(Protocol):
    """How long a call takes when nothing else runs.

    Attributes:
        mean: expected seconds of a call with one image.
        worst: longest seconds of a call with one image.
    """

    mean: float
    worst: float

    def sample(self, rng: np.random.Generator, batch: int = 1) -> float:
        """Return the seconds of one call.

        Args:
            rng: source of randomness.
            batch: images in the call.
        """
        ...


class ConstantLatency:
    """Every image takes the same time.

    Args:
        seconds: of one image, more than 0.
    """

    def __init__(self, seconds: float) -> None:
        _check_seconds(seconds)
        self.mean = self.worst = seconds

    def sample(self, rng: np.random.Generator, batch: int = 1) -> float:
        """Return seconds x batch."""
        return self.mean * batch


class MeasuredLatency:
    """Draws from measured times, each as likely as the others.

    Args:
        samples: seconds of single-image calls, at least one, all more than 0.
    """

    def __init__(self, samples: Sequence[float] | npt.NDArray[np.float64]) -> None:
        self._samples = np.asarray(samples, np.float64)
        if self._samples.ndim != 1 or not len(self._samples):
            raise ConfigurationError(
                f"latency samples of shape {self._samples.shape}",
                expected="a list of at least one time",
                fix="give the measured times",
            )
        for seconds in (self._samples.min(), self._samples.max()):
            _check_seconds(float(seconds))
        self.mean = float(self._samples.mean())
        self.worst = float(self._samples.max())

    def sample(self, rng: np.random.Generator, batch: int = 1) -> float:
        """Return a sample x batch."""
        return float(self._samples[rng.integers(len(self._samples))]) * batch


class BatchLatency:
    """Times measured for several batch sizes; linear in between and beyond.

    Args:
        table: batch size -> seconds of the whole call; 1 must be in it.
    """

    def __init__(self, table: Mapping[int, float]) -> None:
        if 1 not in table:
            raise ConfigurationError(
                f"a batch table for {sorted(table)}",
                expected="the time of batch 1 in it",
                fix="add it",
            )
        for seconds in table.values():
            _check_seconds(seconds)
        self._sizes = np.array(sorted(table), np.float64)
        self._seconds = np.array([table[size] for size in sorted(table)])
        self.mean = self.worst = float(table[1])

    def sample(self, rng: np.random.Generator, batch: int = 1) -> float:
        """Return the interpolated seconds of a call."""
        sizes, seconds = self._sizes, self._seconds
        if batch > sizes[-1]:
            if len(sizes) == 1:
                return float(seconds[0]) * batch
            slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
            return float(seconds[-1] + slope * (batch - sizes[-1]))
        return float(np.interp(batch, sizes, seconds))


class ScaledLatency:
    """Another latency times a factor: a network at another input size, say.

    Args:
        latency: of one network.
        factor: more than 0.
    """

    def __init__(self, latency: LatencyModel, factor: float) -> None:
        self._latency, self._factor = latency, factor
        self.mean, self.worst = latency.mean * factor, latency.worst * factor
        _check_seconds(self.worst)

    def sample(self, rng: np.random.Generator, batch: int = 1) -> float:
        """Return the other's seconds times the factor."""
        return self._latency.sample(rng, batch) * self._factor


def _check_seconds(seconds: float) -> None:
    if not 0.0 < seconds < float("inf"):
        raise ConfigurationError(
            f"a latency of {seconds} s", expected="more than 0", fix="give seconds"
        )


class SharedMemoryChip:
    """Devices of one chip in real time: sleeps as long as a call takes beside the others.

    Args:
        contention: how they slow each other down.
    """

    def __init__(self, contention: Contention | None = None) -> None:
        self._contention = contention or Contention()
        self._changed = threading.Condition()
        self._busy: list[Device] = []

    def work(self, device: Device, seconds: float) -> None:
        """Block for a call that takes `seconds` when nothing else runs."""
        if self._contention.none:
            time.sleep(seconds)
            return
        with self._changed:
            self._busy.append(device)
            self._changed.notify_all()
            remaining = seconds
            while remaining > 0.0:
                factor = self._contention.slowdown(device, self._busy)
                start = time.perf_counter()
                self._changed.wait(remaining * factor)
                remaining -= (time.perf_counter() - start) / factor
            self._busy.remove(device)
            self._changed.notify_all()


class Fault(enum.Enum):
    """What a simulated engine does on command instead of a result."""

    RAISE = "raise"
    """Raises EngineError, as after a CUDA error."""
    NAN = "nan"
    """Gives NaN."""
    HANG = "hang"
    """Does not return for the commanded time."""
    OUT_OF_MEMORY = "out_of_memory"
    """Raises OutOfMemoryError; calls with one image succeed."""


class FaultInjector:
    """Commands faults to the engines that share it. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._count = 0
        self._seconds = 0.0
        self._release = threading.Event()
        self.injected = 0

    def inject(self, fault: Fault, *, count: int | None = 1, seconds: float = 3600.0) -> None:
        """Let the next calls fail.

        Args:
            fault: how.
            count: how many calls; None until `clear`.
            seconds: length of a hang; `clear` ends it too.
        """
        with self._lock:
            self._fault = fault
            self._count = -1 if count is None else count
            self._seconds = seconds
            self._release = threading.Event()

    def clear(self) -> None:
        """Let calls succeed again, and end the hangs that are under way."""
        with self._lock:
            self._fault = None
            self._release.set()

    def take(self, batch: int = 1) -> Fault | None:
        """Act out a fault if one is due.

        Args:
            batch: images in the call.

        Returns:
            Fault.NAN if the caller must give NaN, Fault.HANG after a hang, else None.

        Raises:
            EngineError: for RAISE.
            OutOfMemoryError: for OUT_OF_MEMORY.
        """
        with self._lock:
            fault = self._fault
            if fault is None or (fault is Fault.OUT_OF_MEMORY and batch == 1):
                return None
            if self._count > 0:
                self._count -= 1
                if self._count == 0:
                    self._fault = None
            self.injected += 1
            seconds, release = self._seconds, self._release
        if fault is Fault.RAISE:
            raise EngineError(
                "simulated fault: the network did not run",
                fix="clear the fault (FaultInjector.clear)",
            )
        if fault is Fault.OUT_OF_MEMORY:
            raise OutOfMemoryError(
                "simulated fault: memory is full",
                fix="clear the fault (FaultInjector.clear)",
            )
        if fault is Fault.HANG:
            release.wait(seconds)
        return fault


class SimulatedEngine(Engine):
    """An Engine that sleeps instead of computing: outputs are zeros (no detection), or NaN.

    Host buffers, so that a CpuDetector runs its real preprocessing, decode and NMS around it.

    Args:
        device: where it pretends to run.
        spec: what it takes and gives; its head must be UNDECODED or DECODED.
        latency: how long a call takes.
        max_batch: largest batch.
        faults: commands faults; None never fails.
        chip: other devices that slow it down; None for none.
        seed: of the latency model's randomness.
    """

    def __init__(
        self,
        device: Device,
        spec: ModelSpec,
        latency: LatencyModel,
        *,
        max_batch: int = 1,
        faults: FaultInjector | None = None,
        chip: SharedMemoryChip | None = None,
        seed: int = 0,
    ) -> None:
        if spec.head not in (HeadLayout.UNDECODED, HeadLayout.DECODED):
            raise ConfigurationError(
                f"a simulated engine with the head {spec.head.value}",
                expected="undecoded or decoded",
                fix="simulate with simulated_spec()",
            )
        self.device = device
        self.spec = spec
        self._latency = latency
        self.max_batch = max_batch
        self._faults = faults
        self._chip = chip or SharedMemoryChip()
        self._rng = np.random.default_rng(seed)
        shape = (max_batch, 3, spec.input_height, spec.input_width)
        # np.full touches the pages at once, as the engines of host memory do.
        self.input = np.full(shape, 0, spec.input_dtype)
        rows = (max_batch, spec.num_anchors, 5 + spec.num_classes)
        self.outputs = {spec.output_names[0]: np.full(rows, 0, np.float32)}
        if (masks := spec.segmentation) is not None:
            channels = () if masks.has_argmax else (masks.num_classes,)
            grid = (max_batch, *channels, masks.height, masks.width)
            self.outputs[masks.name] = np.full(grid, 0, np.float32)
        self._closed = False

    def run(self, batch: int, stream: Any = None) -> None:
        """Sleep for the latency of a call; or do what the FaultInjector commands.

        Raises:
            EngineError: a commanded fault, a batch out of range, or a closed engine.
        """
        self.check_batch(batch, is_open=not self._closed)
        fault = self._faults.take(batch) if self._faults is not None else None
        self._chip.work(self.device, self._latency.sample(self._rng, batch))
        value = np.nan if fault is Fault.NAN else 0.0
        for output in self.outputs.values():
            output[:batch] = value

    def close(self) -> None:
        """Refuse further runs."""
        self._closed = True


def simulated_spec(height: int = 960, width: int = 960, num_classes: int = 8) -> ModelSpec:
    """Return the description of a YOLOX with strides 8, 16, 32 and an undecoded output.

    Args:
        height: of the input, a multiple of 32.
        width: of the input, a multiple of 32.
        num_classes: classes; 8 as in TIER IV's models.
    """
    return ModelSpec(
        input_name="images",
        input_height=height,
        input_width=width,
        batch=None,
        num_classes=num_classes,
        head=HeadLayout.UNDECODED,
        output_names=("output",),
        levels=tuple(HeadLevel(s, height // s, width // s) for s in (8, 16, 32)),
    )
