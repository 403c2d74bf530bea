# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CpuDetector: boxes in source pixels, for every encoding, Roi and batch."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.executors import PATIENCE, PATIENT, Recorder, wait_until
from support.frames import random_frame
from support.yolox_graphs import build_yolox

from yolox_trt.core import (
    ConfigurationError,
    Detections,
    EngineError,
    Frame,
    FrameError,
    PostprocessOptions,
    Roi,
)
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.faults import DeviceBusyError
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.executor import InferenceExecutor, StreamConfig, StreamResult

OPTIONS = PostprocessOptions(score_threshold=0.05)


@pytest.fixture(scope="module")
def synthetic() -> CpuDetector:
    model = build_yolox(style="opset13", batch=None, num_classes=5)
    return CpuDetector(OnnxRuntimeEngine(model, max_batch=3, intra_op_num_threads=1))


def assert_equal(one: Detections, other: Detections, atol: float = 1e-3) -> None:
    np.testing.assert_allclose(one.boxes, other.boxes, atol=atol)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_array_equal(one.class_ids, other.class_ids)


def test_is_a_detector(synthetic: CpuDetector) -> None:
    assert isinstance(synthetic, Detector)
    synthetic.warmup()
    assert synthetic.stage_times.total > 0


def test_a_threshold_of_an_unknown_class_is_refused_before_work_begins(
    synthetic: CpuDetector,
) -> None:
    """As by the CUDA detector, so that no call is under way that cannot end."""
    wrong = PostprocessOptions(class_thresholds={5: 0.5})
    with pytest.raises(ConfigurationError, match="class 5"):
        synthetic.enqueue([random_frame("bgr8", 64, 96)], [wrong])
    assert synthetic.in_flight == 0


def test_batch_equals_single_frames(synthetic: CpuDetector) -> None:
    frames = [
        random_frame("bgr8", 64, 96, smooth=True),
        random_frame("rgb8", 200, 100, padding=3, seed=1, smooth=True),
        random_frame("nv12", 48, 130, seed=2, smooth=True),
    ]
    options = [OPTIONS, PostprocessOptions(score_threshold=0.1), OPTIONS]
    together = synthetic.detect(frames, options)
    for frame, option, result in zip(frames, options, together, strict=True):
        assert_equal(synthetic.detect([frame], [option])[0], result)
        assert len(result) > 0


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding(synthetic: CpuDetector, encoding: str) -> None:
    frame = random_frame(encoding, 80, 120, padding=8, smooth=True)
    found = synthetic.detect([frame], [OPTIONS])[0]
    assert len(found) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [120, 80, 120, 80]).all()


def test_roi_gives_boxes_in_the_whole_image(synthetic: CpuDetector) -> None:
    roi = Roi(20, 10, 64, 40)
    whole = random_frame("bgr8", 80, 120, smooth=True)
    crop = np.ascontiguousarray(whole.rows[10:50, 20:84])
    inside = synthetic.detect([random_frame("bgr8", 80, 120, roi=roi, smooth=True)], [OPTIONS])[0]
    alone = synthetic.detect([Frame.from_array(crop)], [OPTIONS])[0]
    np.testing.assert_allclose(inside.boxes, alone.boxes + np.array([20, 10, 20, 10]), atol=1e-3)
    assert (inside.boxes[:, :2] >= [20, 10]).all() and (inside.boxes[:, 2:] <= [84, 50]).all()


def test_a_bad_frame_leaves_the_detector_usable(synthetic: CpuDetector) -> None:
    frame = random_frame("bgr8", 64, 96, smooth=True)
    before = synthetic.detect([frame], [OPTIONS])[0]
    with pytest.raises(FrameError):
        synthetic.detect([Frame.view(b"123", height=1, width=2, encoding="bgr8")], [OPTIONS])
    assert_equal(synthetic.detect([frame], [OPTIONS])[0], before)


def test_wrong_counts_are_refused(synthetic: CpuDetector) -> None:
    frame = random_frame("bgr8", 64, 96)
    for frames, options in [([], []), ([frame] * 4, [OPTIONS] * 4), ([frame], [])]:
        with pytest.raises(ValueError, match="expected 1 to 3"):
            synthetic.detect(frames, options)


