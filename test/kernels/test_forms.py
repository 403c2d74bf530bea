# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Every form of a detector's outputs: CPU decode against plain NumPy, CUDA against the CPU."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from support import cuda_host
from support.gpu import requires_gpu

from yolox_trt.core import Detections, EngineError, Letterbox, PostprocessOptions
from yolox_trt.core.model_spec import BoxFormat, HeadLayout, ModelSpec
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.single_input import single_input
from yolox_trt.graph.spec import read_spec
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.reference.postprocess import (
    IMPLAUSIBLE_BOXES,
    IMPLAUSIBLE_SCORES,
    Postprocessor,
)

torch = pytest.importorskip("torch", reason="the networks are built with PyTorch")
from support.detector_graphs import NETWORKS, Network, export

pytestmark = pytest.mark.filterwarnings("ignore")

#: Nothing is suppressed: no pair of boxes overlaps by more than all.
EVERYTHING = PostprocessOptions(0.4, 1.0, max_detections=1000)


@cache
def outputs_of(name: str) -> tuple[Network, ModelSpec, np.ndarray, dict[str, np.ndarray]]:
    """Export a network, and run it on two images."""
    network: Network = NETWORKS[name][0]()
    with TemporaryDirectory() as folder:
        graph = Graph.load(export(network, Path(folder) / "m.onnx", batch=2))
        spec = read_spec(graph)
        single_input(graph, spec)
        model = graph.to_model().SerializeToString()
    images = np.random.default_rng(3).uniform(-4, 4, (2, 3, *network.size)).astype(np.float32)
    values = ort.InferenceSession(model).run(list(spec.tensor_names), {"images": images})
    return network, spec, images, dict(zip(spec.tensor_names, values, strict=True))


