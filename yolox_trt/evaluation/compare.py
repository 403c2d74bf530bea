# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the ways to quantise one model: accuracy, size, time, per-layer error, ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.collect import Statistics, collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.equalize import equalize
from yolox_trt.compiler.int8.infer_ranges import fixed_ranges
from yolox_trt.compiler.int8.layer_error import layer_errors
from yolox_trt.compiler.int8.qdq import Placement, insert_qdq
from yolox_trt.compiler.int8.quantizer import SENSITIVITY_IMAGES, OpenInputs, Progress
from yolox_trt.compiler.int8.sensitivity import (
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.detectors.factory import create_detector
from yolox_trt.evaluation.coco_metrics import CocoMetrics
from yolox_trt.evaluation.dataset import Dataset
from yolox_trt.evaluation.evaluate import EVALUATION_OPTIONS, evaluate
from yolox_trt.graph.float16 import to_fp16
from yolox_trt.graph.int8_graph import with_opset

if TYPE_CHECKING:
    import onnx

DEFAULT_ALGORITHMS = (
    "max",
    "entropy",
    "mse",
    "percentile:99.9999",
    "percentile:99.999",
    "percentile:99.99",
)


@dataclass(frozen=True, eq=False)
class Variant:
    """One form of the model and what was measured of it.

    Attributes:
        name: what was done, as a row's title.
        precision: "fp32", "fp16" or "int8".
        metrics: COCO's metrics.
        size: bytes of the ONNX file.
        inference: median seconds for one image, ONNX Runtime on this CPU (Q/DQ simulates INT8
            there: no statement about TensorRT's speed).
        float_macs: share of the multiply-accumulates outside INT8, 0 to 1.
        layer_errors: layer -> relative error of its output against FP32.
        ranges: activation ranges used.
    """

    name: str
    precision: str
    metrics: CocoMetrics
    size: int
    inference: float
    float_macs: float = 1.0
    layer_errors: dict[str, float] = field(default_factory=dict)
    ranges: DynamicRanges | None = None


def compare(
    model: onnx.ModelProto,
    open_inputs: OpenInputs,
    dataset: Dataset,
    *,
    algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
    alpha: float = 0.75,
    keep: Sequence[str] = ("15%",),
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> list[Variant]:
    """Quantise a model in every way and measure each one.

    The ways: FP32; FP16; each algorithm with Q/DQ on every tensor ("all", max and the first
    percentile only), on convolution inputs, and on convolution inputs after equalisation; fixed
    ranges where activations are bounded; mixed precision by the sensitivity search, for the last
    algorithm of the list.

    Args:
        model: float model.
        open_inputs: opens the calibration inputs anew.
        dataset: labelled images, others than the calibration images.
        algorithms: see algorithms.parse_algorithm.
        alpha: of the equalisation.
        keep: shares of the operations (or numbers of layers) that may stay in floating point.
        threads: of ONNX Runtime.
        on_progress: told of every image, layer and variant.

    Raises:
        ConfigurationError: no algorithm was given.
    """
    if not algorithms:
        raise ConfigurationError("no calibration algorithm", fix="--algorithms max,entropy,...")
    model = with_opset(model, 13)
    pool = threads or 0

    def tick(what: str, total: int | None = None) -> Callable[[], None]:
        counter = iter(range(1, 1 << 30))

        def step() -> None:
            if on_progress is not None:
                on_progress(what, next(counter), total)

        return step

    plain = collect_statistics(
        model,
        open_inputs(),
        tensors=float_tensors(model),
        threads=pool,
        on_image=tick("calibrate"),
    )
    equalized_model, records = equalize(model, plain.channel_amax, alpha=alpha)
    equalized = (
        collect_statistics(
            equalized_model, open_inputs(), threads=pool, on_image=tick("calibrate, equalised")
        )
        if records
        else plain
    )
    probes = list(islice(open_inputs(), SENSITIVITY_IMAGES))
    macs = layer_macs(model)
    total_macs = max(sum(macs.values()), 1)
    done = tick("evaluate")

    def measure(
        name: str,
        precision: str,
        candidate: onnx.ModelProto,
        ranges: DynamicRanges | None = None,
        kept: Sequence[str] = (),
    ) -> Variant:
        detector = create_detector(candidate, "cpu", engine="onnxruntime", threads=threads)
        try:
            result = evaluate(detector, dataset, EVALUATION_OPTIONS, show_progress=False)
        finally:
            detector.close()
        errors = layer_errors(model, candidate, probes, threads=pool) if ranges else {}
        done()
        return Variant(
            name=name,
            precision=precision,
            metrics=result.metrics,
            size=len(candidate.SerializeToString()),
            inference=result.stage_times.inference,
            float_macs=sum(macs.get(n, 0) for n in kept) / total_macs if ranges else 1.0,
            layer_errors=errors,
            ranges=ranges,
        )

    variants = [measure("FP32", "fp32", model)]
    try:
        variants.append(measure("FP16", "fp16", to_fp16(model)))
    except ModelError as error:
        raise ModelError(
            f"a model that has no FP16 form ({error})",
            expected="a float model without Q/DQ",
            fix="give the ONNX file that was quantised",
        ) from error
    for name, quantized, ranges, kept in _int8_forms(
        model,
        plain,
        equalized_model,
        equalized,
        bool(records),
        algorithms,
        keep,
        probes,
        pool,
        tick,
    ):
        variants.append(measure(name, "int8", quantized, ranges, kept))
    return variants


def _int8_forms(
    model: onnx.ModelProto,
    plain: Statistics,
    equalized_model: onnx.ModelProto,
    equalized: Statistics,
    has_equalized: bool,
    algorithms: Sequence[str],
    keep: Sequence[str],
    probes: Sequence[npt.NDArray[np.float32]],
    threads: int,
    tick: Callable[..., Callable[[], None]],
) -> Iterator[tuple[str, onnx.ModelProto, DynamicRanges, Sequence[str]]]:
    """Yield (name, Q/DQ model, ranges, layers in floating point)."""
    for algorithm in dict.fromkeys(("max", algorithms[-1])):
        ranges = plain.ranges(algorithm)
        yield (
            f"all tensors, {algorithm}",
            insert_qdq(model, ranges, placement=Placement.ALL),
            ranges,
            (),
        )
    for algorithm in algorithms:
        ranges = plain.ranges(algorithm)
        yield f"conv inputs, {algorithm}", insert_qdq(model, ranges), ranges, ()
    if has_equalized:
        for algorithm in algorithms:
            ranges = equalized.ranges(algorithm)
            yield f"equalised, {algorithm}", insert_qdq(equalized_model, ranges), ranges, ()
    try:
        ranges = fixed_ranges(model)
    except ConfigurationError:
        pass  # unbounded activations: no fixed ranges to compare
    else:
        yield "fixed ranges", insert_qdq(model, ranges), ranges, ()
    for title, candidate, statistics in (
        ("conv inputs", model, plain),
        ("equalised", equalized_model, equalized),
    )[: 2 if has_equalized else 1]:
        algorithm = algorithms[-1]
        ranges = statistics.ranges(algorithm)
        ranking = layer_sensitivity(
            candidate, ranges, probes, threads=threads, on_layer=tick(f"sensitivity, {title}")
        )
        for request in keep:
            kept = choose_float_layers(ranking, request)
            yield (
                f"{title}, {algorithm}, FP16 auto:{request}",
                insert_qdq(candidate, ranges, keep_float=kept),
                ranges,
                kept,
            )
