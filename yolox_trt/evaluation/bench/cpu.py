# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Our CPU path against the way of YOLOX's ONNX demo, in one run.

The demo's way, in our words (the algorithm of demo/ONNXRuntime in YOLOX): a fresh canvas of 114,
cv2.resize into its corner, transpose, a float32 copy; onnxruntime's session.run; grids made for
each image, all anchors decoded, corner boxes divided by the scale; then for each class the
anchors above the score and a NumPy NMS with areas of + 1 pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.frame import Frame
from yolox_trt.core.images import read_image
from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.cpu import CpuDetector
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import alternating_times, describe_machine
from yolox_trt.evaluation.options import CpuOptions
from yolox_trt.graph.onnx_session import make_session
from yolox_trt.graph.predictions import predict
from yolox_trt.graph.spec import read_spec
from yolox_trt.kernels.cpu_preprocess import CpuPreprocessor
from yolox_trt.kernels.reference.postprocess import Postprocessor

Image = npt.NDArray[np.uint8]
#: Thresholds of the demo.
SCORE, NMS = 0.1, 0.45
_COLUMNS = {
    "stage": "{stage}",
    "YOLOX ONNX demo's way, ms": "{demo:.3f}",
    "yolox_trt, ms": "{ours:.3f}",
    "times faster": "{ratio:.1f}",
}


def measure(options: CpuOptions, on_progress: Progress = no_progress) -> Report:
    """Time both ways.

    Raises:
        ConfigurationError: a model that the demo cannot run, or no photograph.
    """
    model = options.model or default_model()
    spec = read_spec(model)
    heads = (HeadLayout.UNDECODED, HeadLayout.RAW_LEVELS)
    if spec.head not in heads or spec.batch not in (1, None):
        raise ConfigurationError(
            f"{model} with {spec.head.value} output and batch {spec.batch}",
            expected="a YOLOX with undecoded or raw output and batch 1",
            fix=("give another one with ", options_of(CpuOptions)["model"]),
        )
    figures = measure_stages(model, spec, _photograph(options), options, on_progress)
    figures["machine"] = describe_machine("numpy", "cv2", "onnxruntime")
    figures["model"] = f"{Path(model).name} {spec.input_height}x{spec.input_width}"
    stages = [{"stage": k, **value} for k, value in figures.items() if isinstance(value, dict)]
    height, width = options.size
    title = f"{figures['model']}, image {height}x{width}, {figures['detections']} detections"
    return Report(figures, [Table.of(_COLUMNS, stages, title)], [figures["machine"]])


def measure_stages(
    model: Path, spec: ModelSpec, image: Image, settings: CpuOptions, on_progress: Progress
) -> dict[str, Any]:
    """Time both ways, taking turns so that a busy moment hits both.

    Returns:
        stage -> {"demo": ms, "ours": ms, "ratio": demo / ours}, medians; also "detections".
    """
    engine = OnnxRuntimeEngine(model, spec=spec, intra_op_num_threads=settings.threads)
    session = make_session(model, ["CPUExecutionProvider"], intra_op_num_threads=settings.threads)
    frame = Frame.from_array(image)
    size = (spec.input_height, spec.input_width)
    preprocessor = CpuPreprocessor(spec.preprocessing)
    postprocessor = Postprocessor(spec)
    options = PostprocessOptions(score_threshold=SCORE, nms_threshold=NMS)
    detector = CpuDetector(engine)
    demo_input, ratio = demo_preprocess(image, size)
    names = list(spec.output_names)
    raw = predict(model, demo_input[None], spec=spec)
    assert raw.objectness is not None
    joined = (raw.boxes, raw.objectness[..., None], raw.classes)
    demo_output = np.concatenate(joined, -1, dtype=np.float32)
    letterbox = preprocessor(frame, engine.input[0])
    engine.run(1)
    outputs = {n: np.array(v) for n, v in engine.outputs.items()}
    scratch = np.empty_like(engine.input[0])
    raw_boxes = demo_output[..., :4].copy()

    def restore() -> None:
        demo_output[..., :4] = raw_boxes

    ours = postprocessor(outputs, 0, letterbox, options)
    theirs = demo_postprocess(demo_output, size, ratio)
    restore()
    if abs(len(ours) - len(theirs)) > 0.2 * max(len(ours), len(theirs)):
        raise EngineError(
            f"{len(ours)} detections here and {len(theirs)} in the demo's way",
            expected="about as many: otherwise the times compare different work",
            fix="report this with the model and the image",
        )

    def demo_all() -> Any:
        tensor, r = demo_preprocess(image, size)
        values = session.run(names, {spec.input_name: tensor[None]})
        # The demo's models give one tensor. To join raw levels is no work of its own: the values of
        # the same image stand in for them.
        single = values[0] if spec.head is HeadLayout.UNDECODED else demo_output
        return demo_postprocess(single, size, r)

    stages: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "preprocess bgr8": (
            lambda: demo_preprocess(image, size),
            lambda: preprocessor(frame, scratch),
        ),
        "decode + NMS": (
            lambda: demo_postprocess(demo_output, size, ratio),
            lambda: postprocessor(outputs, 0, letterbox, options),
        ),
        "inference": (
            lambda: session.run(names, {spec.input_name: demo_input[None]}),
            lambda: engine.run(1),
        ),
        "whole path": (demo_all, lambda: detector.detect([frame], [options])),
    }
    for encoding in ("rgb8", "bgra8", "mono8", "uyvy", "nv12"):
        stages[f"preprocess {encoding}"] = _encoded(image, encoding, size, preprocessor, scratch)
    figures: dict[str, Any] = {}
    for done, (name, calls) in enumerate(stages.items()):
        on_progress("measuring", done, len(stages), name)
        demo, own = alternating_times(calls, settings.seconds, before=restore)
        figures[name] = {"demo": 1e3 * demo, "ours": 1e3 * own, "ratio": demo / own}
    figures["detections"] = len(ours)
    return figures