def test_closed_detector() -> None:
    detector = CpuDetector(OnnxRuntimeEngine(build_yolox(num_classes=2)))
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        detector.detect([random_frame("bgr8", 64, 96)], [OPTIONS])


class Meeting(Engine):
    """An engine whose runs wait for one another, once they are told to."""

    def __init__(self, engine: OnnxRuntimeEngine, barrier: threading.Barrier) -> None:
        self._engine = engine
        self._barrier = barrier
        self.device, self.spec, self.max_batch = engine.device, engine.spec, engine.max_batch
        self.input, self.outputs = engine.input, engine.outputs
        self.meets = self.fails = self.closed = False
        self.begun, self.free = threading.Event(), threading.Event()
        self.free.set()

    def run(self, batch: int, stream: Any = None) -> None:
        if self.fails:
            raise EngineError("a run that fails")
        if self.meets:
            self._barrier.wait(PATIENCE)
        self.begun.set()
        self.free.wait(PATIENCE)
        self._engine.run(batch)

    def close(self) -> None:
        self._engine.close()
        self.closed = True


@pytest.fixture
def meeting() -> tuple[CpuDetector, list[Meeting]]:
    """A detector for two calls at a time, and its engines."""
    barrier = threading.Barrier(2)
    engine = OnnxRuntimeEngine(build_yolox(num_classes=5), intra_op_num_threads=1)
    engines = [Meeting(engine, barrier), Meeting(engine.twin(), barrier)]
    detector = CpuDetector(*engines)
    detector.warmup()
    return detector, engines


def test_each_engine_works_on_a_call_of_its_own(
    synthetic: CpuDetector, meeting: tuple[CpuDetector, list[Meeting]]
) -> None:
    """Neither run ends before both have begun."""
    detector, engines = meeting
    frames = [random_frame("bgr8", 64, 96, seed=seed, smooth=True) for seed in range(4)]
    alone = [detector.detect([each], [OPTIONS])[0] for each in frames]
    for engine in engines:
        engine.meets = True
    found = []
    for pair in (frames[:2], frames[2:]):
        tickets = [detector.enqueue([each], [OPTIONS]) for each in pair]
        with pytest.raises(DeviceBusyError, match="2 calls under way on cpu; expected at most 2"):
            detector.enqueue([frames[0]], [OPTIONS])
        found += [detector.collect(ticket)[0] for ticket in tickets]
    for one, other in zip(alone, found, strict=True):
        assert len(one) > 0
        assert_equal(one, other)
    assert detector.stage_times.inference > 0


def test_a_call_that_fails_is_told_when_it_is_collected(
    meeting: tuple[CpuDetector, list[Meeting]],
) -> None:
    detector, engines = meeting
    frame = random_frame("bgr8", 64, 96, smooth=True)
    before = detector.detect([frame], [OPTIONS])[0]
    with pytest.raises(FrameError):
        detector.enqueue([Frame.view(b"123", height=1, width=2, encoding="bgr8")], [OPTIONS])
    engines[0].fails = True
    tickets = [detector.enqueue([frame], [OPTIONS]) for _ in engines]
    found, failed = [], []
    for ticket in tickets:
        try:
            found += detector.collect(ticket)
        except EngineError as error:
            failed.append(str(error))
    assert failed == ["a run that fails"]
    assert_equal(*found, before)
    engines[0].fails = False
    for _ in engines:
        assert_equal(detector.detect([frame], [OPTIONS])[0], before)
    assert_equal(detector.detect([frame], [OPTIONS])[0], before)


def test_close_ends_the_engines_threads(meeting: tuple[CpuDetector, list[Meeting]]) -> None:
    detector, engines = meeting
    detector.close()
    assert all(engine.closed for engine in engines)
    with pytest.raises(EngineError, match="closed"):
        detector.detect([random_frame("bgr8", 64, 96)], [OPTIONS])


