# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Activation statistics of a model over calibration images, by ONNX Runtime, in one pass."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.compiler.int8.algorithms import parse_algorithm
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.histogram import Histogram
from yolox_trt.compiler.int8.infer_ranges import input_copies, unknown_tensor
from yolox_trt.compiler.int8.layers import quantizable_inputs
from yolox_trt.compiler.int8.options import no_images
from yolox_trt.compiler.int8.session import Session, check_input
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.limits import LIMITS
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Value

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

    def merge(self, other: Statistics) -> None:
        """Add what was seen of other images, of the same model.

        The histograms become those of one pass over all images, whatever the order
        (Histogram.merge); channel_amax does but for float rounding.

        Raises:
            ConfigurationError: other tensors were watched, or tensors of other sizes.
        """
        if self.histograms.keys() != other.histograms.keys():
            differing = sorted(self.histograms.keys() ^ other.histograms.keys())
            raise ConfigurationError(
                f"statistics of {', '.join(differing[:5])} on one side alone",
                expected="the same tensors of the same model on both",
                fix="collect them again with one model and one version of yolox_trt",
            )
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        share = other.images / max(self.images + other.images, 1)
        for name, amax in other.channel_amax.items():
            own = self.channel_amax.get(name, amax)
            if own.shape != amax.shape:
                raise ConfigurationError(
                    f"statistics of {name} with {own.size} channels, and with {amax.size}",
                    expected="the same tensors of the same model on both",
                    fix="collect them again with one model",
                )
            self.channel_amax[name] = (own * (1.0 - share) + amax * share).astype(np.float32)
        self.images += other.images
        self.input_copies |= other.input_copies

    def to_bytes(self) -> bytes:
        """Return everything as NumPy's .npz, the same bytes for the same statistics."""
        arrays: dict[str, Any] = {
            "images": self.images,
            "names": np.array(list(self.histograms), dtype=str),
            "input_copies": np.array(sorted(self.input_copies), dtype=str),
            "channel_names": np.array(list(self.channel_amax), dtype=str),
        }
        for index, each in enumerate(self.histograms.values()):
            scalars = (each.width, each.zeros, each.minimum, each.maximum)
            arrays[f"scalars_{index}"] = np.array(scalars, np.float64)
            arrays[f"counts_{index}"] = each.counts
        for index, amax in enumerate(self.channel_amax.values()):
            arrays[f"channels_{index}"] = amax
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """Read what to_bytes returned.

        Raises:
            ConfigurationError: it is something else.
        """
        with (
            ConfigurationError.instead_of(
                Exception,  # zipfile, zlib and NumPy have their own for each kind of damage
                f"{len(data)} bytes that are no statistics",
                expected="what another run has written",
                fix="remove the file, and run again",
            ),
            np.load(io.BytesIO(data), allow_pickle=False) as arrays,
        ):
            size = sum(entry.file_size for entry in arrays.zip.infolist())
            if size > LIMITS.result_bytes:
                raise ValueError(f"{size} bytes, packed")
            histograms = {}
            for index, name in enumerate(_texts(arrays["names"])):
                width, zeros, minimum, maximum = arrays[f"scalars_{index}"].tolist()
                counts = arrays[f"counts_{index}"]
                histograms[name] = Histogram.of(width, zeros, minimum, maximum, counts)
            channels = {
                name: _magnitudes(arrays[f"channels_{index}"])
                for index, name in enumerate(_texts(arrays["channel_names"]))
            }
            copies, images = set(_texts(arrays["input_copies"])), arrays["images"].item()
            if not isinstance(images, int) or not 0 < images < 2**53:
                raise ValueError(f"{images} images")
            return cls(histograms, images, channels, copies)

    def ranges(self, algorithm: str, tensors: Iterable[str] | None = None) -> DynamicRanges:
        """Apply a calibration algorithm (see algorithms.parse_algorithm) to tensors, or to all.

        The image itself keeps its whole range whatever the algorithm: its values are spread
        evenly up to a known bound, and clipping them (entropy likes to) blinds the first layer.
        """
        find = parse_algorithm(algorithm)
        found = {}
        for name in self.histograms if tensors is None else tensors:
            histogram = self.histograms[name]
            found[name] = histogram.amax if name in self.input_copies else find(histogram)
        return DynamicRanges.from_amax(found, algorithm)


