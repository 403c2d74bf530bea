# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way from a float model and images to ranges, or to a quantised model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.calibration_cache import read_cache
from yolox_trt.compiler.int8.collect import Statistics, collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.equalize import equalize
from yolox_trt.compiler.int8.infer_ranges import (
    fixed_ranges,
    infer_missing,
    override_ranges,
    unify_for_dla,
)
from yolox_trt.compiler.int8.layers import QDQ_OPSET, last_layers, quantizable_inputs
from yolox_trt.compiler.int8.options import (
    FIXED,
    LAST,
    CalibrateOptions,
    QuantizeOptions,
    RangeOptions,
    no_images,
)
from yolox_trt.compiler.int8.qdq import (
    insert_qdq,
    layers_to_quantize,
    refuse_decoded,
    refuse_half,
)
from yolox_trt.compiler.int8.sensitivity import (
    LayerSensitivity,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.core.progress import Progress, no_progress, track
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.graph import Graph

#: Images that the sensitivity search runs for each layer: enough for a stable ranking.
SENSITIVITY_IMAGES = 8

#: Calibration inputs, float32 (1, 3, H, W) each, that may be iterated over again.
Inputs = Iterable[npt.NDArray[np.float32]]


@dataclass
class Calibration:
    """What calibrate returned.

    Attributes:
        ranges: the scales.
        inferred: names of the tensors whose ranges follow from their neighbours'.
        missing: names of the float tensors that have none.
    """

    ranges: DynamicRanges
    inferred: list[str]
    missing: list[str]


@refuses_damaged
def calibrate(
    graph: Graph,
    inputs: Inputs | None,
    options: CalibrateOptions,
    *,
    on_progress: Progress = no_progress,
) -> Calibration:
    """Find the ranges of all tensors of a float model, for a builder that calibrates.

    Args:
        graph: float model.
        inputs: calibration inputs; None only with algorithm "fixed".
        options: how.
        on_progress: told of every image.

    Raises:
        ConfigurationError: images are needed and missing, or an override matches no tensor.
        ModelError: the model does not take one float32 image at a time.
    """
    tensors = float_tensors(graph)
    return _completed(graph, _find_ranges(graph, inputs, options, tensors, on_progress), options)


@refuses_damaged
def calibration_of(graph: Graph, statistics: Statistics, options: CalibrateOptions) -> Calibration:
    """Find what `calibrate` does, from statistics of all float tensors that are there already."""
    return _completed(graph, _ranges_of(graph, statistics, options), options)


def _completed(graph: Graph, ranges: DynamicRanges, options: CalibrateOptions) -> Calibration:
    inferred = infer_missing(graph, ranges)
    if options.dla:
        unify_for_dla(graph, ranges)
    missing = [name for name in float_tensors(graph) if name not in ranges]
    return Calibration(ranges, inferred, missing)


@dataclass
class QuantizedModel:
    """What quantize returned.

    Attributes:
        graph: the Q/DQ model.
        base: the float model that it was made of, equalised where that was asked for.
        every_tensor: whether every tensor is quantised, not the inputs of layers alone.
        ranges: scales of its activations.
        equalized: names of the tensors that were equalised.
        sensitivities: layers by error, where a search was made.
        kept: layers that stay in floating point.
        kept_macs: their share of all multiply-accumulates, 0 to 1.
    """

    graph: Graph
    base: Graph
    every_tensor: bool
    ranges: DynamicRanges
    equalized: list[str]
    sensitivities: list[LayerSensitivity]
    kept: list[str]
    kept_macs: float


@refuses_damaged
def quantize(
    graph: Graph,
    inputs: Inputs | None,
    options: QuantizeOptions,
    *,
    on_progress: Progress = no_progress,
) -> QuantizedModel:
    """Calibrate and quantise a model.

    The images are run once for equalisation (if asked for) and once for calibration.

    Args:
        graph: float model (it is not changed).
        inputs: calibration inputs; None only where the options take the ranges from elsewhere
            and name the layers.
        options: how.
        on_progress: told of every image and layer.

    Raises:
        ConfigurationError: an option does not fit, or images are needed and missing.
        ModelError: the model computes in FP16, or does not take one float32 image at a time.
    """
    if inputs is None and (options.automatic or options.equalize is not None):
        raise no_images()
    every_tensor = options.placement == "all"
    graph = graph.copy()
    graph.upgrade(QDQ_OPSET)
    # Before an hour of calibration.
    refuse_half(graph)
    if options.int8_outputs:
        refuse_decoded(graph)
    kept = [name for name in options.named if name != LAST]
    if LAST in options.named:
        kept += last_layers(graph)
    layers_to_quantize(graph, kept)
    equalized: dict[str, float] = {}
    if options.equalize is not None and inputs is not None:
        images = track("equalise", inputs, on_progress)
        statistics = collect_statistics(graph, images, threads=options.threads)
        graph, equalized = equalize(
            graph, statistics.channel_amax, alpha=options.equalize, every_tensor=every_tensor
        )
    if options.from_ranges is not None:
        read = DynamicRanges.load_json if options.from_ranges.suffix == ".json" else read_cache
        ranges = read(options.from_ranges)
        override_ranges(graph, ranges, options.overrides)
    else:
        tensors = float_tensors(graph) if every_tensor else quantizable_inputs(graph)
        if options.int8_outputs and not every_tensor:
            tensors += [value.name for value in graph.outputs]
        ranges = _find_ranges(graph, inputs, options, tensors, on_progress)
        if every_tensor:
            unify_for_dla(graph, ranges)
    sensitivities: list[LayerSensitivity] = []
    if options.automatic and inputs is not None:
        sensitivities = layer_sensitivity(
            graph,
            ranges,
            list(islice(inputs, SENSITIVITY_IMAGES)),
            threads=options.threads,
            on_progress=on_progress,
        )
        for request in options.automatic:
            kept += choose_float_layers(sensitivities, request)
    kept = list(dict.fromkeys(kept))
    macs = layer_macs(graph)
    quantized = insert_qdq(
        graph,
        ranges,
        keep_float=kept,
        every_tensor=every_tensor,
        float_weights=options.weights == "float",
        outputs=options.int8_outputs,
    )
    share = sum(macs.get(name, 0) for name in kept) / max(sum(macs.values()), 1)
    return QuantizedModel(
        quantized, graph, every_tensor, ranges, list(equalized), sensitivities, kept, share
    )


def _find_ranges(
    graph: Graph,
    inputs: Inputs | None,
    options: RangeOptions,
    tensors: list[str],
    on_progress: Progress,
) -> DynamicRanges:
    if options.algorithm == FIXED:
        return fixed_ranges(graph, options.overrides)
    if inputs is None:
        raise no_images()
    override_ranges(graph, DynamicRanges(), options.overrides)  # refuses before an hour of work
    images = track("calibrate", inputs, on_progress)
    statistics = collect_statistics(graph, images, tensors=tensors, threads=options.threads)
    return _ranges_of(graph, statistics, options)


def _ranges_of(graph: Graph, statistics: Statistics, options: RangeOptions) -> DynamicRanges:
    ranges = statistics.ranges(options.algorithm)
    override_ranges(graph, ranges, options.overrides)
    return ranges
