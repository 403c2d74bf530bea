# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How near a network's outputs come to the float model's: a measure that needs no labels.

For networks without a detection metric, and for images without labels. Outputs that give a class to
each pixel are measured as masks are, with the float model's classes as labels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.session import Session
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import SegmentationHead
from yolox_trt.evaluation.segmentation import confusion_of, metrics_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.inference import describe
from yolox_trt.graph.onnx_session import require_memory
from yolox_trt.graph.outputs import argmax_behind

Array = npt.NDArray[np.float32]

#: Most classes of an output that is taken for one logit a class and pixel: a mask holds 8 bits.
_MOST_CLASSES = 255


@dataclass(frozen=True)
class OutputMetrics:
    """How near the outputs are to the float model's, over all images.

    Attributes:
        errors: output -> ||found - float|| / ||float||; of whole numbers the share that differs.
            Outputs have their names, but where an exporter has only numbered its tensors.
        pixel_accuracy: share of the pixels that have the float model's class; None where no output
            gives classes.
        mean_iou: mean over the classes of their IoU with the float model's; None likewise.
        per_class: class -> IoU; {} likewise.
        images: number of images.
    """

    errors: dict[str, float]
    pixel_accuracy: float | None
    mean_iou: float | None
    per_class: dict[str, float]
    images: int

    @property
    def worst_error(self) -> float:
        """The largest error of an output."""
        return max(self.errors.values(), default=0.0)


class OutputComparison:
    """The float model's outputs on some images, to compare others with.

    Args:
        model: the float model.
        images: its inputs, float32 (1, 3, H, W).
        threads: ONNX Runtime's threads, 0 for its default.

    Raises:
        ConfigurationError: no images.
        OutOfMemoryError: the outputs do not fit into memory.
    """

    def __init__(self, model: Graph, images: Iterable[Array], *, threads: int = 0) -> None:
        self._threads = threads
        model.infer_shapes()  # which tell an ArgMax over the classes of pixels
        self._images = list(images)
        if not self._images:
            raise ConfigurationError("no images to compare outputs on", fix="give images")
        session = Session(model, purpose="comparing outputs", threads=threads)
        first = session.run(self._images[0])
        needed = sum(output.nbytes for output in first) * len(self._images)
        require_memory(float(needed), f"the outputs for {len(self._images)} images")
        self._expected = [first, *(session.run(image) for image in self._images[1:])]
        self._names = [value.name for value in model.outputs]
        self._titles = _titles(self._names, first)
        self._classes = _class_output(model, first)

    def measure(self, model: Graph) -> tuple[OutputMetrics, float]:
        """Run a model with the same outputs; return how near it is, and seconds for an image."""
        session = Session(model, purpose="comparing outputs", threads=self._threads)
        noise = np.zeros(len(self._names))
        signal = np.zeros(len(self._names))
        count = self._classes.num_classes if self._classes else 0
        confusion = np.zeros((count, count), np.int64)
        times = []
        for image, expected in zip(self._images, self._expected, strict=True):
            start = time.perf_counter()
            found = session.run(image)
            times.append(time.perf_counter() - start)
            for i, (e, f) in enumerate(zip(expected, found, strict=True)):
                if e.dtype.kind != "f":
                    noise[i], signal[i] = noise[i] + np.mean(e != f), signal[i] + 1.0
                    continue
                noise[i] += np.sum(np.square(f.astype(np.float64) - e))
                signal[i] += np.sum(np.square(e.astype(np.float64)))
            if self._classes is not None:
                index = self._names.index(self._classes.name)
                labels, classes = (
                    (each if self._classes.has_argmax else each.argmax(1)).astype(np.uint8)
                    for each in (expected[index], found[index])
                )
                confusion += confusion_of(labels, classes, count)
        floats = [e.dtype.kind == "f" for e in self._expected[0]]
        shares = noise / np.maximum(signal, 1e-30)
        errors = {
            title: float(np.sqrt(share) if is_float else share)
            for title, share, is_float in zip(self._titles, shares, floats, strict=True)
        }
        images = len(self._images)
        seconds = float(np.median(times))
        if self._classes is None:
            return OutputMetrics(errors, None, None, {}, images), seconds
        masks = metrics_of(confusion, self._classes, images)
        return (
            OutputMetrics(errors, masks.pixel_accuracy, masks.mean_iou, masks.per_class, images),
            seconds,
        )


def _titles(names: Sequence[str], outputs: Sequence[Array]) -> list[str]:
    """Return what a reader calls the outputs: their names, or for "948" its place and shape."""
    if len(names) == 1 and names[0].isdigit():
        return ["the output"]
    return [
        f"output {number} ({describe(output.shape)})" if name.isdigit() else name
        for number, (name, output) in enumerate(zip(names, outputs, strict=True), 1)
    ]


def _class_output(model: Graph, outputs: list[Array]) -> SegmentationHead | None:
    """Return the output that gives a class to each pixel, where it is the only one."""
    if len(outputs) != 1:
        return None
    output, value = outputs[0], model.outputs[0]
    if (argmax := argmax_behind(value)) is not None and output.ndim in (3, 4):
        # From the graph: the classes of the first image would be those that happen to be in it.
        channels = (argmax.inputs[0].shape or ())[int(argmax.attrs.get("axis", 0))]
        classes, has_argmax = channels if isinstance(channels, int) else 0, True
        height, width = output.shape[-2:]
    elif output.ndim == 4 and output.dtype.kind == "f" and min(output.shape[2:]) > 1:
        classes, has_argmax = output.shape[1], False
        height, width = output.shape[2:]
    else:
        return None
    if not 2 <= classes <= _MOST_CLASSES:
        return None
    return SegmentationHead(value.name, classes, 1, height, width, has_argmax)