def test_an_executor_works_on_two_streams_at_a_time(
    meeting: tuple[CpuDetector, list[Meeting]],
) -> None:
    """Those that wait when a call ends begin together."""
    detector, engines = meeting
    recorder = Recorder()
    names = ["front", "left", "right"]
    with InferenceExecutor([detector], options=PATIENT) as executor:
        for name in names:
            executor.add_stream(StreamConfig(id=name), recorder.on_result, recorder.on_drop)
        assert executor.wait_started(PATIENCE)
        for engine in engines:
            engine.begun.clear()
            engine.free.clear()
        for name in names:
            executor.submit(replace(random_frame("bgr8", 64, 96), stream_id=name))
            if name == names[0]:
                assert wait_until(lambda: any(engine.begun.is_set() for engine in engines))
                for engine in engines:
                    engine.meets = True
        for engine in engines:
            engine.free.set()
        assert recorder.wait(lambda: len(recorder.results) == len(names))
    assert not recorder.drops
    # Each is timed by its own run, not from the other's end on.
    one, other = (recorder.results[name][0].timing for name in names[1:])
    assert max(one.started, other.started) < min(one.finished, other.finished)
    for timing in (one, other):
        assert 0.0 < timing.stages.inference < timing.finished - timing.started


def test_an_executor_ends_no_earlier_than_the_calls_that_a_failure_has_cost(
    meeting: tuple[CpuDetector, list[Meeting]],
) -> None:
    """A thread that still runs its network when the process ends makes it abort."""
    detector, engines = meeting
    arrived, go = threading.Event(), threading.Event()

    def wait(result: StreamResult) -> None:
        arrived.set()
        go.wait(PATIENCE)

    recorder = Recorder()
    executor = InferenceExecutor([detector], options=PATIENT)
    for name, on_result in (("a", wait), ("b", recorder.on_result), ("c", recorder.on_result)):
        executor.add_stream(StreamConfig(id=name), on_result, recorder.on_drop)
    executor.start()
    assert executor.wait_started(PATIENCE)
    for engine in engines:
        engine.begun.clear()
    executor.submit(replace(random_frame("bgr8", 64, 96), stream_id="a"))
    assert arrived.wait(PATIENCE)
    goes_on, fails = sorted(engines, key=lambda engine: engine.begun.is_set(), reverse=True)
    fails.fails = True
    goes_on.begun.clear()
    goes_on.free.clear()
    for name in ("b", "c"):
        executor.submit(replace(random_frame("bgr8", 64, 96), stream_id=name))
    go.set()
    assert goes_on.begun.wait(PATIENCE)
    assert wait_until(lambda: executor.snapshot().devices[detector.device].errors == 1)
    ended: list[bool] = []
    closing = threading.Thread(target=lambda: ended.append(executor.close(PATIENCE)))
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    goes_on.free.set()
    closing.join(PATIENCE)
    assert ended == [True]
    assert all(engine.closed for engine in engines)
    assert not detector.in_flight


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "bgra8", "rgba8", "uyvy", "yuy2", "nv12"])
def test_real_photograph_in_every_encoding(data_dir: Path, encoding: str) -> None:
    """The same people are found however the camera packs the pixels."""
    detector = CpuDetector(OnnxRuntimeEngine(data_dir / "models" / "yolox_nano.onnx"))
    image = cv2.imread(str(data_dir / "coco_mini_train80" / "images" / "000000000790.jpg"))
    image = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
    height, width = image.shape[:2]
    options = PostprocessOptions(score_threshold=0.5)
    expected = detector.detect([Frame.from_array(image)], [options])[0]
    assert "person" in {detector.spec.class_name(int(c)) for c in expected.class_ids}
    if encoding == "nv12":
        yuv = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
        chroma = yuv[height:].reshape(2, height // 2, width // 2)
        data = np.concatenate([yuv[:height].ravel(), np.stack(chroma, -1).ravel()])
        frame = Frame.view(data, height=height, width=width, encoding="nv12")
    else:
        code = {
            "bgr8": None,
            "rgb8": cv2.COLOR_BGR2RGB,
            "bgra8": cv2.COLOR_BGR2BGRA,
            "rgba8": cv2.COLOR_BGR2RGBA,
            "uyvy": cv2.COLOR_BGR2YUV_UYVY,
            "yuy2": cv2.COLOR_BGR2YUV_YUY2,
        }[encoding]
        frame = Frame.from_array(image if code is None else cv2.cvtColor(image, code), encoding)
    found = detector.detect([frame], [options])[0]
    # Halved chroma moves borderline boxes; the clear ones stay where they are.
    clear = expected.scores > 0.7
    for box, class_id in zip(expected.boxes[clear], expected.class_ids[clear], strict=True):
        same = found.boxes[found.class_ids == class_id]
        assert np.abs(same - box).max(axis=1).min() < (0.01 if "8" in encoding else 8)