def plain(network: Network, image: np.ndarray, name: str) -> list[tuple[float, int, np.ndarray]]:
    """Return what a network detects, best first: score, class, corners within the image."""
    boxes, scores = network.expected(image)
    found = []
    if name in ("yolov10", "rtdetr"):  # the best of anchors x classes
        for index in np.argsort(-scores.ravel(), kind="stable")[: network.kept]:  # type: ignore[misc]
            row, number = divmod(int(index), scores.shape[1])
            found.append((scores[row, number], number, boxes[row]))
    else:
        for box, row in zip(boxes, scores, strict=True):
            found.append((row.max(), int(row.argmax()), box))
    height, width = network.size
    kept = []
    for score, number, box in found:
        x1, y1, x2, y2 = box
        if score >= EVERYTHING.score_threshold and x2 > 0 and y2 > 0 and x1 < width and y1 < height:
            kept.append((score, number, np.clip(box, 0, [width, height] * 2)))
    return sorted(kept, key=lambda each: -each[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cpu_decodes_what_the_description_says(name: str) -> None:
    network, spec, images, outputs = outputs_of(name)
    postprocessor = Postprocessor(spec)
    identity = Letterbox.fit(*network.size, *network.size)
    for index, image in enumerate(images):
        found = postprocessor(outputs, index, identity, EVERYTHING)
        expected = plain(network, image, name)
        assert len(found) == len(expected) > 5
        scores = np.array([score for score, _, _ in expected])
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
        # Scores that are as good as equal may change places.
        order = np.lexsort((found.boxes[:, 0], np.round(found.scores, 4)))
        own = np.array([box for _, _, box in expected])
        other = np.lexsort((own[:, 0], np.round(scores, 4)))
        numbers = np.array([number for _, number, _ in expected])
        same = np.isclose(found.boxes[order], own[other], atol=5e-3).all(axis=1)
        same &= found.class_ids[order] == numbers[other]
        assert same.mean() > 0.95, (found.boxes[order][~same], own[other][~same])
    assert not postprocessor.implausible


def run_cuda(
    spec: ModelSpec,
    outputs: dict[str, np.ndarray],
    letterboxes: list[Letterbox],
    options: PostprocessOptions,
    gpu: bool,
) -> tuple[list[Detections], int]:
    """Run the kernels on all images; return their detections, and the flags of all."""
    if gpu:
        import cupy

        array, to_host = cupy.asarray, cupy.asnumpy
    else:
        array, to_host = cuda_host.host_array, np.asarray
    own = {name: array(value) for name, value in outputs.items()}
    kernels = CudaPostprocess(
        spec, own, max_batch=len(letterboxes), max_candidates=256, max_detections=100
    )
    posts = bytearray(descriptors.POST.size * len(letterboxes))
    for index, letterbox in enumerate(letterboxes):
        descriptors.pack_post(posts, index * descriptors.POST.size, letterbox, options)
    thresholds = array(np.stack([options.threshold_array(spec.num_classes)] * len(letterboxes)))
    on_device = array(np.frombuffer(posts, np.uint8))
    for _ in range(2):  # the second call finds the tallies as the first one left them
        kernels(int(on_device.data.ptr), int(thresholds.data.ptr), len(letterboxes))
    rows = to_host(kernels.results).view(kernels.dtype)[:, 0]
    found, flags = [], 0
    for index in range(len(letterboxes)):
        row = kernels.read(rows, index)
        flags |= int(row["flags"])
        kept = slice(int(row["count"]))
        found.append(Detections(row["boxes"][kept], row["scores"][kept], row["class_ids"][kept]))
    return found, flags


def converted(spec: ModelSpec, outputs: dict[str, np.ndarray], dtype: str) -> Any:
    return {n: v.astype(dtype) if v.dtype == np.float32 else v for n, v in outputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["host", pytest.param("gpu", marks=requires_gpu)])
@pytest.mark.parametrize(("name", "dtype"), [(n, "float32") for n in NETWORKS] + [
    ("yolov8", "float16"), ("yolov10", "float16"),
])  # fmt: skip
def test_cuda_equals_the_cpu(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, where: str
) -> None:
    network, spec, _, outputs = outputs_of(name)
    outputs = converted(spec, outputs, dtype)
    if where == "host":
        cuda_host.install(monkeypatch, reverse=name.startswith("yolov"))
    options = PostprocessOptions(0.5, 0.45, max_detections=40)
    height, width = network.size
    # Wider than the input, and the region of one that is centred.
    letterboxes = [
        Letterbox.fit(2 * height, 4 * width, height, width),
        Letterbox.fit(3 * height, width, height, width, resize="centre"),
    ]
    found, flags = run_cuda(spec, outputs, letterboxes, options, where == "gpu")
    assert not flags
    for index, (got, letterbox) in enumerate(zip(found, letterboxes, strict=True)):
        expected = Postprocessor(spec)(outputs, index, letterbox, options)
        assert len(got) == len(expected) > 2
        np.testing.assert_array_equal(got.class_ids, expected.class_ids)
        np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-6)
        np.testing.assert_allclose(got.boxes, expected.boxes, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("name", ["yolov8", "yolov10", "rtdetr"])
def test_nan_and_unknown_classes_are_faults(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    network, spec, _, outputs = outputs_of(name)
    cuda_host.install(monkeypatch)
    letterboxes = [Letterbox.fit(*network.size, *network.size)] * 2
    damaged = {n: v.copy() for n, v in outputs.items()}
    scores = damaged[spec.output_names[-1]]
    scores[1, 4] = np.nan
    with pytest.raises(EngineError, match="NaN"):
        run_cuda(spec, damaged, letterboxes, EVERYTHING, gpu=False)
    with pytest.raises(EngineError, match="NaN"):
        Postprocessor(spec)(damaged, 1, letterboxes[1], EVERYTHING)
    if name == "yolov8":
        damaged = {n: v.copy() for n, v in outputs.items()}
        damaged["output0"][1, :, 3] = 0.0
        damaged["output0"][1, 1, 3] = np.nan  # of a box that is no candidate
        options = PostprocessOptions(score_threshold=0.5)
        with pytest.raises(EngineError, match="NaN"):
            run_cuda(spec, damaged, letterboxes, options, gpu=False)
        with pytest.raises(EngineError, match="NaN"):
            Postprocessor(spec)(damaged, 1, letterboxes[1], options)
        return
    damaged = {n: v.copy() for n, v in outputs.items()}
    classes = damaged["output0"][..., 5] if name == "yolov10" else damaged["labels"]
    classes[1, 2] = 7
    with pytest.raises(EngineError, match="classes from 0 to 4"):
        run_cuda(spec, damaged, letterboxes, EVERYTHING, gpu=False)
    with pytest.raises(EngineError, match="classes from 0 to 4"):
        Postprocessor(spec)(damaged, 1, letterboxes[1], EVERYTHING)


@pytest.mark.parametrize("name", ["yolov8", "yolov10"])
def test_what_no_detector_gives_is_noted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    network, spec, _, outputs = outputs_of(name)
    cuda_host.install(monkeypatch)
    letterboxes = [Letterbox.fit(*network.size, *network.size)] * 2
    (tensor,) = outputs.values()
    boxes = (slice(None), slice(0, 4)) if name == "yolov8" else (..., slice(0, 4))
    scores = (slice(None), slice(4, 9)) if name == "yolov8" else (..., 4)
    for place, factor, bit in ((boxes, 50, IMPLAUSIBLE_BOXES), (scores, 3, IMPLAUSIBLE_SCORES)):
        damaged = tensor.copy()
        damaged[place] *= factor
        postprocessor = Postprocessor(spec)
        for index in range(2):
            postprocessor({"output0": damaged}, index, letterboxes[index], EVERYTHING)
        assert postprocessor.implausible == bit
        assert run_cuda(spec, {"output0": damaged}, letterboxes, EVERYTHING, gpu=False)[1] == bit


def test_areas_beyond_float32_are_told_by_implausible_alone() -> None:
    """An exponential gives such boxes; a reader of the log has no use for NumPy's warnings."""
    network, spec, _, outputs = outputs_of("yolov8")
    damaged = outputs["output0"].copy()
    damaged[:, :4] *= 1e30
    postprocessor = Postprocessor(spec)
    identity = Letterbox.fit(*network.size, *network.size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        postprocessor({"output0": damaged}, 0, identity, EVERYTHING)
    assert postprocessor.implausible == IMPLAUSIBLE_BOXES


def test_infinite_boxes_of_finished_detections_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.install(monkeypatch)
    inf = np.inf
    rows = [[20, 20, 8, 8, 0.9, 1], [inf, 20, inf, 8, 5, 1], [20, 20, 8, -inf, 5, 2]]
    outputs = {"output": np.array([rows], np.float32)}
    spec = ModelSpec(
        *("images", 64, 64, 1, 3, HeadLayout.END_TO_END, ("output",), ()),
        box_format=BoxFormat.CXCYWH,
        nms=False,
    )
    identity = Letterbox.fit(64, 64, 64, 64)
    reference = Postprocessor(spec)
    expected = reference(outputs, 0, identity, EVERYTHING)
    (found,), flags = run_cuda(spec, outputs, [identity], EVERYTHING, gpu=False)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert len(found) == 1 and flags == reference.implausible == 0
