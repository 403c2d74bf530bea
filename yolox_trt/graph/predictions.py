# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a YOLOX graph in ONNX Runtime and brings its outputs, whatever their form, to one form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolox_trt.core.errors import MissingDependencyError, ModelError
from yolox_trt.core.model_spec import HeadLayout, HeadTensor, ModelSpec
from yolox_trt.graph.float16 import computes_in_float16
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.head import anchor_grid
from yolox_trt.graph.onnx_session import make_session, require_memory
from yolox_trt.graph.outputs import logits_of
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Array, Value

if TYPE_CHECKING:
    import onnx

#: Largest relative difference of two forms of a network, and that where it computes in FP16: ten of
#: its roundings (2^-10 each).
TOLERANCE = 1e-4
TOLERANCE_FP16 = 1e-2
#: Logits beyond these are not told apart. Above, a float16 probability has no digits left; below
#: (0.0009), ONNX Runtime's Sigmoid is off by 1e-7, which is much beside so small a number.
_LOGITS = (-7.0, 4.0)


@dataclass(frozen=True)
class Predictions:
    """A network's predictions in one form, so that any two head layouts can be compared.

    Attributes:
        boxes: float64 (N, A, 4), x y w h as the last convolutions give them: relative to the grid
            cell, sizes as logarithms.
        objectness: float64 (N, A) in 0..1, or None behind EfficientNMS (only the product is left).
        classes: float64 (N, A, C) in 0..1; objectness x class where objectness is None.
        mask_logits: float64 (N, C, h, w) of the segmentation head, None without one.
    """

    boxes: Array
    objectness: Array | None
    classes: Array
    mask_logits: Array | None = None

    @property
    def scores(self) -> Array:
        """Objectness x class, float64 (N, A, C)."""
        if self.objectness is None:
            return self.classes
        return self.objectness[..., None] * self.classes


