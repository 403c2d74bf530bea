# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""cuDLA's standalone mode, over the stand-in: no CUDA, NvSci's memory, the executor's restarts."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cudla.network import Orin
from support.executors import (
    DLA0,
    DLA1,
    PATIENCE,
    Recorder,
    VirtualClock,
    check_counters,
    new_threads,
    wait_until,
)
from support.layouts import chw_to_hwc4, pack

from yolox_trt.core import Device, EngineError, Frame, Letterbox, PostprocessOptions
from yolox_trt.core.errors import MissingDependencyError
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.cudla import abi, library, standalone
from yolox_trt.engines.cudla.abi import Status
from yolox_trt.engines.cudla.hybrid import CudlaHybridEngine
from yolox_trt.engines.cudla.standalone import CudlaStandaloneEngine, read_planes, write_planes
from yolox_trt.engines.tensor_layout import TensorLayout
from yolox_trt.executor import DropReason, InferenceExecutor, SchedulerOptions, StreamConfig
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor
from yolox_trt.kernels.reference.postprocess import Postprocessor

OPTIONS = PostprocessOptions(0.02, 0.5)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Orin]:
    orin = Orin(monkeypatch, *getattr(request, "param", ()))
    yield orin
    orin.dla.check_clean()


def picture(seed: int = 5) -> Frame:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 14, 3), np.uint8)
    return Frame.from_array(np.ascontiguousarray(coarse.repeat(16, 0).repeat(16, 1)))


@pytest.mark.parametrize(
    "orin",
    [
        ("int8:chw32", "int8:dla_hwc4"),
        ("fp16:chw16", "int8:dla_linear"),
        ("fp16:dla_linear", "int8:chw32"),
        ("int8:dla_linear", "fp16:chw16"),
    ],
    indirect=True,
)
def test_a_frames_whole_way_equals_onnxruntime(orin: Orin, tmp_path: Path) -> None:
    network = orin.network
    engine = CudlaStandaloneEngine(network.write(tmp_path))
    name = network.input_name
    with closing(CpuDetector(engine)) as detector:
        for seed in range(3):  # each frame has its own results
            frame = picture(seed)
            (detections,) = detector.detect([frame], [OPTIONS])
            image = np.zeros((1, 3, network.spec.input_height, network.spec.input_width), "f4")
            letterbox = CpuPreprocessor(network.spec.preprocessing)(frame, image[0])
            assert isinstance(letterbox, Letterbox)
            np.testing.assert_array_equal(engine.input, image)
            if network.layouts[name].dtype == "int8":
                scale = np.float32(network.scales[name])
                image = np.rint(image / scale).clip(-128, 127) * scale
            outputs = network.run(image)
            for output, value in outputs.items():
                step = network.scales[output]
                assert np.abs(engine.outputs[output] - value).max() <= step
            expected = Postprocessor(network.spec)(outputs, 0, letterbox, OPTIONS)
            assert len(expected) > 3
            np.testing.assert_allclose(detections.scores[:3], expected.scores[:3], atol=0.02)


def test_frames_leave_nothing_behind(orin: Orin, tmp_path: Path) -> None:
    with closing(CudlaStandaloneEngine(orin.network.write(tmp_path))) as engine:
        before, results = orin.dla.c.standin_alive(), []
        for level in (10, 200) * 5:
            engine.input[...] = level
            engine.run(1)
            results.append(engine.outputs["reg_8"].copy())
        assert orin.dla.c.standin_alive() == before
    for number, result in enumerate(results[2:]):
        np.testing.assert_array_equal(result, results[number % 2])
    assert np.abs(results[0] - results[1]).max() > 0


