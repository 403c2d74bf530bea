# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Masks beside the detections, in every Detector; on the host with the kernels' own code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu
from support.yolox_graphs import build_yolox

from yolox_trt.core import Device, Frame, HeadLayout, Letterbox, ModelSpec, PostprocessOptions, Roi
from yolox_trt.core.model_spec import HeadLevel, SegmentationHead
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.detectors.cuda import CudaDetector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.simulated import ConstantLatency, SimulatedEngine
from yolox_trt.kernels.reference.masks import read_mask

H, W = 64, 96
MASKS = SegmentationHead("mask", 4, 4, H // 4, W // 4)
SPEC = ModelSpec(
    *("images", H, W, None, 3, HeadLayout.UNDECODED, ("output",)),
    levels=tuple(HeadLevel(s, H // s, W // s) for s in (8, 16, 32)),
    segmentation=MASKS,
)
ASKED = PostprocessOptions(masks=True)


def make_logits() -> np.ndarray:
    rough = np.random.default_rng(8).normal(size=(3, 4, 4, 6)).astype(np.float32)
    return rough.repeat(4, 2).repeat(4, 3)


class MaskNetwork(Engine):
    """A CUDA engine that gives the same logits each time; on the host its arrays are HostArrays."""

    memory: Literal["host", "cuda"] = "cuda"
    capture_refusal = ""

    def __init__(self, xp: Any) -> None:
        make = cuda_host.host_array if xp is np else xp.asarray
        self.device, self.spec, self.max_batch = Device.parse("gpu"), SPEC, 3
        self.input = make(np.zeros((3, 3, H, W), np.float32))
        shape = (3, SPEC.num_anchors, 5 + SPEC.num_classes)
        self.outputs = {"output": make(np.zeros(shape, np.float32)), "mask": make(make_logits())}

    def run(self, batch: int, stream: Any = None) -> None:
        """The outputs are there already."""

    def close(self) -> None:
        """There is nothing to release."""


def frames() -> list[Frame]:
    rng = np.random.default_rng(1)
    sizes = ((50, 90, None), (120, 71, Roi(11, 20, 50, 60)), (64, 96, None))
    return [
        Frame.from_array(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), roi=roi)
        for height, width, roi in sizes
    ]


def check_cuda(xp: Any, **options: Any) -> None:
    """Two calls under way, of which one asks for some masks and the other for none."""
    detector = CudaDetector(MaskNetwork(xp), **options)
    first = detector.enqueue(frames(), [ASKED, ASKED, PostprocessOptions()])
    second = detector.enqueue(frames(), [PostprocessOptions()] * 3)
    found = detector.collect(first)
    assert [each.mask for each in detector.collect(second)] == [None] * 3
    assert found[2].mask is None
    for index in range(2):
        letterbox = Letterbox.of_frame(frames()[index], H, W)
        expected = read_mask(MASKS, {"mask": make_logits()}, index, letterbox)
        mask = found[index].mask
        assert mask is not None and len(np.unique(mask.values)) > 2
        np.testing.assert_array_equal(mask.decode(), expected.decode())
    detector.close()


def test_host_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    monkeypatch.setattr("yolox_trt.kernels.cuda.masks._MOST_STRIPS", 6)
    check_cuda(np, cuda_graph=False)


@requires_gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_gpu_cuda(cuda_graph: bool) -> None:
    import cupy

    check_cuda(cupy, cuda_graph=cuda_graph)


@pytest.mark.parametrize("form", ["logits", "argmax"])
def test_onnx_runtime_on_the_cpu(form: str) -> None:
    model = build_yolox(num_classes=3, segmentation=form, mask_classes=4)
    options = DetectorOptions(model=model, device=Device.parse("cpu"), max_batch=3)
    detector = create_detector(options)
    found = detector.detect(frames(), [ASKED] * 3)
    for each, frame in zip(found, frames(), strict=True):
        assert each.mask is not None
        assert (each.mask.height, each.mask.width) == (frame.height, frame.width)
        assert len(np.unique(each.mask.values)) > 1
    assert detector.detect(frames(), [PostprocessOptions()] * 3)[0].mask is None
    detector.close()


@pytest.mark.parametrize("has_argmax", [False, True])
def test_simulated(has_argmax: bool) -> None:
    spec = replace(SPEC, segmentation=replace(MASKS, has_argmax=has_argmax))
    engine = SimulatedEngine(Device.parse("cpu"), spec, ConstantLatency(1e-4))
    (found,) = CpuDetector(engine).detect(frames()[:1], [ASKED])
    assert found.mask is not None and found.mask.values.tolist() == [0]
    model = build_yolox(num_classes=3, segmentation="argmax")
    options = DetectorOptions(
        model=model, engine="simulated", device=Device.parse("dla0"), latency=1e-4
    )
    (found,) = create_detector(options).detect(frames()[:1], [ASKED])
    assert found.mask is not None and found.mask.lengths.tolist() == [50 * 90]
