# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: histograms of each part, and all of them merged, exactly."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolox_trt.batch.detection import files_of, hash_of
from yolox_trt.batch.frames import open_part
from yolox_trt.batch.job import Job, Outcome, Worker
from yolox_trt.batch.manifest import Manifest
from yolox_trt.batch.places import reaching, read_place
from yolox_trt.batch.plan import IMAGES, Part
from yolox_trt.compiler.int8.collect import Statistics, collect_statistics, float_tensors
from yolox_trt.compiler.int8.images import float_model, inputs_of
from yolox_trt.compiler.int8.options import no_images
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.images import read_image_size
from yolox_trt.core.input_size import AUTO_SIZE, InputSize, Size, format_size
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input
from yolox_trt.graph.input_size import tool_size, with_size


@dataclass(frozen=True)
class CalibrateJob(Job):
    """Collects the statistics of every float tensor.

    The algorithm is none of it: another one is applied to the same statistics.

    Attributes:
        model: float ONNX file.
        preprocessing: what its input expects; None for what the model says.
        input_size: (height, width) at which it is calibrated; None for its own.
        threads: of ONNX Runtime, 0 for one a core.
    """

    model: Path
    preprocessing: Preprocessing | None = None
    input_size: Size | None = None
    threads: int = 0
    suffix = ".npz"

    def description(self) -> Mapping[str, Any]:
        """Return the model's hash, its preprocessing and its size."""
        return {
            "job": "calibrate",
            "model": hash_of(self.model),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
            "input_size": None if self.input_size is None else format_size(self.input_size),
        }

    def files(self) -> Mapping[str, Path]:
        """Return the model and its weights' files."""
        return files_of(self.model)

    def with_files(self, folder: Path) -> CalibrateJob:
        """Return the job with its model in that folder."""
        return replace(self, model=folder / self.model.name)

    @contextlib.contextmanager
    def open(self) -> Iterator[_Collector]:
        """Load the model."""
        yield _Collector(self.graph(), self.threads)

    def graph(self) -> Graph:
        """Load the model at its size, with what its input expects noted in it."""
        graph = float_model(self.model, self.preprocessing)
        return graph if self.input_size is None else with_size(graph, self.input_size)

    def sized(self, asked: InputSize | None, parts: Sequence[Part]) -> CalibrateJob:
        """Return the job at the size that the option `input_size` names for the images of parts.

        Raises:
            ConfigurationError, ModelError: see graph.input_size.tool_size.
        """
        pictures = _shapes(parts) if asked == AUTO_SIZE else ()
        return replace(self, input_size=tool_size(self.graph(), asked, pictures))


def _shapes(parts: Sequence[Part]) -> Iterator[Size]:
    """Yield (height, width) of image files, and of the first image of each bag and video.

    What cannot be read has none: its part, or its image, is told when it is worked on.
    """
    for part in parts:
        with contextlib.suppress(YoloxTrtError, OSError):
            if part.kind != IMAGES:
                if part.number == 0:
                    with open_part(part) as source:
                        yield from (frame.source_size for frame in itertools.islice(source, 1))
                continue
            for file in part.files:
                with contextlib.suppress(YoloxTrtError, OSError):
                    yield read_image_size(file)


class _Collector(Worker):
    def __init__(self, graph: Graph, threads: int) -> None:
        self._graph, self._threads = graph, threads
        self._image, self._tensors = read_image_input(graph), float_tensors(graph)

    def work(self, part: Part) -> Outcome:
        begin = time.perf_counter()
        with open_part(part) as source:
            statistics = collect_statistics(
                self._graph,
                inputs_of(source, self._image),
                tensors=self._tensors,
                threads=self._threads,
            )
            refused = source.refused
        data, seconds = statistics.to_bytes(), time.perf_counter() - begin
        return Outcome(part, data, statistics.images, refused, seconds=seconds)


def merged_statistics(manifest: Manifest) -> Statistics:
    """Return the statistics of all parts that are done: those of one pass over all their images.

    Raises:
        ConfigurationError: none is done, or a file is damaged.
    """
    merged: Statistics | None = None
    for _, place in manifest.done():
        with reaching(place):
            data = read_place(place, LIMITS.result_bytes)
        statistics = Statistics.from_bytes(data)
        if merged is None:
            merged = statistics
        else:
            merged.merge(statistics)
    if merged is None:
        raise no_images()
    return merged