def test_a_task_that_does_not_end_is_given_up(
    orin: Orin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its buffers until it has ended: then the next one runs, with its own results."""
    assert standalone.TASK_TIMEOUT_S >= 1.0
    with closing(CudlaStandaloneEngine(orin.network.write(tmp_path))) as engine:
        engine.input[...] = 10
        engine.run(1)
        expected = engine.outputs["reg_8"].copy()
        engine.input[...] = 200
        orin.dla.hang()
        with monkeypatch.context() as short:
            short.setattr(standalone, "TASK_TIMEOUT_S", 0.01)
            with pytest.raises(EngineError, match="NvSciSyncFenceWait returned NvSciError"):
                engine.run(1)
        engine.input[...] = 10
        with pytest.raises(EngineError, match="NvSciSyncFenceWait returned NvSciError"):
            engine.run(1)  # at once
        np.testing.assert_array_equal(engine.outputs["reg_8"], expected)
        orin.dla.release()
        orin.dla.wait()
        for _ in range(2):
            engine.run(1)
            np.testing.assert_array_equal(engine.outputs["reg_8"], expected)
        orin.dla.fail("cudlaSubmitTask", Status.ErrorUmd)
        with pytest.raises(EngineError, match="cudlaErrorUmd"):
            engine.run(1)
        engine.run(1)


def test_what_a_task_that_hangs_uses_is_freed_when_it_has_ended(
    orin: Orin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = orin.network.write(tmp_path)
    engine = CudlaStandaloneEngine(file)
    kept = orin.dla.c.standin_alive()
    orin.dla.hang()
    with monkeypatch.context() as short:
        short.setattr(standalone, "TASK_TIMEOUT_S", 0.0)
        with pytest.raises(EngineError, match="NvSciSyncFenceWait"):
            engine.run(1)
        engine.close()
    with pytest.raises(EngineError, match=r"dla0 works on a task of yolox\.engine"):
        CudlaStandaloneEngine(file)
    assert orin.dla.c.standin_alive() == kept
    orin.dla.release()
    orin.dla.wait()
    with closing(CudlaStandaloneEngine(file)) as engine:
        engine.run(1)
        assert orin.dla.c.standin_alive() == kept


def test_a_task_that_fails_is_told_by_name(orin: Orin, tmp_path: Path) -> None:
    with closing(CudlaStandaloneEngine(orin.network.write(tmp_path))) as engine:
        orin.dla.fail_task(Status.ErrorDlaErrDataMismatch)
        with pytest.raises(EngineError, match="cudlaErrorDlaErrDataMismatch"):
            engine.run(1)
        engine.run(1)
        with pytest.raises(EngineError, match="batch 2"):
            engine.run(2)
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)


@pytest.mark.parametrize(
    ("function", "status", "text"),
    [
        ("NvSciBufModuleOpen", 0x101, "NvSciBufModuleOpen returned NvSciError 0x101"),
        ("NvSciBufAttrListReconcile", 0x11, "NvSciBufAttrListReconcile"),
        ("NvSciBufObjAlloc", 1, "NvSciBufObjAlloc"),
        ("NvSciSyncModuleOpen", 1, "NvSciSyncModuleOpen"),
        ("NvSciSyncObjAlloc", 1, "NvSciSyncObjAlloc"),
        ("NvSciSyncCpuWaitContextAlloc", 1, "NvSciSyncCpuWaitContextAlloc"),
        ("cudlaImportExternalMemory", 14, "cudlaErrorNvSci"),
        ("cudlaImportExternalSemaphore", 13, "cudlaErrorUnsupportedOperation"),
        ("cudlaGetNvSciSyncAttributes", 14, "cudlaErrorNvSci"),
    ],
)
def test_nothing_is_left_where_setting_up_fails(
    orin: Orin, tmp_path: Path, function: str, status: int, text: str
) -> None:
    orin.dla.fail(function, status)
    with pytest.raises(EngineError, match=text):
        CudlaStandaloneEngine(orin.network.write(tmp_path))


def test_without_nvsci_its_package_is_named(
    orin: Orin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = library.LIBRARIES | {"nvscisync": ("libnvscisync-none.so", "apt install l4t-nvsci")}
    monkeypatch.setattr(library, "LIBRARIES", files)
    with pytest.raises(MissingDependencyError, match="standalone mode") as caught:
        CudlaStandaloneEngine(orin.network.write(tmp_path))
    assert caught.value.fix == "apt install l4t-nvsci"


@given(
    form=st.sampled_from(["dla_linear", "dla_hwc4", "chw16", "chw32"]),
    channels=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_planes_there_and_back(form: str, channels: int, width: int, seed: int) -> None:
    channels = min(channels, 4) if form == "dla_hwc4" else channels
    layout = TensorLayout((1, channels, 3, width), "int8", form)
    planes = np.random.default_rng(seed).uniform(-3, 3, layout.shape).astype(np.float32)
    scale = 0.02
    buffer = np.zeros(layout.buffer_shape, np.int8)
    write_planes(planes, buffer, layout, scale)
    codes = np.rint(planes / np.float32(scale)).clip(-128, 127).astype(np.int8)
    expected: Any = np.zeros_like(buffer)
    if form == "dla_hwc4":
        padded = np.zeros((1, 3, 3, width), np.int8)
        padded[:, : min(channels, 3)] = codes[:, :3]
        expected = chw_to_hwc4(padded, row_alignment=64)
        expected[:, :, :width, 3] = codes[:, 3] if channels == 4 else 0
    elif form == "dla_linear":
        layout.view(expected)[...] = codes
    else:
        expected = pack(codes, int(form[3:]))
    np.testing.assert_array_equal(buffer, expected)
    if form != "dla_hwc4":  # a format of images alone
        back = np.zeros(layout.shape, np.float32)
        read_planes(buffer, back, layout, scale)
        np.testing.assert_allclose(back, codes * np.float32(scale), rtol=1e-6)


def test_the_executor_restarts_a_device_whose_task_failed(orin: Orin, tmp_path: Path) -> None:
    """As for other engines: the frame is dropped, and a new engine serves the next ones."""
    file = orin.network.write(tmp_path)

    def make(device: Device, model: str) -> CpuDetector:
        return CpuDetector(CudlaStandaloneEngine(file, device=device))

    recorder, clock = Recorder(), VirtualClock(1.0)
    options = SchedulerOptions(backoff=0.1)
    first = make(DLA0, "")
    with InferenceExecutor([first], options=options, factory=make, clock=clock) as executor:
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        orin.dla.fail_task(Status.ErrorDlaErrTaskStatusMismatch)
        executor.submit(dataclasses.replace(picture(), stream_id="a", stamp_ns=1))
        assert recorder.wait(lambda: recorder.drops["a"] == [(1, DropReason.FAILED)])
        failed = executor.snapshot().devices[DLA0]
        assert "cudlaErrorDlaErrTaskStatusMismatch" in failed.last_error
        clock.advance_to(clock() + options.backoff)
        assert wait_until(lambda: executor.snapshot().devices[DLA0].restarts == 1)
        executor.submit(dataclasses.replace(picture(), stream_id="a", stamp_ns=2))
        assert recorder.wait(lambda: recorder.numbers("a") == [2])
        assert len(recorder.results["a"][0].detections) > 3


@pytest.mark.parametrize("hybrid", [False, True])
def test_streams_move_on_from_a_core_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hybrid: bool
) -> None:
    """Without cuDLA's timeouts, which 1.2.1 has not: the watchdog finds it.

    The other core takes the stream, the core comes back when its task has ended, and neither
    memory nor a thread is left.
    """
    monkeypatch.delitem(abi.CUDLA_LATER_FUNCTIONS, "cudlaSetTaskTimeoutInMs")
    monkeypatch.setattr(standalone, "TASK_TIMEOUT_S", 2.0 * PATIENCE)
    orin, before = Orin(monkeypatch, cuda=hybrid), threading.enumerate()
    files = {}
    for device in (DLA0, DLA1):
        (tmp_path / str(device)).mkdir()
        files[device] = orin.network.write(tmp_path / str(device), device=str(device))

    def make(device: Device, model: str) -> Detector:
        if hybrid:
            return CudaDetector(CudlaHybridEngine(files[device]))
        return CpuDetector(CudlaStandaloneEngine(files[device]))

    recorder, clock = Recorder(), VirtualClock(1.0)
    options = SchedulerOptions(watchdog=1.0, watchdog_factor=1.0, backoff=0.1)
    detectors = [make(device, "") for device in files]
    stamps = itertools.count(1)

    def submit() -> int:
        frame = dataclasses.replace(picture(), stream_id="a", stamp_ns=next(stamps))
        executor.submit(frame)
        return frame.stamp_ns

    executor = InferenceExecutor(detectors, options=options, factory=make, clock=clock)
    with executor, contextlib.ExitStack() as always:
        always.callback(orin.dla.release)  # the executor would wait for what hangs
        executor.add_stream(StreamConfig(id="a"), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        submit()
        assert recorder.wait(lambda: recorder.numbers("a") == [1])
        orin.dla.hang()
        lost = submit()
        assert wait_until(lambda: executor.snapshot().streams["a"].waiting == 0)
        clock.advance_to(clock() + 1000.0)  # whatever the watchdog takes from the warm-up's time
        assert recorder.wait(lambda: recorder.drops["a"] == [(lost, DropReason.FAILED)])
        (hung,) = (d for d, found in executor.snapshot().devices.items() if found.hangs)
        other = submit()
        assert recorder.wait(lambda: recorder.numbers("a") == [1, other])
        assert recorder.results["a"][-1].device != hung
        orin.dla.release()
        clock.advance_to(clock() + 0.2)
        assert wait_until(lambda: executor.snapshot().devices[hung].restarts == 1)
        # The thread that hung closes its engine, and ends: one worker a core stays.
        assert wait_until(
            lambda: sum(t.name.startswith("executor-dla") for t in new_threads(before)) == 2
        )
        last = submit()
        assert recorder.wait(lambda: recorder.numbers("a") == [1, other, last])
        assert all(len(result.detections) > 3 for result in recorder.results["a"])
        check_counters(executor.snapshot())
    assert wait_until(lambda: not new_threads(before))
    detectors.clear()  # what CuPy allocates goes with the last array
    orin.dla.check_clean()