def _encoded(
    image: Image,
    encoding: str,
    size: tuple[int, int],
    preprocessor: CpuPreprocessor,
    out: npt.NDArray[Any],
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return both ways for a camera's other encodings: there, cv2.cvtColor comes first."""
    height, width = image.shape[:2]
    to_encoding, to_bgr = {
        "rgb8": (cv2.COLOR_BGR2RGB, cv2.COLOR_RGB2BGR),
        "bgra8": (cv2.COLOR_BGR2BGRA, cv2.COLOR_BGRA2BGR),
        "mono8": (cv2.COLOR_BGR2GRAY, cv2.COLOR_GRAY2BGR),
        "uyvy": (cv2.COLOR_BGR2YUV_UYVY, cv2.COLOR_YUV2BGR_UYVY),
        "nv12": (cv2.COLOR_BGR2YUV_I420, cv2.COLOR_YUV2BGR_NV12),
    }[encoding]
    pixels = cv2.cvtColor(image, to_encoding)
    if encoding == "nv12":
        # Planar chroma (I420) becomes interleaved.
        chroma = pixels[height:].reshape(2, -1)
        pixels = np.vstack((pixels[:height], chroma.T.reshape(height // 2, width)))
    frame = Frame.view(pixels.reshape(-1), height=height, width=width, encoding=encoding)
    return (
        lambda: demo_preprocess(np.asarray(cv2.cvtColor(pixels, to_bgr), np.uint8), size),
        lambda: preprocessor(frame, out),
    )


def demo_preprocess(image: Image, size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], float]:
    """Letterbox as the demo does; return (3, H, W) and the scale."""
    canvas = np.ones((size[0], size[1], 3), dtype=np.uint8) * 114
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = int(image.shape[0] * scale), int(image.shape[1] * scale)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[:height, :width] = resized.astype(np.uint8)
    planes = canvas.transpose((2, 0, 1))
    return np.ascontiguousarray(planes, dtype=np.float32), scale


def demo_postprocess(
    output: npt.NDArray[np.float32], size: tuple[int, int], scale: float
) -> npt.NDArray[np.float32]:
    """Decode (1, A, 5 + C), in place, and suppress as the demo does.

    Returns:
        (N, 6): x1 y1 x2 y2 score class.
    """
    values = output  # changed in place, as there
    grids, strides = [], []
    for stride in (8, 16, 32):
        columns, rows = np.meshgrid(np.arange(size[1] // stride), np.arange(size[0] // stride))
        grid = np.stack((columns, rows), 2).reshape(1, -1, 2)
        grids.append(grid)
        strides.append(np.full((*grid.shape[:2], 1), stride))
    all_grids = np.concatenate(grids, 1)
    all_strides = np.concatenate(strides, 1)
    values[..., :2] = (values[..., :2] + all_grids) * all_strides
    values[..., 2:4] = np.exp(values[..., 2:4]) * all_strides
    anchors = values[0]
    boxes = anchors[:, :4]
    scores = anchors[:, 4:5] * anchors[:, 5:]
    corners = np.ones_like(boxes)
    corners[:, 0] = boxes[:, 0] - boxes[:, 2] / 2.0
    corners[:, 1] = boxes[:, 1] - boxes[:, 3] / 2.0
    corners[:, 2] = boxes[:, 0] + boxes[:, 2] / 2.0
    corners[:, 3] = boxes[:, 1] + boxes[:, 3] / 2.0
    corners /= scale
    found = []
    for class_id in range(scores.shape[1]):
        class_scores = scores[:, class_id]
        valid = class_scores > SCORE
        if valid.sum() == 0:
            continue
        valid_scores, valid_boxes = class_scores[valid], corners[valid]
        kept = _demo_nms(valid_boxes, valid_scores)
        if kept:
            ids = np.ones((len(kept), 1)) * class_id
            found.append(np.concatenate([valid_boxes[kept], valid_scores[kept, None], ids], 1))
    return np.concatenate(found, 0) if found else np.empty((0, 6), np.float32)


def _demo_nms(boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> list[int]:
    x1, y1, x2, y2 = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = scores.argsort()[::-1]
    kept = []
    while order.size > 0:
        i = order[0]
        kept.append(i)
        left, top = np.maximum(x1[i], x1[order[1:]]), np.maximum(y1[i], y1[order[1:]])
        right, bottom = np.minimum(x2[i], x2[order[1:]]), np.minimum(y2[i], y2[order[1:]])
        inter = np.maximum(0.0, right - left + 1) * np.maximum(0.0, bottom - top + 1)
        overlap = inter / (areas[i] + areas[order[1:]] - inter)
        order = order[np.where(overlap <= NMS)[0] + 1]
    return kept


def _photograph(options: CpuOptions) -> Image:
    height, width = options.size
    if options.source is not None:
        return np.asarray(cv2.resize(read_image(options.source), (width, height)), np.uint8)
    source = options_of(CpuOptions)["source"]
    with ConfigurationError.instead_of(
        ImportError,
        "no photograph",
        expected="one, or scikit-image's photographs",
        fix=("give ", source, " IMAGE, or pip install scikit-image"),
    ):
        from skimage import data
    parts = [data.astronaut(), data.chelsea(), data.coffee(), data.stereo_motorcycle()[0]]
    tiles = [cv2.resize(p[..., ::-1], (width // 2, height // 2)) for p in parts]
    rows = [np.hstack(tiles[:2]), np.hstack(tiles[2:])]
    return np.ascontiguousarray(np.vstack(rows), np.uint8)
