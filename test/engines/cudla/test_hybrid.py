# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""cuDLA's hybrid mode, over the stand-in: a frame's whole way, faults, and what is left over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.cudla.network import Int8Network, Orin

from yolox_trt.core import EngineError, Frame, Letterbox, PostprocessOptions
from yolox_trt.core.faults import OutOfMemoryError
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.engines.cudla import module
from yolox_trt.engines.cudla.abi import Status
from yolox_trt.engines.cudla.hybrid import CudlaHybridEngine
from yolox_trt.engines.cudla.standalone import read_planes
from yolox_trt.kernels.reference.postprocess import Postprocessor
from yolox_trt.kernels.reference.preprocess import preprocess

FORMATS = ["int8:chw32", "fp16:chw16", "fp16:dla_linear"]
OPTIONS = PostprocessOptions(0.02, 0.5)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Orin]:
    orin = Orin(monkeypatch, getattr(request, "param", "int8:chw32"), cuda=True)
    yield orin
    orin.dla.check_clean()


def frames(count: int) -> list[Frame]:
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, 9, 14, 3), np.uint8)
    return [Frame.from_array(np.ascontiguousarray(a.repeat(16, 0).repeat(16, 1))) for a in coarse]


def image_of(frame: Frame, network: Int8Network) -> tuple[np.ndarray, Letterbox]:
    letterbox = Letterbox.of_frame(frame, network.spec.input_height, network.spec.input_width)
    return preprocess(frame, letterbox)[None].astype(np.float32), letterbox


@pytest.mark.parametrize("orin", FORMATS, indirect=True)
def test_a_frames_whole_way_equals_onnxruntime(orin: Orin, tmp_path: Path) -> None:
    """GPU preprocessing -> DLA -> GPU decode, enqueued on one stream, without a wait between."""
    network = orin.network
    engine = CudlaHybridEngine(network.write(tmp_path))
    with closing(CudaDetector(engine)) as detector:
        assert detector.graph_refusal and detector.max_calls == 2
        assert engine.input.dtype == np.int8 and engine.input_format == "dla_hwc4"
        # Two calls are under way at a time: each has its own frame's results.
        pictures = frames(3)
        tickets = [detector.enqueue([frame], [OPTIONS]) for frame in pictures[:2]]
        found = detector.collect(tickets[0])
        tickets.append(detector.enqueue([pictures[2]], [OPTIONS]))
        found += detector.collect(tickets[1]) + detector.collect(tickets[2])
        codes = np.array(engine.input)
        raw = {name: np.array(value) for name, value in engine.outputs.items()}
    for frame, detections in zip(pictures, found, strict=True):
        image, letterbox = image_of(frame, network)
        expected = Postprocessor(network.spec)(network.run(image), 0, letterbox, OPTIONS)
        # A pixel on the border of two codes may round otherwise, and moves everything a little.
        assert len(expected) > 3 and abs(len(detections) - len(expected)) <= len(expected) // 4
        np.testing.assert_allclose(detections.scores[:3], expected.scores[:3], atol=0.05)
    # Of the last frame: the input is the image by its scale, the outputs ONNX Runtime's.
    scale = np.float32(network.scales[network.input_name])
    pixels = codes[..., :3].transpose(0, 3, 1, 2) * scale
    assert np.abs(pixels - image).max() <= scale
    assert np.abs(np.rint(image / scale) - pixels / scale).mean() < 0.02
    for name, value in network.run(np.ascontiguousarray(pixels)).items():
        layout, step = network.layouts[name], np.float32(network.scales[name])
        planes = np.zeros(value.shape, np.float32)
        buffer = np.zeros(layout.buffer_shape, layout.dtype)
        layout.view(buffer)[...] = raw[name]
        read_planes(buffer, planes, layout, float(step))
        assert np.abs(planes - value).max() <= step


def test_results_need_the_streams_order(orin: Orin, tmp_path: Path) -> None:
    """What runs on another stream than the task's does not wait for it."""
    engine = CudlaHybridEngine(orin.network.write(tmp_path))
    with closing(engine):
        stream, other = orin.cupy.cuda.Stream(), orin.cupy.cuda.Stream()
        output = next(iter(engine.outputs.values()))
        engine.input[..., :3] = 100
        engine.run(1, stream)
        other.synchronize()
        before = np.array(output)
        stream.synchronize()
        assert not before.any() and np.array(output).any()


def test_batches_and_a_closed_engine_are_refused(orin: Orin, tmp_path: Path) -> None:
    engine = CudlaHybridEngine(orin.network.write(tmp_path))
    with pytest.raises(EngineError, match="batch 2"):
        engine.run(2)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(1)


def test_a_task_that_fails_is_a_fault_by_name_of_its_own_call(orin: Orin, tmp_path: Path) -> None:
    engine = CudlaHybridEngine(orin.network.write(tmp_path))
    with closing(CudaDetector(engine)) as detector:
        orin.dla.fail_task(Status.ErrorDlaErrEngineTimeout)
        ticket = detector.enqueue(frames(1), [OPTIONS])
        with pytest.raises(EngineError, match="cudlaErrorDlaErrEngineTimeout") as caught:
            detector.collect(ticket)
        assert "dmesg" in caught.value.fix
        assert len(detector.detect(frames(1), [OPTIONS])[0]) > 3


def test_a_task_that_hangs_ends_with_an_error_where_cudla_has_timeouts(
    orin: Orin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TASK_TIMEOUT_S", 0.02)
    engine = CudlaHybridEngine(orin.network.write(tmp_path))
    with closing(CudaDetector(engine)) as detector:
        orin.dla.hang()
        with pytest.raises(EngineError, match="cudlaErrorDlaErrEngineTimeout"):
            detector.detect(frames(1), [OPTIONS])
        assert len(detector.detect(frames(1), [OPTIONS])[0]) > 3


@pytest.mark.parametrize(
    ("function", "status", "kind", "text"),
    [
        ("cudlaSubmitTask", Status.ErrorUmd, EngineError, r"cudlaErrorUmd \(7\)"),
        ("cudlaSubmitTask", Status.ErrorOutOfResources, OutOfMemoryError, "OutOfResources"),
        ("cudlaSubmitTask", 99, EngineError, "cudlaStatus 0x63"),
    ],
)
def test_a_refused_task(
    orin: Orin, tmp_path: Path, function: str, status: int, kind: type, text: str
) -> None:
    engine = CudlaHybridEngine(orin.network.write(tmp_path))
    with closing(engine):
        orin.dla.fail(function, status)
        with pytest.raises(kind, match=text):
            engine.run(1)
        engine.run(1)


@pytest.mark.parametrize(
    ("function", "after"),
    [
        ("cudlaCreateDevice", 0),
        ("cudlaDeviceGetAttribute", 0),
        ("cudlaModuleLoadFromMemory", 0),
        ("cudlaModuleGetAttributes", 3),
        ("cudlaMemRegister", 0),
        ("cudlaMemRegister", 2),
        ("cudlaSetTaskTimeoutInMs", 0),
    ],
)
def test_nothing_is_left_where_setting_up_fails(
    orin: Orin, tmp_path: Path, function: str, after: int
) -> None:
    orin.dla.fail(function, Status.ErrorUmd, after)
    with pytest.raises(EngineError, match="cudlaErrorUmd"):
        CudlaHybridEngine(orin.network.write(tmp_path))
