# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One model at the sizes that fit the images, over real engines."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from support.yolox_graphs import build_yolox

from yolox_trt.core import Device, EngineError, ModelError
from yolox_trt.core.detections import Detections
from yolox_trt.core.faults import DeviceBrokenError, OutOfMemoryError
from yolox_trt.core.frame import Frame
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.roi import Roi
from yolox_trt.detectors import auto_size
from yolox_trt.detectors.auto_size import AutoSizeDetector
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.factory import create_detector, sized_for
from yolox_trt.detectors.options import DetectorOptions

MODEL = build_yolox(num_classes=3, head="raw_levels", activation="relu6")
OPTIONS = DetectorOptions(
    model=MODEL, device=Device("cpu"), threads=1, max_batch=2, input_size="auto"
)
LOW = PostprocessOptions(score_threshold=0.01)


def image(height: int, width: int) -> Frame:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    return Frame.from_array(pixels)


@pytest.fixture(scope="module")
def auto() -> Iterator[AutoSizeDetector]:
    detector = create_detector(OPTIONS)
    assert isinstance(detector, AutoSizeDetector)
    yield detector
    detector.close()


def same(found: Detections, expected: Detections) -> None:
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)


def test_images_of_one_call_run_at_their_own_sizes(auto: AutoSizeDetector) -> None:
    """The model's own size is 64 x 96: an upright image is larger in 96 x 64."""
    frames = [image(200, 301), image(300, 200), image(201, 302)]
    frames[2] = replace(frames[2], roi=Roi(0, 0, 100, 150))
    for first in (0, 1):
        pair = frames[first : first + 2]
        for frame, found in zip(pair, auto.detect(pair, [LOW] * 2), strict=True):
            size = (64, 96) if frame is frames[0] else (96, 64)
            one = create_detector(replace(OPTIONS, input_size=size, max_batch=None))
            assert one.spec.input_size == size
            (expected,) = one.detect([frame], [LOW])
            same(found, expected)
            one.close()
    assert auto.sizes == ((64, 96), (96, 64))
    assert auto.stage_times.inference > 0


def test_a_size_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolox_trt.detectors.auto_size"):
        detector = create_detector(OPTIONS)
        for frame in (image(300, 200), image(302, 200), image(60, 90)):
            detector.detect([frame], [LOW])
        detector.close()
    (line,) = caplog.messages
    assert "images of 300x200 (H x W) run at 96x64" in line


def test_the_sizes_have_an_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(auto_size.MOST_SIZES, "cpu", 2)
    detector = create_detector(OPTIONS)
    assert isinstance(detector, AutoSizeDetector)
    for frame in (image(300, 200), image(40, 800), image(800, 40), image(40, 801)):
        detector.detect([frame], [LOW])
    assert detector.sizes == ((64, 96), (96, 64))
    (warning,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert "images of 40x800 (H x W) run at 64x96, not 32x192: 2 sizes" in warning.message
    detector.close()


@pytest.mark.parametrize("error", [ModelError("a constant"), OutOfMemoryError("full")])
def test_a_model_that_cannot_change_stays_at_its_own_size(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    detector = refusing(error)
    for _ in range(2):
        (found,) = detector.detect([image(300, 200)], [LOW])
        assert len(found)
    (warning,) = caplog.messages
    assert "run at 64x96, not 96x64: " + str(error) in warning


def test_a_broken_device_is_no_reason_to_go_on() -> None:
    with pytest.raises(DeviceBrokenError):
        refusing(DeviceBrokenError("broken")).detect([image(300, 200)], [LOW])


def test_a_size_that_does_not_run_is_closed_and_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = []

    def create(options: DetectorOptions) -> Any:
        made.append(create_detector(options))
        return made[-1]

    def fail() -> None:
        raise EngineError("it does not run")

    with pytest.MonkeyPatch.context() as patch:
        detector = AutoSizeDetector(replace(OPTIONS, input_size="model"), create)
        patch.setattr(CpuDetector, "warmup", lambda self: fail())
        for _ in range(2):
            (found,) = detector.detect([image(300, 200)], [LOW])
            assert len(found)
    (warning,) = caplog.messages
    assert "run at 64x96, not 96x64: it does not run" in warning
    own, other = made
    with pytest.raises(EngineError, match="closed"):
        other.detect([image(300, 200)], [LOW])
    own.close()


def refusing(error: Exception) -> AutoSizeDetector:
    """Return a detector that opens no further size."""

    def create(options: DetectorOptions) -> Any:
        if options.fixed_size is not None:
            raise error
        return create_detector(options)

    return AutoSizeDetector(replace(OPTIONS, input_size="model"), create)


def test_the_models_wish_counts_where_nothing_is_set() -> None:
    assert not isinstance(create_detector(replace(OPTIONS, input_size=None)), AutoSizeDetector)
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    onnx.helper.set_model_props(model, {"yolox_trt.input_size": '"auto"'})
    wishing = replace(OPTIONS, model=model, input_size=None)
    assert isinstance(create_detector(wishing), AutoSizeDetector)
    own = create_detector(replace(wishing, input_size="model"))
    assert own.spec.input_size == (64, 96)
    assert sized_for(wishing, (300, 200)).input_size == (96, 64)
    assert sized_for(replace(wishing, input_size=(32, 32)), (300, 200)).input_size == (32, 32)


@pytest.mark.slow
def test_exact_sizes_find_the_same_in_an_image_whatever_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(auto_size.MOST_SIZES, "cpu", 2)
    frames = [image(300, 200), image(200, 200), image(60, 90), image(300, 201)]

    def found(order: list[int]) -> dict[int, Detections]:
        detector = create_detector(replace(OPTIONS, exact_sizes=True))
        assert isinstance(detector, AutoSizeDetector)
        results = {}
        for pair in (order[:2], order[2:]):
            several = detector.detect([frames[k] for k in pair], [LOW] * 2)
            results.update(zip(pair, several, strict=True))
            assert len(detector.sizes) <= 2 and detector.sizes[0] == (64, 96)
        detector.close()
        return results

    first = found([0, 1, 2, 3])
    for order in ([3, 2, 1, 0], [1, 2, 3, 0]):
        for number, detections in found(order).items():
            same(detections, first[number])
    wanted = replace(OPTIONS, exact_sizes=False, input_size=(96, 64))
    with contextlib.closing(create_detector(wanted)) as one:
        same(first[3], one.detect([frames[3]], [LOW])[0])
