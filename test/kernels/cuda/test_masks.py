# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""masks.cu against the reference: its code on the host, and the kernels on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu
from support.layouts import pack

from yolox_trt.core import EngineError, Letterbox, ModelError, Roi
from yolox_trt.core.mask import Mask
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.masks import CudaMasks
from yolox_trt.kernels.reference.masks import read_mask

#: Sources that are larger and smaller than the input, of other shapes, and a part of one.
SOURCES: list[tuple[int, int, Roi | None]] = [
    (70, 111, None),
    (33, 20, None),
    (50, 70, Roi(3, 5, 60, 41)),
    (1, 3, None),
    (7, 2100, None),
]


@pytest.fixture(autouse=True)
def _few_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows a strip, as in large images; the host runs blocks one after another."""
    monkeypatch.setattr("yolox_trt.kernels.cuda.masks._MOST_STRIPS", 6)


def make_head(size: tuple[int, int], stride: int, classes: int, **rest: Any) -> SegmentationHead:
    return SegmentationHead("mask", classes, stride, size[0] // stride, size[1] // stride, **rest)


def make_logits(
    head: SegmentationHead, batch: int, rng: np.random.Generator, dtype: str = "float32"
) -> np.ndarray:
    """Logits with large regions and small ones, in which many are equal."""
    shape = (batch, head.num_classes, head.height, head.width)
    rough = rng.normal(0, 4, (*shape[:2], -(-shape[2] // 5), -(-shape[3] // 7)))
    rough = rough.repeat(5, 2).repeat(7, 3)[..., : shape[2], : shape[3]]
    return np.round(rough + rng.normal(0, 1, shape)).astype(dtype)


class Runner:
    """Runs CudaMasks, on the host or on a GPU."""

    def __init__(self, head: SegmentationHead, output: Any, gpu: bool) -> None:
        if gpu:
            import cupy

            self.array, self.wait = cupy.asarray, cupy.cuda.Device().synchronize
        else:
            self.array, self.wait = cuda_host.host_array, lambda: None
        self.output = self.array(output) if type(output) is np.ndarray else output
        self.kernels = CudaMasks(head, self.output, max_batch=len(output))

    def __call__(
        self, letterboxes: Sequence[Letterbox], wanted: Sequence[bool] | None = None
    ) -> list[Mask | None]:
        batch = len(letterboxes)
        jobs = bytearray(16 + descriptors.MASK.size * batch)
        for index, letterbox in enumerate(letterboxes):
            self.kernels.ask(jobs, 16, index, letterbox, wanted is None or wanted[index])
        on_device = self.array(np.frombuffer(jobs, np.uint8))
        self.kernels(int(on_device.data.ptr) + 16, batch)
        self.wait()
        return [self.kernels.read(index, jobs, 16) for index in range(batch)]


def fit(size: tuple[int, int], resize: str = "letterbox") -> list[Letterbox]:
    return [Letterbox.fit(height, width, *size, roi, resize) for height, width, roi in SOURCES]


def check(
    head: SegmentationHead,
    output: np.ndarray,
    size: tuple[int, int],
    *,
    gpu: bool,
    resize: str = "letterbox",
) -> None:
    letterboxes = fit(size, resize)
    runner = Runner(head, output, gpu)
    for index, (mask, letterbox) in enumerate(zip(runner(letterboxes), letterboxes, strict=True)):
        expected = read_mask(head, {"mask": output}, index, letterbox)
        assert mask is not None
        np.testing.assert_array_equal(mask.lengths, expected.lengths)
        np.testing.assert_array_equal(mask.values, expected.values)
        assert (mask.height, mask.width) == (letterbox.source_height, letterbox.source_width)


@pytest.mark.parametrize(
    ("stride", "dtype", "reverse"),
    [(1, "float32", False), (1, "float32", True), (4, "float16", False), (2, "int8", True)],
)
def test_host_equals_reference(
    monkeypatch: pytest.MonkeyPatch, stride: int, dtype: str, reverse: bool
) -> None:
    cuda_host.install(monkeypatch, reverse=reverse)
    head = make_head((64, 96), stride, 5)
    output = make_logits(head, len(SOURCES), np.random.default_rng(1), dtype)
    check(head, output, (64, 96), gpu=False)


@pytest.mark.parametrize("resize", ["centre", "stretch"])
def test_host_other_resizes(monkeypatch: pytest.MonkeyPatch, resize: str) -> None:
    cuda_host.install(monkeypatch)
    head = make_head((64, 96), 4, 5)
    output = make_logits(head, len(SOURCES), np.random.default_rng(5))
    check(head, output, (64, 96), gpu=False, resize=resize)


@pytest.mark.parametrize(("dtype", "axes"), [("float32", 4), ("int64", 3)])
def test_host_classes(monkeypatch: pytest.MonkeyPatch, dtype: str, axes: int) -> None:
    """The output of a network that ends in an ArgMax, whatever it was cast to."""
    cuda_host.install(monkeypatch)
    head = make_head((64, 96), 4, 200, has_argmax=True)
    classes = np.random.default_rng(2).integers(0, 200, (len(SOURCES), 16, 24)).astype(dtype)
    check(head, classes if axes == 3 else classes[:, None], (64, 96), gpu=False)


@pytest.mark.parametrize("form", ["padded rows", "packed by 16"])
def test_host_dla_outputs(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """The DLA's output formats are read where they lie."""
    cuda_host.install(monkeypatch)
    head = make_head((64, 96), 4, 21)
    output = make_logits(head, len(SOURCES), np.random.default_rng(3), "float16")
    written = cuda_host.host_array(pack(output, 16))
    if form == "padded rows":
        written = cuda_host.host_array(np.full((*output.shape[:3], 32), np.nan, np.float16))
        written[..., :24] = output
        written = written[..., :24]
    letterboxes = fit((64, 96))
    for index, mask in enumerate(Runner(head, written, False)(letterboxes)):
        expected = read_mask(head, {"mask": output}, index, letterboxes[index])
        assert mask is not None
        np.testing.assert_array_equal(mask.decode(), expected.decode())