def _texts(values: npt.NDArray[np.str_]) -> list[str]:
    if values.ndim != 1 or values.dtype.kind != "U":
        raise ValueError(f"{values.dtype} {values.shape} names")
    texts: list[str] = values.tolist()
    return texts


def _magnitudes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if values.ndim != 1 or values.dtype != np.float32 or not np.isfinite(values).all():
        raise ValueError(f"{values.dtype} {values.shape} magnitudes of channels")
    return values


def float_tensors(graph: Graph) -> list[str]:
    """Return the graph's inputs and every float tensor that follows from them, in order."""
    graph.infer_shapes()
    computed = set(graph.inputs)
    for node in graph.nodes:
        if not computed.isdisjoint(node.inputs):
            computed.update(node.outputs)
    every = (*graph.inputs, *(value for node in graph.nodes for value in node.outputs))
    # A type that is not known is taken for float.
    return [
        value.name
        for value in every
        if value in computed and value.elem_type in (0, onnx.TensorProto.FLOAT) and value.name
    ]


def collect_statistics(
    graph: Graph,
    images: Iterable[npt.NDArray[np.float32]],
    *,
    tensors: Sequence[str] | None = None,
    threads: int = 0,
) -> Statistics:
    """Run images through a model and keep a histogram of each tensor.

    One image is in memory at a time, and at most GROUP_BYTES of its activations (or one tensor,
    if that is larger).

    Args:
        graph: float model, batch 1 or dynamic.
        images: preprocessed inputs, float32 (1, 3, H, W) each.
        tensors: names to watch; by default the inputs of layers with weights.
        threads: ONNX Runtime's intra-op threads, 0 for its default.

    Raises:
        ConfigurationError: there was no image, or a tensor is not in the graph.
        ModelError: the model does not take one float32 image at a time.
        EngineError: ONNX Runtime does not run it, or it gave NaN or infinity.
    """
    check_input(graph)
    names = list(tensors) if tensors is not None else quantizable_inputs(graph)
    values = graph.values()
    for name in names:
        if name not in values or values[name].is_constant:
            raise unknown_tensor(name, values)
    input_name = graph.inputs[0].name
    watched = [values[name] for name in names if name != input_name]
    # An arena for each group's session would keep that group's activations for good.
    sessions = [
        (group, Session(graph, group, purpose="calibration", threads=threads, keep_memory=False))
        for group in _groups(graph, watched)
    ]
    statistics = Statistics({name: Histogram() for name in names}, input_copies=input_copies(graph))
    channel_sums: dict[str, npt.NDArray[np.float64]] = {}

    def add(name: str, value: npt.NDArray[np.float32]) -> None:
        with EngineError.instead_of(
            ValueError,
            f"tensor '{name}' for calibration image {statistics.images + 1}",
            expected="finite activations",
            fix="check the image and the model's preprocessing metadata",
        ):
            statistics.histograms[name].add(value)
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
    if statistics.images == 0:
        raise no_images()
    statistics.channel_amax = {
        name: (total / statistics.images).astype(np.float32) for name, total in channel_sums.items()
    }
    return statistics


def _groups(graph: Graph, values: Sequence[Value]) -> list[list[str]]:
    """Split tensors so that one run's fetched activations stay within GROUP_BYTES."""
    graph.infer_shapes()
    groups: list[list[str]] = [[]]
    used = 0
    for value in values:
        size = 4 * math.prod(d for d in value.shape or () if isinstance(d, int))
        if groups[-1] and used + size > GROUP_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(value.name)
        used += size
    return groups if groups[-1] else []
