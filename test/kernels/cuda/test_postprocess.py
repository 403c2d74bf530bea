# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""postprocess.cu against the reference: its code on the host, and the kernels on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support import cuda_host
from support.gpu import requires_gpu
from support.layouts import pack

from yolox_trt.core import (
    ConfigurationError,
    Detections,
    EngineError,
    HeadLayout,
    HeadLevel,
    HeadTensor,
    Letterbox,
    ModelError,
    ModelSpec,
    PostprocessOptions,
    Roi,
)
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.reference.postprocess import Postprocessor

HEADS = [HeadLayout.UNDECODED, HeadLayout.DECODED, HeadLayout.RAW_LEVELS]


def make_spec(
    height: int,
    width: int,
    classes: int,
    head: HeadLayout = HeadLayout.UNDECODED,
    *,
    sigmoid: bool = True,
    concatenated: bool = False,
) -> ModelSpec:
    levels = []
    names: list[str] = []
    for stride in (8, 16, 32):
        tensors: list[HeadTensor | None] = [None, None, None]
        if head is HeadLayout.RAW_LEVELS and concatenated:
            names.append(f"all_{stride}")
            tensors = [HeadTensor(names[-1], channel) for channel in (0, 4, 5)]
        elif head is HeadLayout.RAW_LEVELS:
            level_names = [f"{part}_{stride}" for part in ("reg", "obj", "cls")]
            names += level_names
            tensors = [HeadTensor(name) for name in level_names]
        levels.append(HeadLevel(stride, height // stride, width // stride, *tensors))
    if head is HeadLayout.EFFICIENT_NMS:
        return ModelSpec(
            *("images", height, width, None, classes, head),
            output_names=("num_detections", "boxes", "scores", "classes"),
            levels=(),
        )
    return ModelSpec(
        *("images", height, width, None, classes, head),
        output_names=tuple(names) or ("output",),
        levels=tuple(levels),
        sigmoid=sigmoid,
    )


def make_outputs(
    spec: ModelSpec, batch: int, hot: int, rng: np.random.Generator, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Make a network's outputs with `hot` strong anchors an image; scores come in ties."""
    anchors, classes = spec.num_anchors, spec.num_classes
    values = np.empty((batch, anchors, 5 + classes))
    values[..., :2] = rng.uniform(-0.5, 1.5, (batch, anchors, 2))
    values[..., 2:4] = rng.normal(1.2, 0.6, (batch, anchors, 2))
    values[..., 4] = rng.uniform(0, 0.3, (batch, anchors))
    values[..., 5:] = rng.uniform(0, 0.9, (batch, anchors, classes))
    for image in range(batch):
        places = rng.permutation(anchors)[:hot]
        values[image, places, 4] = rng.uniform(0.6, 1, len(places))
        strong = rng.integers(0, classes, len(places))
        values[image, places, 5 + strong] = rng.uniform(0.9, 1, len(places))
        values[image, places, 4:] = np.round(values[image, places, 4:] * 16) / 16
    if spec.head is HeadLayout.DECODED:
        values[..., :2] *= spec.input_width / 2
        values[..., 2:4] *= 60
    if not spec.sigmoid:
        probability = np.clip(values[..., 4:], 1e-4, 1 - 1e-3)
        values[..., 4:] = np.log(probability / (1 - probability))
    values = values.astype(dtype)
    if spec.head is not HeadLayout.RAW_LEVELS:
        return {spec.output_names[0]: values}
    outputs = {}
    first = 0
    for level in spec.levels:
        cells = level.height * level.width
        planes = values[:, first : first + cells].transpose(0, 2, 1)
        planes = planes.reshape(batch, 5 + classes, level.height, level.width)
        first += cells
        assert level.box and level.objectness and level.classes
        if level.box.name == level.classes.name:
            outputs[level.box.name] = np.ascontiguousarray(planes)
        else:
            outputs[level.box.name] = np.ascontiguousarray(planes[:, :4])
            outputs[level.objectness.name] = np.ascontiguousarray(planes[:, 4:5])
            outputs[level.classes.name] = np.ascontiguousarray(planes[:, 5:])
    return outputs


class Runner:
    """Runs CudaPostprocess, on the host or on a GPU."""

    def __init__(self, spec: ModelSpec, outputs: dict[str, np.ndarray], gpu: bool, **options: Any):
        self.spec = spec
        if gpu:
            import cupy

            self.array, self.to_host = cupy.asarray, cupy.asnumpy
        else:
            self.array, self.to_host = cuda_host.host_array, np.asarray
        batch = len(next(iter(outputs.values())))
        self.outputs = {name: self.array(value) for name, value in outputs.items()}
        self.kernels = CudaPostprocess(spec, self.outputs, max_batch=batch, **options)

    def __call__(
        self, letterboxes: Sequence[Letterbox], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        posts = bytearray(descriptors.POST.size * len(options))
        for index, (letterbox, option) in enumerate(zip(letterboxes, options, strict=True)):
            descriptors.pack_post(
                posts,
                index * descriptors.POST.size,
                letterbox,
                option,
            )
        on_device = self.array(np.frombuffer(posts, np.uint8))
        classes = self.spec.num_classes
        thresholds = self.array(np.stack([o.threshold_array(classes) for o in options]))
        self.kernels(on_device.data.ptr, thresholds.data.ptr, len(options))
        results = self.to_host(self.kernels.results)
        self.results = results.view(np.ndarray).view(self.kernels.dtype)[:, 0]
        found = []
        for index in range(len(options)):
            result = self.kernels.read(self.results, index)
            rows = slice(int(result["count"]))
            found.append(
                Detections(result["boxes"][rows], result["scores"][rows], result["class_ids"][rows])
            )
        return found


def check(
    spec: ModelSpec, hot: int, rng: np.random.Generator, *, gpu: bool, dtype: str = "float32"
) -> None:
    options = [
        PostprocessOptions(0.3, 0.45, max_detections=1000),
        PostprocessOptions(0.5, 0.65, {0: 0.9, 1: 0.2}, class_agnostic=True),
        PostprocessOptions(0.01, 0.5, max_detections=50),
    ]
    letterboxes = [
        Letterbox.fit(720, 1280, spec.input_height, spec.input_width),
        Letterbox.fit(300, 200, spec.input_height, spec.input_width),
        Letterbox.fit(1080, 1920, spec.input_height, spec.input_width, Roi(100, 50, 700, 601)),
    ]
    outputs = make_outputs(spec, len(options), hot, rng, dtype)
    runner = Runner(spec, outputs, gpu, max_detections=1000)
    reference = Postprocessor(spec)
    for _ in range(2):  # a second run finds clean tallies
        found = runner(letterboxes, options)
        for index, got in enumerate(found):
            expected = reference(outputs, index, letterboxes[index], options[index])
            assert len(got) == len(expected)
            np.testing.assert_array_equal(got.class_ids, expected.class_ids)
            if spec.sigmoid:
                np.testing.assert_array_equal(got.scores, expected.scores)
            else:  # exp() may differ in its last place
                np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)
            np.testing.assert_allclose(got.boxes, expected.boxes, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.sampled(5)
def test_host_equals_reference(
    monkeypatch: pytest.MonkeyPatch, head: HeadLayout, sigmoid: bool, reverse: bool
) -> None:
    cuda_host.install(monkeypatch, reverse=reverse)
    rng = np.random.default_rng(1)
    for hot in (0, 1, 65, 250):
        check(make_spec(96, 160, 3, head, sigmoid=sigmoid), hot, rng, gpu=False)


@pytest.mark.parametrize("head", HEADS)
def test_host_float16(monkeypatch: pytest.MonkeyPatch, head: HeadLayout) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 96, 21, head)
    check(spec, 60, np.random.default_rng(2), gpu=False, dtype="float16")


def test_host_concatenated_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3, HeadLayout.RAW_LEVELS, sigmoid=False, concatenated=True)
    check(spec, 80, np.random.default_rng(3), gpu=False)


@pytest.mark.parametrize("where", ["host", pytest.param("gpu", marks=requires_gpu)])
@pytest.mark.parametrize("form", ["dla_linear float16", "chw16 float16", "chw32 int8"])
def test_dla_outputs(monkeypatch: pytest.MonkeyPatch, form: str, where: str) -> None:
    """The DLA's output formats are read where they lie, and equal what plain planes give."""
    gpu = where == "gpu"
    if not gpu:
        cuda_host.install(monkeypatch)
    layout, dtype = form.split()
    spec = make_spec(96, 160, 21, HeadLayout.RAW_LEVELS, sigmoid=False)
    outputs = make_outputs(spec, 2, 60, np.random.default_rng(13), "float16")
    scales = {}
    if dtype == "int8":
        for name, value in outputs.items():
            scales[name] = float(np.float32(np.abs(value).max() / 127))
            outputs[name] = np.rint(value.astype(np.float32) / scales[name]).astype(np.int8)
    plain = {n: v * np.float32(scales[n]) if scales else v for n, v in outputs.items()}
    letterboxes = [Letterbox.fit(96, 160, 96, 160)] * 2
    options = [PostprocessOptions(0.3, 0.5)] * 2
    expected = Runner(spec, plain, gpu)(letterboxes, options)
    runner = Runner(spec, plain, gpu)
    views = {}
    for name, value in outputs.items():
        if layout == "dla_linear":
            written = np.full((*value.shape[:3], value.shape[3] + 12), np.nan, dtype)
            written[..., : value.shape[3]] = value
            views[name] = runner.array(written)[..., : value.shape[3]]
        else:
            views[name] = runner.array(pack(value, int(layout[3:])))
    runner.kernels = CudaPostprocess(spec, views, max_batch=2, scales=scales)
    for got, other in zip(runner(letterboxes, options), expected, strict=True):
        assert len(got) > 10
        np.testing.assert_array_equal(got.boxes, other.boxes)
        np.testing.assert_array_equal(got.scores, other.scores)


def test_host_all_scores_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties are broken by the anchor alone, however the candidates were found."""
    spec = make_spec(96, 160, 3)
    outputs = make_outputs(spec, 1, 0, np.random.default_rng(4))
    outputs["output"][..., 4:] = 0.75
    letterbox = Letterbox.fit(720, 1280, 96, 160)
    options = PostprocessOptions(0.3, 0.3, max_detections=400)
    expected = Postprocessor(spec)(outputs, 0, letterbox, options)
    for reverse in (False, True):
        cuda_host.install(monkeypatch, reverse=reverse)
        (got,) = Runner(spec, outputs, False, max_detections=400)([letterbox], [options])
        assert 20 < len(got) < 240
        np.testing.assert_allclose(got.boxes, expected.boxes, rtol=1e-5, atol=1e-2)


def test_host_overflow_is_counted_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3)
    rng = np.random.default_rng(5)
    outputs = make_outputs(spec, 1, 0, rng)
    outputs["output"][..., 4] = rng.permutation(spec.num_anchors) / spec.num_anchors + 0.001
    outputs["output"][..., 5:] = [0.0, 1.0, 0.0]
    letterbox = Letterbox.fit(96, 160, 96, 160)
    options = PostprocessOptions(0.0, 1.0)
    runner = Runner(spec, outputs, False, max_candidates=100)
    (got,) = runner([letterbox], [options])
    result = runner.results[0]
    assert runner.kernels.capacity == 128
    assert result["candidates"] == result["overflow"] + 128
    assert result["overflow"] > 0
    expected = Postprocessor(spec)(outputs, 0, letterbox, options)
    np.testing.assert_array_equal(got.scores, expected.scores[:128])


def test_host_reserve_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3)
    outputs = make_outputs(spec, 1, 100, np.random.default_rng(6))
    letterbox = Letterbox.fit(96, 160, 96, 160)
    options = PostprocessOptions(0.3, 0.9)
    runner = Runner(spec, outputs, False, max_detections=5)
    assert len(runner([letterbox], [options])[0]) == 5
    runner.kernels.take_room(runner.kernels.make_room(300))
    expected = Postprocessor(spec)(outputs, 0, letterbox, options)
    assert len(runner([letterbox], [options])[0]) == len(expected) > 50


@pytest.mark.parametrize("place", [0, 4, 6])
def test_host_nan_raises_and_the_next_frame_works(
    monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3)
    outputs = make_outputs(spec, 1, 10, np.random.default_rng(7))
    outputs["output"][0, 77, place] = np.nan
    letterbox = Letterbox.fit(96, 160, 96, 160)
    options = PostprocessOptions(0.3, 0.5)
    runner = Runner(spec, outputs, False)
    with pytest.raises(EngineError, match="NaN"):
        runner([letterbox], [options])
    runner.outputs["output"][0, 77, place] = 0.0
    assert len(runner([letterbox], [options])[0]) > 0


def make_efficient_nms(rng: np.random.Generator) -> dict[str, np.ndarray]:
    scores = -np.sort(-np.round(rng.uniform(0.1, 1, (2, 100)), 2)).astype(np.float32)
    corner = rng.uniform(-20, 150, (2, 100, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(-1, 60, (2, 100, 2))), axis=2)
    return {
        "num_detections": np.array([[80], [100]], np.int32),
        "boxes": boxes.astype(np.float32),
        "scores": scores,
        "classes": rng.integers(0, 3, (2, 100)).astype(np.int32),
    }


def test_host_efficient_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3, HeadLayout.EFFICIENT_NMS)
    outputs = make_efficient_nms(np.random.default_rng(8))
    letterboxes = [Letterbox.fit(720, 1280, 96, 160), Letterbox.fit(96, 100, 96, 160)]
    options = [
        PostprocessOptions(0.3, 0.0, class_agnostic=True),
        PostprocessOptions(0.2, class_thresholds={1: 0.8}, max_detections=12),
    ]
    found = Runner(spec, outputs, False)(letterboxes, options)
    for index, got in enumerate(found):
        expected = Postprocessor(spec)(outputs, index, letterboxes[index], options[index])
        assert len(got) == len(expected) > 10
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(got.class_ids, expected.class_ids)
        np.testing.assert_allclose(got.boxes, expected.boxes, rtol=1e-6)
    outputs["classes"][1, 3] = 3
    with pytest.raises(EngineError, match="class"):
        Runner(spec, outputs, False)(letterboxes, options)


def test_host_infinite_boxes_are_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3, HeadLayout.EFFICIENT_NMS)
    outputs = make_efficient_nms(np.random.default_rng(8))
    outputs["boxes"][0, 0] = [-np.inf, 0, np.inf, 10]
    outputs["num_detections"][1] = -1  # is none, too
    letterboxes = [Letterbox.fit(96, 160, 96, 160)] * 2
    options = [PostprocessOptions(0.2)] * 2
    found = Runner(spec, outputs, False)(letterboxes, options)
    expected = [Postprocessor(spec)(outputs, i, letterboxes[i], options[i]) for i in (0, 1)]
    assert len(found[0]) == len(expected[0]) > 0
    assert len(found[1]) == len(expected[1]) == 0


def test_host_negative_zero_is_the_lowest_score(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(32, 32, 1)
    outputs = make_outputs(spec, 1, 0, np.random.default_rng(10))
    values = outputs["output"]
    values[0, :, :4] = 0.0
    values[0, :, 4:] = 0.5
    values[0, 3, 4] = -0.0
    letterbox = Letterbox.fit(32, 32, 32, 32)
    (found,) = Runner(spec, outputs, False)([letterbox], [PostprocessOptions(0.0, 1.0)])
    assert len(found) == spec.num_anchors
    assert found.scores[0] == 0.25
    assert found.scores[-1] == 0.0


def test_host_refuses_what_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    spec = make_spec(96, 160, 3)
    outputs = make_outputs(spec, 1, 0, np.random.default_rng(9))
    with pytest.raises(ConfigurationError, match="max_candidates"):
        Runner(spec, outputs, False, max_candidates=0)
    with pytest.raises(ModelError, match="float64"):
        Runner(spec, {"output": outputs["output"].astype(np.float64)}, False)
    with pytest.raises(ModelError, match="int8"):
        Runner(spec, {"output": outputs["output"].astype(np.int8)}, False)
    raw = make_spec(96, 160, 3, HeadLayout.RAW_LEVELS)
    steps = {
        n: v.astype(np.int8) for n, v in make_outputs(raw, 1, 0, np.random.default_rng(9)).items()
    }
    with pytest.raises(ModelError, match="unknown scale"):
        Runner(raw, steps, False)


@requires_gpu
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gpu_equals_reference(head: HeadLayout, sigmoid: bool, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for hot in (0, 10, 120, 3000):
        check(make_spec(416, 416, 80, head, sigmoid=sigmoid), hot, rng, gpu=True, dtype=dtype)
    check(make_spec(96, 160, 3, head, sigmoid=sigmoid), 250, rng, gpu=True, dtype=dtype)