def test_host_more_runs_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    monkeypatch.setattr("yolox_trt.kernels.cuda.masks._RUNS", 100)
    head = make_head((64, 96), 1, 5)
    output = np.random.default_rng(4).normal(size=(2, 5, 64, 96)).astype(np.float32)
    letterboxes = [Letterbox.fit(64, 96, 64, 96)] * 2
    runner = Runner(head, output, False)
    for index, mask in enumerate(runner(letterboxes)):
        expected = read_mask(head, {"mask": output}, index, letterboxes[0])
        assert mask is not None and len(expected.values) > 1000
        np.testing.assert_array_equal(mask.decode(), expected.decode())
    # The next call has the room.
    monkeypatch.setattr(runner.kernels, "_write_again", lambda *_: pytest.fail("no room"))
    assert all(len(mask.values) > 1000 for mask in runner(letterboxes) if mask)


def test_host_masks_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    head = make_head((64, 96), 4, 5)
    output = make_logits(head, 2, np.random.default_rng(5))
    output[0, 0, 0, 0] = np.nan  # would be a fault
    letterbox = Letterbox.fit(64, 96, 64, 96)
    absent, mask = Runner(head, output, False)([letterbox] * 2, [False, True])
    assert absent is None
    assert mask is not None


def test_host_outputs_that_no_class_follows_from(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    head = make_head((64, 96), 4, 5)
    output = make_logits(head, 2, np.random.default_rng(6))
    output[1, 3, 2, 7] = np.nan
    output[1, 3, 15, 7] = np.nan  # in the padding of the first image: nobody looks there
    letterboxes = [Letterbox.fit(48, 96, 64, 96), Letterbox.fit(64, 96, 64, 96)]
    runner = Runner(head, output, False)
    with pytest.raises(EngineError, match="'mask' of the segmentation head"):
        runner(letterboxes)
    runner.output[1] = 0.0
    for mask in runner(letterboxes):  # the fault is forgotten
        assert mask is not None
    runner.output[1, 3, 2, 14] = np.nan  # in the padding too, and read with cells of the image
    assert runner([Letterbox.fit(64, 50, 64, 96)] * 2)[1] is not None
    for wrong in (-1, 5):
        classes = np.full((1, 16, 24), wrong, np.int64)
        argmax = make_head((64, 96), 4, 5, has_argmax=True)
        with pytest.raises(EngineError, match="classes from 0 to 4"):
            Runner(argmax, classes, False)(letterboxes[:1])


def test_host_refuses_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    head = make_head((64, 96), 4, 5)
    with pytest.raises(ModelError, match="float64"):
        Runner(head, np.zeros((1, 5, 16, 24)), False)
    with pytest.raises(ModelError, match=r"expected \(N, C, 16, 24\)"):
        Runner(head, np.zeros((1, 5, 16, 23), np.float32), False)


@requires_gpu
@pytest.mark.parametrize(
    ("stride", "dtype"), [(1, "float32"), (4, "float16"), (8, "float32"), (1, "int8")]
)
def test_gpu_equals_reference(stride: int, dtype: str) -> None:
    head = make_head((416, 416), stride, 16)
    output = make_logits(head, len(SOURCES), np.random.default_rng(1), dtype)
    check(head, output, (416, 416), gpu=True)


@requires_gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "int64", "uint8"])
def test_gpu_classes(dtype: str) -> None:
    head = make_head((64, 96), 4, 200, has_argmax=True)
    classes = np.random.default_rng(2).integers(0, 200, (len(SOURCES), 16, 24)).astype(dtype)
    check(head, classes, (64, 96), gpu=True)


@requires_gpu
def test_gpu_more_runs_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolox_trt.kernels.cuda.masks._RUNS", 100)
    head = make_head((960, 960), 1, 16)
    output = np.random.default_rng(4).normal(size=(1, 16, 960, 960)).astype(np.float32)
    letterbox = Letterbox.fit(1280, 1920, 960, 960)
    (mask,) = Runner(head, output, True)([letterbox])
    assert mask is not None
    np.testing.assert_array_equal(
        mask.decode(), read_mask(head, {"mask": output}, 0, letterbox).decode()
    )
