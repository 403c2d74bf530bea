# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CpuDetector: boxes in source pixels, for every encoding, Roi and batch."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.frames import random_frame
from support.yolox_graphs import build_yolox

from yolox_trt.core import Detections, EngineError, Frame, FrameError, PostprocessOptions, Roi
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine

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
