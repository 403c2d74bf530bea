# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the ways to quantise one model: accuracy, size, time, per-layer error, ranges.

A detector is measured by COCO's metrics on labelled images; any network by how near its outputs
come to the float model's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.equalize import equalize
from yolox_trt.compiler.int8.infer_ranges import fixed_ranges
from yolox_trt.compiler.int8.layers import QDQ_OPSET, quantizable_inputs
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.quantizer import SENSITIVITY_IMAGES, Inputs
from yolox_trt.compiler.int8.sensitivity import (
    LayerErrors,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.input_size import OWN_SIZE
from yolox_trt.core.progress import Progress, no_progress, track
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.coco_metrics import CocoMetrics
from yolox_trt.evaluation.dataset import Dataset
from yolox_trt.evaluation.evaluate import evaluate
from yolox_trt.evaluation.options import CompareOptions
from yolox_trt.evaluation.output_metrics import OutputComparison, OutputMetrics
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.float16 import to_float16
from yolox_trt.graph.graph import Graph

#: Images on which each layer is compared: a layer's output has values enough.
_LAYER_IMAGES = 2


@dataclass(frozen=True, eq=False)
class Variant:
    """One form of the model and what was measured of it.

    Attributes:
        form: what was done, as a row's title.
        metrics: COCO's metrics, or how near the outputs are to those of FP32.
        size: bytes of the ONNX file.
        inference: median seconds for one image, ONNX Runtime on this CPU (Q/DQ simulates INT8
            there: no statement about TensorRT's speed).
        float_macs: share of the multiply-accumulates outside INT8, 0 to 1.
        layer_errors: layer -> relative error of its output against FP32.
        ranges: activation ranges used.
    """

    form: str
    metrics: CocoMetrics | OutputMetrics
    size: int
    inference: float
    float_macs: float = 1.0
    layer_errors: dict[str, float] = field(default_factory=dict)
    ranges: DynamicRanges | None = None

    @property
    def figures(self) -> dict[str, str]:
        """What was measured, by column, the deciding one first."""
        m = self.metrics
        if isinstance(m, CocoMetrics):
            found = {"mAP": f"{m.mean_ap:.4f}", "mAP50": f"{m.map50:.4f}"}
            parts = {"small": m.map_small, "medium": m.map_medium, "large": m.map_large}
            return found | {k: f"{v:.3f}" if v >= 0 else "-" for k, v in parts.items()}
        found = {}
        if m.mean_iou is not None and m.pixel_accuracy is not None:
            found = {"mean IoU": f"{m.mean_iou:.4f}", "pixel accuracy": f"{m.pixel_accuracy:.4f}"}
        return found | {f"error of {name}": f"{100 * v:.3g} %" for name, v in m.errors.items()}

    @property
    def score(self) -> float:
        """What decides which form is better: the larger the better."""
        m = self.metrics
        if isinstance(m, CocoMetrics):
            return m.mean_ap
        return -m.worst_error if m.mean_iou is None else m.mean_iou

    @property
    def score_title(self) -> str:
        """What `score` is called."""
        m = self.metrics
        if isinstance(m, CocoMetrics) or m.mean_iou is not None or len(m.errors) == 1:
            return next(iter(self.figures))
        return "largest error of an output"


@refuses_damaged
def compare(
    model: Graph,
    inputs: Inputs,
    measured_on: Dataset | Iterable[npt.NDArray[np.float32]],
    options: CompareOptions,
    *,
    on_progress: Progress = no_progress,
) -> list[Variant]:
    """Quantise a model in every way and measure each one.

    The ways: FP32; FP16; each algorithm with Q/DQ on every tensor ("all", max and the last of the
    list only), on convolution inputs, and on convolution inputs after equalisation; fixed ranges
    where activations are bounded; mixed precision by the sensitivity search, for the last
    algorithm of the list.

    Args:
        model: float model.
        inputs: calibration inputs, which may be iterated over again.
        measured_on: labelled images, others than the calibration images; or inputs of the network,
            on which outputs are compared with those of FP32.
        options: the ways.
        on_progress: told of every image, layer and variant.
    """
    model = model.copy()
    model.upgrade(QDQ_OPSET)
    threads = options.threads or 0

    images = track("calibrate", inputs, on_progress)
    plain = collect_statistics(model, images, tensors=float_tensors(model), threads=threads)
    bases = [("conv inputs", model, plain)]
    equalized_model, records = equalize(model, plain.channel_amax, alpha=options.alpha)
    if records:
        images = track("calibrate, equalised", inputs, on_progress)
        statistics = collect_statistics(equalized_model, images, threads=threads)
        bases.append(("equalised", equalized_model, statistics))
    probes = list(itertools.islice(inputs, SENSITIVITY_IMAGES))
    layer_errors = LayerErrors(model, probes[:_LAYER_IMAGES], threads=threads)
    macs = layer_macs(model)
    total_macs = max(sum(macs.values()), 1)
    comparison: OutputComparison | None = None
    if not isinstance(measured_on, Dataset):
        images = track("FP32's outputs", measured_on, on_progress)
        comparison = OutputComparison(model, images, threads=threads)
    algorithms = dict.fromkeys(("max", options.algorithms[-1]))
    ways = len(options.algorithms) + len(options.keep_fp16)
    done, forms = itertools.count(1), 2 + len(algorithms) + len(bases) * ways
    try:
        fixed: DynamicRanges | None = fixed_ranges(model)
        forms += 1
    except ConfigurationError:
        fixed = None  # unbounded activations: no fixed ranges to compare

    def measure(
        form: str,
        candidate: Graph,
        ranges: DynamicRanges | None = None,
        kept: Sequence[str] = (),
    ) -> Variant:
        whole = candidate.to_model()
        metrics: CocoMetrics | OutputMetrics
        if comparison is not None:
            metrics, seconds = comparison.measure(candidate)
        else:
            assert isinstance(measured_on, Dataset)
            detector = create_detector(
                DetectorOptions(
                    model=whole,
                    device=Device("cpu"),
                    engine="onnxruntime",
                    input_size=OWN_SIZE,
                    threads=options.threads,
                )
            )
            with closing(detector):
                result = evaluate(detector, measured_on)
            metrics, seconds = result.metrics, result.stage_times.inference
        errors = layer_errors.of(candidate) if ranges else {}
        on_progress("forms", next(done), forms, form)
        return Variant(
            form=form,
            metrics=metrics,
            size=whole.ByteSize(),
            inference=seconds,
            float_macs=sum(macs.get(n, 0) for n in kept) / total_macs if ranges else 1.0,
            layer_errors=errors,
            ranges=ranges,
        )

    def int8_forms() -> Iterator[tuple[str, Graph, DynamicRanges, Sequence[str]]]:
        """Yield (form, Q/DQ model, ranges, layers in floating point)."""
        last = options.algorithms[-1]
        for algorithm in algorithms:
            ranges = plain.ranges(algorithm)
            quantized = insert_qdq(model, ranges, every_tensor=True)
            yield f"all tensors, {algorithm}", quantized, ranges, ()
        for title, base, statistics in bases:
            for algorithm in options.algorithms:
                ranges = statistics.ranges(algorithm, quantizable_inputs(base))
                yield f"{title}, {algorithm}", insert_qdq(base, ranges), ranges, ()
        if fixed is not None:
            yield "fixed ranges", insert_qdq(model, fixed), fixed, ()
        for title, base, statistics in bases:
            ranges = statistics.ranges(last, quantizable_inputs(base))
            ranking = layer_sensitivity(
                base, ranges, probes, threads=threads, title=title, on_progress=on_progress
            )
            for request in options.keep_fp16:
                kept = choose_float_layers(ranking, request)
                quantized = insert_qdq(base, ranges, keep_float=kept)
                yield f"{title}, {last}, FP16 auto:{request}", quantized, ranges, kept

    variants = [measure("FP32", model)]
    try:
        float16 = model.copy()
        to_float16(float16)
        variants.append(measure("FP16", float16))
    except ModelError as error:
        raise ModelError(
            f"a model that has no FP16 form ({error})",
            expected="a float model without Q/DQ",
            fix="give the ONNX file that was quantised",
        ) from error
    return variants + list(itertools.starmap(measure, int8_forms()))
