# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: histograms of each part, and all of them merged, exactly."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolox_trt.batch.detection import files_of, hash_of
from yolox_trt.batch.frames import open_part
from yolox_trt.batch.job import Job, Outcome, Worker
from yolox_trt.batch.manifest import Manifest
from yolox_trt.batch.plan import Part
from yolox_trt.compiler.int8.collect import Statistics, collect_statistics, float_tensors
from yolox_trt.compiler.int8.images import float_model, inputs_of
from yolox_trt.compiler.int8.options import no_images
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input


@dataclass(frozen=True)
class CalibrateJob(Job):
    """Collects the statistics of every float tensor.

    The algorithm is none of it: another one is applied to the same statistics.

    Attributes:
        model: float ONNX file.
        preprocessing: what its input expects; None for what the model says.
        threads: of ONNX Runtime, 0 for one a core.
    """

    model: Path
    preprocessing: Preprocessing | None = None
    threads: int = 0
    suffix = ".npz"

    def description(self) -> Mapping[str, Any]:
        """Return the model's hash and its preprocessing."""
        return {
            "job": "calibrate",
            "model": hash_of(self.model),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
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
        """Load the model, with what its input expects noted in it."""
        return float_model(self.model, self.preprocessing)


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
        statistics = Statistics.from_bytes(place.read_bytes())
        if merged is None:
            merged = statistics
        else:
            merged.merge(statistics)
    if merged is None:
        raise no_images()
    return merged
