# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The preprocessing definition against scalar code, OpenCV and known colours."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frames import frames, random_frame

from yolox_trt.core import Frame, Letterbox, ModelError, Preprocessing, Roi
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.kernels.reference.preprocess import preprocess, resize, to_bgr

SEEDS = st.integers(0, 9)


def sizes(most: int) -> tuple[st.SearchStrategy[int], st.SearchStrategy[int]]:
    """Heights and widths of an image."""
    return st.integers(1, most), st.integers(1, most)


@given(*sizes(24), *sizes(40), SEEDS)
@settings(max_examples=60, deadline=None)
def test_resize_equals_scalar_code(h: int, w: int, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    result = resize(image, height, width)

    def tap(size: int, resized: int, i: int) -> tuple[int, int, float]:
        position = (i + 0.5) * size / resized - 0.5
        low = math.floor(position)
        return min(max(low, 0), size - 1), min(max(low + 1, 0), size - 1), position - low

    for v, u in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
        y0, y1, fy = tap(h, height, v)
        x0, x1, fx = tap(w, width, u)
        for c in range(3):
            top = float(image[y0, x0, c]) * (1 - fx) + float(image[y0, x1, c]) * fx
            low = float(image[y1, x0, c]) * (1 - fx) + float(image[y1, x1, c]) * fx
            assert result[v, u, c] == pytest.approx(top * (1 - fy) + low * fy, abs=1e-9)


@given(*sizes(90), *sizes(90), SEEDS)
@settings(max_examples=80, deadline=None)
def test_resize_agrees_with_opencv_to_one_lsb(
    h: int, w: int, height: int, width: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    mine = np.floor(resize(image, height, width) + 0.5)
    theirs = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    assert np.abs(mine - theirs).max() <= 1


def test_resize_to_the_same_size_is_the_identity() -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, 31, 47), image)


def test_yuv_equals_opencv_for_all_values() -> None:
    """Every (Y, U, V) once, as uyvy; nv12 and yuy2 share the arithmetic."""
    u, v = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for luma in range(0, 256, 5):
        packed = np.empty((256, 512, 2), np.uint8)
        packed[..., 1] = luma
        packed[:, 0::2, 0], packed[:, 1::2, 0] = u, v
        frame = Frame.from_array(packed, "uyvy")
        np.testing.assert_array_equal(to_bgr(frame), cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_UYVY))


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("rgb8", cv2.COLOR_RGB2BGR),
        ("rgba8", cv2.COLOR_RGBA2BGR),
        ("bgra8", cv2.COLOR_BGRA2BGR),
        ("mono8", cv2.COLOR_GRAY2BGR),
        ("uyvy", cv2.COLOR_YUV2BGR_UYVY),
        ("yuy2", cv2.COLOR_YUV2BGR_YUY2),
        ("nv12", cv2.COLOR_YUV2BGR_NV12),
    ],
)
def test_conversion_equals_opencv(encoding: str, code: int) -> None:
    frame = random_frame(encoding, 38, 54, padding=10)
    np.testing.assert_array_equal(
        to_bgr(frame), cv2.cvtColor(np.ascontiguousarray(frame.rows), code)
    )


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_bayer_gives_back_a_flat_colour(encoding: str) -> None:
    """A mosaic made by ROS's naming rule comes back as its colour: the pattern is the right one."""
    blue, green, red = 30, 120, 220
    value = {"r": red, "g": green, "b": blue}
    pattern = encoding.removeprefix("bayer_").removesuffix("8")
    mosaic = np.tile(np.array([value[c] for c in pattern], np.uint8).reshape(2, 2), (8, 8))
    bgr = to_bgr(Frame.from_array(mosaic, encoding))
    assert (bgr == (blue, green, red)).all()


def test_identity_size_keeps_every_value() -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    frame = Frame.from_array(image)
    box = Letterbox.fit(64, 96, 64, 96)
    np.testing.assert_array_equal(preprocess(frame, box), image.transpose(2, 0, 1))


def test_padding_is_right_and_below_and_goes_through_the_normalisation() -> None:
    frame = random_frame("bgr8", 40, 40)
    box = Letterbox.fit(40, 40, 64, 96)
    plain = preprocess(frame, box)
    assert (plain[:, :, 64:] == 114).all()
    legacy = PREPROCESSING_PRESETS["rgb_imagenet"]
    normalised = preprocess(frame, box, legacy)
    expected = (114 / 255 - np.array(legacy.mean)) / np.array(legacy.std)
    np.testing.assert_allclose(normalised[:, 0, 95], expected, rtol=1e-5)
    # The first plane of an RGB input is the last one of BGR.
    np.testing.assert_allclose(
        normalised[0], (plain[2] / 255 - legacy.mean[0]) / legacy.std[0], rtol=1e-4, atol=1e-5
    )


@given(frames(48), st.sampled_from([(32, 32), (64, 96), (96, 32)]))
@settings(max_examples=60, deadline=None)
def test_roi_equals_a_crop(frame: Frame, size: tuple[int, int]) -> None:
    box = Letterbox.of_frame(frame, *size)
    roi = box.roi
    crop = to_bgr(frame)[roi.y : roi.y + roi.height, roi.x : roi.x + roi.width]
    cropped = Frame.from_array(np.ascontiguousarray(crop))
    np.testing.assert_array_equal(
        preprocess(frame, box), preprocess(cropped, Letterbox.of_frame(cropped, *size))
    )


def test_types() -> None:
    frame = random_frame("bgr8", 50, 70, roi=Roi(3, 5, 60, 40))
    box = Letterbox.of_frame(frame, 64, 64)
    values = preprocess(frame, box)
    np.testing.assert_array_equal(preprocess(frame, box, dtype=np.uint8), values)
    np.testing.assert_array_equal(preprocess(frame, box, dtype=np.float16), values)
    quantized = preprocess(frame, box, dtype=np.int8, input_scale=255 / 127)
    assert np.abs(quantized * (255 / 127) - values).max() <= 255 / 127 / 2 + 1e-4
    with pytest.raises(ModelError, match="uint8 input"):
        preprocess(frame, box, Preprocessing(scale=1 / 255), dtype=np.uint8)
