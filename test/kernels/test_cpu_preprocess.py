# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""CpuPreprocessor against the definition: every encoding, size, row step, Roi and input type."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frames import frames, random_frame

from yolox_trt.core import Frame, Letterbox, ModelError, Preprocessing, Roi
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.letterbox import RESIZES
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor
from yolox_trt.kernels.reference.preprocess import preprocess

SIZES = [(32, 32), (64, 96), (96, 32), (160, 160)]


@given(frames(), st.sampled_from(SIZES))
@settings(max_examples=100, deadline=None)
def test_agrees_with_the_definition_to_one_lsb(frame: Frame, size: tuple[int, int]) -> None:
    out = np.full((3, *size), np.nan, np.float32)
    box = CpuPreprocessor(Preprocessing())(frame, out)
    assert box == Letterbox.of_frame(frame, *size)
    assert np.abs(out - preprocess(frame, box)).max() <= 1


@given(
    frames(),
    st.sampled_from(SIZES),
    st.sampled_from(sorted(PREPROCESSING_PRESETS)),
    st.sampled_from(RESIZES),
)
@settings(max_examples=100, deadline=None)
def test_presets(frame: Frame, size: tuple[int, int], preset: str, resize: str) -> None:
    preprocessing = dataclasses.replace(PREPROCESSING_PRESETS[preset], resize=resize)
    out = np.empty((3, *size), np.float32)
    box = CpuPreprocessor(preprocessing)(frame, out)
    lsb = max(preprocessing.factors[0])
    assert np.abs(out - preprocess(frame, box, preprocessing)).max() <= lsb * 1.001


@given(frames(200, ("uyvy", "yuy2", "nv12")), st.sampled_from([(16, 16), (32, 32), (32, 64)]))
@settings(max_examples=60, deadline=None)
def test_rows_that_are_not_read_are_not_converted(frame: Frame, size: tuple[int, int]) -> None:
    """A strong downscale converts some rows only: what an earlier frame left in the others."""
    run = CpuPreprocessor(Preprocessing())
    out = np.empty((3, *size), np.float32)
    inverse = dataclasses.replace(frame, data=255 - frame.data)
    for each in (inverse, frame):
        box = run(each, out)
        assert np.abs(out - preprocess(each, box)).max() <= 1


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_scale_one_is_exact(encoding: str) -> None:
    frame = random_frame(encoding, 64, 96, padding=5)
    out = np.empty((3, 64, 96), np.float32)
    box = CpuPreprocessor(Preprocessing())(frame, out)
    np.testing.assert_array_equal(out, preprocess(frame, box))


@pytest.mark.parametrize("encoding", ["nv12", "uyvy", "yuy2", "bayer_rggb8", "bayer_gbrg8"])
@pytest.mark.parametrize("roi", [Roi(1, 1, 32, 32), Roi(5, 0, 32, 32), Roi(31, 15, 33, 33)])
def test_odd_rois_keep_chroma_and_mosaic_in_place(encoding: str, roi: Roi) -> None:
    frame = random_frame(encoding, 48, 64, roi=roi)
    out = np.empty((3, roi.height, roi.width), np.float32)
    box = CpuPreprocessor(Preprocessing())(frame, out)
    np.testing.assert_array_equal(out, preprocess(frame, box))


@pytest.mark.parametrize("preset", ["bgr", "rgb_imagenet"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_types(dtype: str, preset: str) -> None:
    frame = random_frame("rgb8", 50, 70, padding=2)
    preprocessing = PREPROCESSING_PRESETS[preset]
    scale = 255 / 127 if preset == "bgr" else 3 / 127
    out = np.empty((3, 64, 64), dtype)
    run = CpuPreprocessor(preprocessing, input_scale=scale)
    if dtype == "uint8" and preset != "bgr":
        with pytest.raises(ModelError, match="uint8 input"):
            run(frame, out)
        return
    box = run(frame, out)
    expected = preprocess(frame, box, preprocessing, dtype=dtype, input_scale=scale)
    difference = np.abs(out.astype(np.float32) - expected.astype(np.float32)).max()
    step = 1.0 if dtype != "int8" else max(1.0, max(preprocessing.factors[0]) / scale + 1)
    assert difference <= step * 1.01
    assert out[:, 63, 63].tolist() == expected[:, 63, 63].tolist()


@pytest.mark.parametrize("resize", RESIZES)
def test_padding_follows_a_change_of_geometry(resize: str) -> None:
    run = CpuPreprocessor(Preprocessing(resize=resize))
    out = np.zeros((3, 64, 64), np.float32)
    for height, width in [(40, 80), (80, 40), (40, 80), (64, 64), (20, 80)]:
        frame = random_frame("bgr8", height, width)
        box = run(frame, out)
        assert np.abs(out - preprocess(frame, box)).max() <= 1


def test_each_image_of_a_batch_has_its_own_padding() -> None:
    run = CpuPreprocessor(Preprocessing())
    batch = np.zeros((2, 3, 64, 64), np.float32)
    wide, tall = random_frame("bgr8", 40, 80), random_frame("bgr8", 80, 40)
    for first, second in [(wide, tall), (tall, wide), (tall, tall)]:
        for frame, out in ((first, batch[0]), (second, batch[1])):
            box = run(frame, out)
            assert np.abs(out - preprocess(frame, box)).max() <= 1


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "nv12", "uyvy", "bayer_rggb8"])
def test_allocates_no_image_for_each_frame(encoding: str) -> None:
    frame = random_frame(encoding, 480, 640)
    run = CpuPreprocessor(Preprocessing())
    out = np.empty((3, 416, 416), np.float32)
    run(frame, out)
    tracemalloc.start()
    run(frame, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024, f"{peak} bytes for one frame"