def run_model(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """Run a model on the CPU with ONNX Runtime, without its graph optimisations.

    Raises:
        ModelError: ONNX Runtime does not take the model.
    """
    try:
        session = make_session(model, optimize=False, purpose="checking a rewritten model")
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    except MissingDependencyError:
        raise
    except Exception as error:  # onnxruntime raises pybind exceptions of many classes
        raise ModelError(
            f"ONNX Runtime does not run the model ({error})",
            expected="a model that ONNX Runtime can run",
            fix="leave the numerical check out",
        ) from error


def run_in_batches(
    model: onnx.ModelProto, name: str, feed: Array, batch: int | None
) -> dict[str, Array]:
    """Run a model on any number of images; see run_model.

    Args:
        model: the model; the first axis of its outputs is the batch.
        name: of its input.
        feed: what it takes, the images along the first axis.
        batch: images in one run, None for any number.
    """
    step = batch or len(feed)
    parts: list[dict[str, Array]] = []
    for start in range(0, len(feed), step):
        chunk = feed[start : start + step]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], step - len(chunk), 0)])
        result = run_model(model, {name: filled})
        if step == len(feed):
            return result  # also of outputs without a batch
        parts.append({k: v[: len(chunk)] for k, v in result.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def sample_images(batch: int, height: int, width: int, seed: int = 0) -> Array:
    """Return random images with structure at several scales, uint8 (N, 3, H, W), BGR.

    White noise would leave the deeper layers almost constant.

    Raises:
        OutOfMemoryError: they, and what they are made of, do not fit into memory.
    """
    needed = 3.0 * batch * height * width * 2 * np.dtype(float).itemsize
    require_memory(needed, f"{batch} images of {height}x{width} (H x W)")
    rng = np.random.default_rng(seed)
    image = np.zeros((batch, 3, height, width))
    for size in (64, 16, 4, 1):
        rows, columns = -(-height // size), -(-width // size)
        coarse = rng.uniform(-64, 64, (batch, 3, rows, columns))
        image += coarse.repeat(size, 2).repeat(size, 3)[..., :height, :width]
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def predict(
    model: onnx.ModelProto | Graph, images: Array, *, spec: ModelSpec | None = None
) -> Predictions:
    """Preprocess images as the model's description says, run it, and bring its outputs to one form.

    A model with EfficientNMS is run up to the plugin, which ONNX Runtime does not have.

    Args:
        model: a YOLOX with fixed H x W (a fixed batch B runs B images at a time).
        images: uint8 (N, 3, H, W), BGR, already of the network's size.
        spec: its description, if known.

    Raises:
        ModelError: not a YOLOX that this package can run.
    """
    graph = Graph.of(model)
    if spec is None:
        spec = read_spec(graph)
    nms_inputs, mask_logits = ("", ""), ""
    if spec.segmentation is not None:
        graph, mask_logits = _with_mask_logits(graph, spec.segmentation.name)
    if spec.head is HeadLayout.EFFICIENT_NMS:
        graph, nms_inputs = _before_nms(graph, mask_logits)
    multiplier, offset = spec.preprocessing.factors
    feed = images if spec.preprocessing.color_order == "bgr" else images[:, ::-1]
    if not spec.preprocessing.is_identity:
        feed = feed * np.reshape(multiplier, (1, 3, 1, 1)) + np.reshape(offset, (1, 3, 1, 1))
    feed = np.ascontiguousarray(feed.astype(spec.input_dtype))
    found = run_in_batches(graph.to_model(), spec.input_name, feed, spec.batch)
    outputs = {name: values.astype(np.float64) for name, values in found.items()}
    return dataclasses.replace(
        _predictions(spec, outputs, nms_inputs), mask_logits=outputs.get(mask_logits)
    )


def _predictions(
    spec: ModelSpec, outputs: dict[str, Array], nms_inputs: tuple[str, str]
) -> Predictions:
    """Bring a detection head's outputs, or what EfficientNMS reads, to one form."""
    if spec.head is HeadLayout.EFFICIENT_NMS:
        boxes, scores = (outputs[name] for name in nms_inputs)
        grid, strides = _grid(spec, boxes.shape[1])
        return Predictions(_undecode(boxes, grid, strides), None, scores)
    if spec.head is HeadLayout.RAW_LEVELS:
        return _from_levels(spec, outputs)
    flat = outputs[spec.output_names[0]]
    boxes = flat[..., :4]
    if spec.head is HeadLayout.DECODED:
        boxes = _undecode(boxes, *_grid(spec, boxes.shape[1]))
    return Predictions(boxes, _probability(flat[..., 4], spec), _probability(flat[..., 5:], spec))


def relative_difference(before: Predictions, after: Predictions) -> float:
    """Return max |after - before| / max |before|, the largest over all kinds of predictions.

    Scores are compared as logits: on random images the probabilities of many networks are all but
    0, and their rounding beside the largest would be taken for a defect. What is below 1 (a grid
    cell, a logit) is compared with 1 likewise, since decoded boxes are rounded in pixels.

    Raises:
        ModelError: the two have different numbers of anchors or classes, or one has no masks.
    """
    pairs = [(before.boxes, after.boxes)]
    if before.objectness is None or after.objectness is None:
        scores = [(before.scores, after.scores)]
    else:
        scores = [(before.objectness, after.objectness), (before.classes, after.classes)]
    pairs += [(_logit(a), _logit(b)) for a, b in scores]
    if before.mask_logits is not None or after.mask_logits is not None:
        first, second = (
            np.empty(0) if p.mask_logits is None else p.mask_logits for p in (before, after)
        )
        pairs.append((first, second))
    worst = 0.0
    for a, b in pairs:
        if a.shape != b.shape:
            raise ModelError(
                f"predictions of shape {b.shape} after the surgery",
                expected=f"{a.shape}, as before",
                fix="leave the last pass out",
            )
        scale = max(float(np.abs(a).max()), 1.0)
        difference = float(np.abs(a - b).max()) / scale
        worst = max(worst, difference) if np.isfinite(difference) else float("inf")
    return worst


def tolerance_of(graph: Graph) -> float:
    """Return the largest relative difference that a rewrite without approximation may leave."""
    return TOLERANCE_FP16 if computes_in_float16(graph) else TOLERANCE


def _probability(values: Array, spec: ModelSpec) -> Array:
    # Clipped where exp would overflow; float64 sigmoid is 0 or 1 there.
    return values if spec.sigmoid else 1.0 / (1.0 + np.exp(-np.clip(values, -60, 60)))


def _logit(probability: Array) -> Array:
    low, high = _LOGITS
    kept = np.clip(probability, 1.0 / (1.0 + np.exp(-low)), 1.0 / (1.0 + np.exp(-high)))
    return np.log(kept / (1.0 - kept))


def _grid(spec: ModelSpec, anchors: int) -> tuple[Array, Array]:
    """Return cell corners (A, 2) as x, y in cells and strides (A, 1) in pixels."""
    strides = spec.strides or (8, 16, 32)
    grid, steps = anchor_grid((spec.input_height, spec.input_width), strides)
    if len(grid) != anchors:
        raise ModelError(
            f"{anchors} anchors",
            expected=f"{len(grid)} for strides {strides}",
            fix="check the head",
        )
    return grid, steps


def _undecode(boxes: Array, grid: Array, strides: Array) -> Array:
    sizes = np.maximum(boxes[..., 2:4] / strides, 1e-30)
    return np.concatenate([boxes[..., :2] / strides - grid, np.log(sizes)], -1)


def _from_levels(spec: ModelSpec, outputs: dict[str, Array]) -> Predictions:
    def take(tensor: HeadTensor | None, channels: int) -> Array:
        assert tensor is not None
        values = outputs[tensor.name][:, tensor.channel : tensor.channel + channels]
        return values.reshape(*values.shape[:2], -1).transpose(0, 2, 1)

    boxes = np.concatenate([take(level.box, 4) for level in spec.levels], 1)
    objectness = np.concatenate([take(level.objectness, 1) for level in spec.levels], 1)[..., 0]
    classes = np.concatenate([take(level.classes, spec.num_classes) for level in spec.levels], 1)
    return Predictions(boxes, _probability(objectness, spec), _probability(classes, spec))


def _with_mask_logits(graph: Graph, output: str) -> tuple[Graph, str]:
    """Let a graph give the logits of its segmentation head; return it and their name.

    Classes would not do: one that is as likely as another changes with any rounding.
    """
    twin = graph.copy()
    logits = logits_of(next(value for value in twin.outputs if value.name == output))
    twin.outputs = [logits if value.name == output else value for value in twin.outputs]
    twin.sort()
    return twin, logits.name


def _before_nms(graph: Graph, kept: str) -> tuple[Graph, tuple[str, str]]:
    """Cut a graph in front of EfficientNMS; return it and the names of (boxes, scores).

    An output of the name `kept` stays.

    The two become float64: their own type (FP16 where the whole graph is) is not written down.
    """
    twin = graph.copy()
    node = next(node for node in twin.nodes if node.op.startswith("EfficientNMS"))
    double = {"to": 11}  # onnx.TensorProto.DOUBLE
    boxes, scores = (
        twin.add_node("Cast", value.name, [value], double, output=Value(f"{value.name}_before_nms"))
        for value in node.inputs[:2]
    )
    twin.outputs = [boxes, scores, *(value for value in twin.outputs if value.name == kept)]
    twin.sort()
    return twin, (boxes.name, scores.name)
