# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Activation statistics of a model over calibration images, by ONNX Runtime, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.compiler.int8.algorithms import parse_algorithm
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.histogram import Histogram
from yolox_trt.compiler.int8.infer_ranges import input_copies
from yolox_trt.compiler.int8.session import Session, check_input
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.graph.int8_graph import Graph

#: Bytes of activations fetched from one run; more tensors mean more runs of each image.
GROUP_BYTES = 512 * 2**20


@dataclass
class Statistics:
    """What was seen of each tensor.

    Attributes:
        images: number of images run.
        channel_amax: tensor name -> float32 (C,), mean over the images of each image's largest
            magnitude in a channel (4-D tensors only). The mean, not the maximum: one odd image
            must not decide a channel's share of the codes.
        input_copies: the graph's input and tensors that only rearrange it.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    images: int = 0
    channel_amax: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    input_copies: set[str] = field(default_factory=set)

    def ranges(self, algorithm: str) -> DynamicRanges:
        """Apply a calibration algorithm (see algorithms.parse_algorithm) to every tensor.

        The image itself keeps its whole range whatever the algorithm: its values are spread
        evenly up to a known bound, and clipping them (entropy likes to) blinds the first layer.
        """
        find = parse_algorithm(algorithm)
        return DynamicRanges.from_amax(
            {
                name: histogram.amax if name in self.input_copies else find(histogram)
                for name, histogram in self.histograms.items()
            },
            algorithm,
        )


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the graph's inputs and every computed float tensor, in topological order."""
    graph = Graph(model)
    inferred = onnx.shape_inference.infer_shapes(graph.model)
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    names = [
        name
        for node in graph.nodes
        if node.op_type != "Constant"
        for name in node.output
        if types.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT
    ]
    return graph.inputs + names


def quantizable_inputs(model: onnx.ModelProto) -> list[str]:
    """Return the tensors that layers with weights read: those that Q/DQ is placed on."""
    return list(dict.fromkeys(node.input[0] for node in Graph(model).weighted_nodes()))


def collect_statistics(
    model: onnx.ModelProto,
    images: Iterable[npt.NDArray[np.float32]],
    *,
    tensors: Sequence[str] | None = None,
    threads: int = 0,
    on_image: Callable[[], None] | None = None,
) -> Statistics:
    """Run images through a model and keep a histogram of each tensor.

    One image is in memory at a time, and at most GROUP_BYTES of its activations (or one tensor,
    if that is larger).

    Args:
        model: float model, batch 1 or dynamic.
        images: preprocessed inputs, float32 (1, 3, H, W) each.
        tensors: names to watch; by default the inputs of layers with weights.
        threads: ONNX Runtime's intra-op threads, 0 for its default.
        on_image: called after each image, for a progress bar.

    Raises:
        ConfigurationError: there was no image, or a tensor is not in the graph.
        ModelError: the model does not take one float32 image at a time.
        EngineError: ONNX Runtime does not run it, or it gave NaN or infinity.
    """
    graph = Graph(model)
    names = list(tensors) if tensors is not None else quantizable_inputs(model)
    unknown = [n for n in names if n not in graph.producer and n not in graph.inputs]
    if unknown:
        raise ConfigurationError(
            f"tensor '{unknown[0]}'", expected="a computed tensor of the model", fix="inspect MODEL"
        )
    input_name = graph.inputs[0]
    watched = [n for n in names if n != input_name]
    check_input(graph)
    # An arena for each group's session would keep that group's activations for good.
    sessions = [
        (
            group,
            Session(graph.model, group, purpose="calibration", threads=threads, keep_memory=False),
        )
        for group in _groups(graph.model, watched)
    ]
    statistics = Statistics({name: Histogram() for name in names}, input_copies=input_copies(graph))
    channel_sums: dict[str, npt.NDArray[np.float64]] = {}

    def add(name: str, value: npt.NDArray[np.float32]) -> None:
        try:
            statistics.histograms[name].add(value)
        except ValueError as error:
            raise EngineError(
                f"{error} in tensor '{name}' for calibration image {statistics.images + 1}",
                expected="finite activations",
                fix="check the image and the model's preprocessing metadata",
            ) from error
        if value.ndim == 4:
            amax = np.maximum(value.max(axis=(0, 2, 3)), -value.min(axis=(0, 2, 3)))
            channel_sums[name] = channel_sums.get(name, 0.0) + amax.astype(np.float64)

    for image in images:
        if input_name in statistics.histograms:
            add(input_name, image)
        for group, session in sessions:
            for name, value in zip(group, session.run(image), strict=True):
                add(name, value)
        statistics.images += 1
        if on_image is not None:
            on_image()
    if statistics.images == 0:
        raise ConfigurationError(
            "no calibration image", expected="at least one", fix="--images FOLDER|LIST|BAG"
        )
    statistics.channel_amax = {
        name: (total / statistics.images).astype(np.float32) for name, total in channel_sums.items()
    }
    return statistics


def _groups(model: onnx.ModelProto, names: Sequence[str]) -> list[list[str]]:
    """Split tensors so that one run's fetched activations stay within GROUP_BYTES."""
    inferred = onnx.shape_inference.infer_shapes(model)
    sizes = {
        v.name: 4 * int(np.prod([max(1, d.dim_value) for d in v.type.tensor_type.shape.dim]))
        for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    groups: list[list[str]] = [[]]
    used = 0
    for name in names:
        size = sizes.get(name, 0)
        if groups[-1] and used + size > GROUP_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups if groups[-1] else []
