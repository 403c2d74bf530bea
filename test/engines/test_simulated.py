# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Simulated engines and detectors: latency models, contention, faults, the factory's backend."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.timing import ever_within
from support.yolox_graphs import build_yolox

from yolox_trt.core import ConfigurationError, Device, EngineError, Frame, PostprocessOptions
from yolox_trt.core.contention import MEASURED_CONTENTION, Contention
from yolox_trt.core.faults import OutOfMemoryError
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.detectors.simulated import SimulatedDetector
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.simulated import (
    BatchLatency,
    ConstantLatency,
    Fault,
    FaultInjector,
    MeasuredLatency,
    SharedMemoryChip,
    SimulatedEngine,
    simulated_spec,
)

GPU, DLA0, DLA1 = Device("gpu"), Device("dla", 0), Device("dla", 1)


def test_latency_models() -> None:
    rng = np.random.default_rng(0)
    assert ConstantLatency(0.004).sample(rng, 3) == pytest.approx(0.012)
    measured = MeasuredLatency([0.001, 0.002, 0.006])
    drawn = {round(measured.sample(rng), 6) for _ in range(100)}
    assert drawn == {0.001, 0.002, 0.006}
    assert (measured.mean, measured.worst) == (pytest.approx(0.003), 0.006)
    # cuDLA-samples: YOLOv5s on an Orin's GPU, INT8.
    table = BatchLatency({1: 1.82e-3, 2: 2.91e-3, 4: 4.99e-3})
    assert table.sample(rng, 3) == pytest.approx(3.95e-3)
    assert table.sample(rng, 8) == pytest.approx(4.99e-3 + 4 * 1.04e-3)
    assert BatchLatency({1: 0.002}).sample(rng, 4) == pytest.approx(0.008)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_latencies_must_be_positive(seconds: float) -> None:
    for make in (ConstantLatency, lambda s: MeasuredLatency([s]), lambda s: BatchLatency({1: s})):
        with pytest.raises(ConfigurationError, match="latency"):
            make(seconds)


def test_contention_factors() -> None:
    contention = Contention(gpu_with_dla=1.3, dla_with_gpu=1.2, dla_with_dla=1.1)
    assert contention.slowdown(GPU, [GPU]) == 1.0
    assert contention.slowdown(GPU, [GPU, DLA0, DLA1]) == 1.3
    assert contention.slowdown(DLA0, [DLA0, GPU]) == 1.2
    assert contention.slowdown(DLA0, [DLA0, GPU, DLA1]) == pytest.approx(1.32)
    assert contention.slowdown(Device("cpu"), [GPU, DLA0]) == 1.0
    assert Contention().none
    assert not MEASURED_CONTENTION.none


def test_contention_in_real_time() -> None:
    """Side by side both take longer than alone, by the factors; a busy machine delays either."""
    chip = SharedMemoryChip(Contention(gpu_with_dla=2.0, dla_with_gpu=1.5))
    lengths: dict[Device, float] = {}

    def work(device: Device, seconds: float) -> None:
        begin = time.perf_counter()
        chip.work(device, seconds)
        lengths[device] = time.perf_counter() - begin

    def alone() -> float:
        work(GPU, 0.1)
        assert lengths[GPU] >= 0.1
        return lengths[GPU]

    def side_by_side() -> float:
        threads = [threading.Thread(target=work, args=args) for args in ((GPU, 0.1), (DLA0, 0.1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The DLA ends after 0.15 s; the GPU has done 0.075 s of work by then, and ends at 0.175 s.
        return max(abs(lengths[DLA0] - 0.15), abs(lengths[GPU] - 0.175))

    assert ever_within(0.15, alone)
    assert ever_within(0.02, side_by_side, attempts=20)


def test_fault_injector_counts_and_clears() -> None:
    faults = FaultInjector()
    assert faults.take() is None
    faults.inject(Fault.RAISE, count=2)
    for _ in range(2):
        with pytest.raises(EngineError, match="did not run"):
            faults.take()
    assert faults.take() is None
    faults.inject(Fault.NAN, count=None)
    assert [faults.take() for _ in range(3)] == [Fault.NAN] * 3
    faults.clear()
    assert faults.take() is None
    faults.inject(Fault.OUT_OF_MEMORY)
    assert faults.take(1) is None, "one image fits"
    with pytest.raises(OutOfMemoryError):
        faults.take(2)
    assert faults.injected == 6


def test_a_hang_ends_by_time_or_by_clear() -> None:
    faults = FaultInjector()
    begin = time.perf_counter()
    faults.inject(Fault.HANG, seconds=0.05)
    assert faults.take() is Fault.HANG
    assert time.perf_counter() - begin >= 0.05
    faults.inject(Fault.HANG)
    threading.Timer(0.05, faults.clear).start()
    assert faults.take() is Fault.HANG


def test_engine_gives_zeros_and_nan_to_the_real_decoder() -> None:
    faults = FaultInjector()
    engine = SimulatedEngine(
        GPU, simulated_spec(64, 96, 3), ConstantLatency(0.001), max_batch=2, faults=faults
    )
    assert isinstance(engine, Engine)
    detector = CpuDetector(engine)
    frame = Frame.from_array(np.zeros((50, 70, 3), np.uint8))
    options = PostprocessOptions(score_threshold=0.01)
    assert [len(d) for d in detector.detect([frame, frame], [options] * 2)] == [0, 0]
    assert detector.stage_times.inference >= 0.001
    faults.inject(Fault.NAN)
    with pytest.raises(EngineError, match="NaN"):
        detector.detect([frame], [options])
    assert len(detector.detect([frame], [options])[0]) == 0, "the next run is clean"
    with pytest.raises(EngineError, match="batch 3"):
        engine.run(3)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)


def test_detector_protocol() -> None:
    detector = SimulatedDetector(DLA0, ConstantLatency(0.001), max_batch=8)
    assert isinstance(detector, Detector)
    assert detector.max_batch == 1, "a DLA takes one image"
    detector.warmup()
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        detector.warmup()


def test_factory_makes_simulated_detectors(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build_yolox(num_classes=3), str(path))
    detector = create_detector(
        DetectorOptions(model=path, device=Device.parse("dla1"), engine="simulated", latency=0.004)
    )
    assert isinstance(detector, SimulatedDetector)
    assert (str(detector.device), detector.spec.num_classes) == ("dla1", 3)
    begin = time.perf_counter()
    detector.warmup()
    assert time.perf_counter() - begin >= 0.004
    contended = create_detector(
        DetectorOptions(model=path, device=Device("gpu"), engine="simulated", contention=True)
    )
    contended.warmup()
    assert contended.stage_times.inference >= 4.1e-3
