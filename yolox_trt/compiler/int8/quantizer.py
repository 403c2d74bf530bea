# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way from a float model and images to a quantised model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.equalize import EqualizedTensor, equalize
from yolox_trt.compiler.int8.infer_ranges import fixed_ranges, override_ranges
from yolox_trt.compiler.int8.qdq import Placement, WeightFormat, insert_qdq, refuse_half
from yolox_trt.compiler.int8.sensitivity import (
    LayerSensitivity,
    choose_float_layers,
    layer_macs,
    layer_sensitivity,
)
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.graph.int8_graph import Graph, with_opset

#: Images that the sensitivity search runs for each layer: enough for a stable ranking.
SENSITIVITY_IMAGES = 8

OpenInputs = Callable[[], Iterator[npt.NDArray[np.float32]]]
#: (what is being done, steps done, steps in all or None)
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        algorithm: see algorithms.parse_algorithm; "fixed" takes ReLU6's bounds, without images.
        equalize_alpha: None leaves channels as they are; see equalize.equalize.
        keep_fp16: layer names, or "auto:N" or "auto:P%" (see sensitivity.choose_float_layers).
        range_overrides: tensor name or pattern -> range, in place of what was found.
        placement: which activations carry Q/DQ.
        weight_format: how the weights are stored.
    """

    algorithm: str = "percentile:99.999"
    equalize_alpha: float | None = None
    keep_fp16: Sequence[str] = ()
    range_overrides: dict[str, float] = field(default_factory=dict)
    placement: Placement = Placement.CONV_INPUTS
    weight_format: WeightFormat = WeightFormat.INT8


@dataclass
class QuantizedModel:
    """What quantize returned.

    Attributes:
        model: the Q/DQ model.
        ranges: scales of its activations.
        images: calibration images used.
        equalized: tensors that were equalised.
        sensitivities: layers by error, where a search was made.
        kept: layers that stay in floating point.
        kept_macs: their share of all multiply-accumulates, 0 to 1.
    """

    model: onnx.ModelProto
    ranges: DynamicRanges
    images: int
    equalized: list[EqualizedTensor]
    sensitivities: list[LayerSensitivity]
    kept: list[str]
    kept_macs: float


def quantize(
    model: onnx.ModelProto,
    open_inputs: OpenInputs | None,
    options: QuantizeOptions,
    *,
    threads: int = 0,
    on_progress: Progress | None = None,
) -> QuantizedModel:
    """Calibrate and quantise a model.

    The images are run once for equalisation (if asked for) and once for calibration.

    Args:
        model: float model.
        open_inputs: opens the calibration inputs anew, float32 (1, 3, H, W) each; None only with
            algorithm "fixed" and no automatic choice of layers.
        options: how.
        threads: ONNX Runtime's intra-op threads, 0 for its default.
        on_progress: told of every image and layer.

    Raises:
        ConfigurationError: an option does not fit, or images are needed and missing.
        ModelError: the model computes in FP16, or does not take one float32 image at a time.
    """
    automatic = [name for name in options.keep_fp16 if name.startswith("auto:")]
    named = [name for name in options.keep_fp16 if not name.startswith("auto:")]
    fixed = options.algorithm == "fixed"
    if fixed and options.equalize_alpha is not None:
        raise ConfigurationError(
            "fixed ranges for equalised channels",
            expected="ranges that are found with images: no activation bounds an equalised tensor",
            fix="--algorithm percentile:99.999 with --equalize, or --algorithm fixed without it",
        )
    if open_inputs is None and (not fixed or automatic):
        raise ConfigurationError(
            "no calibration images",
            expected="images, unless ranges are fixed and layers named",
            fix="--images FOLDER|LIST|BAG",
        )
    model = with_opset(model, 13)
    refuse_half(Graph(model))  # before an hour of calibration
    images = 0
    equalized: list[EqualizedTensor] = []

    def tick(what: str, total: int | None = None) -> Callable[[], None]:
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if on_progress is not None:
                on_progress(what, done, total)

        return step

    if options.equalize_alpha is not None and open_inputs is not None:
        statistics = collect_statistics(
            model, open_inputs(), threads=threads, on_image=tick("equalise")
        )
        model, equalized = equalize(model, statistics.channel_amax, alpha=options.equalize_alpha)
    if fixed:
        ranges = fixed_ranges(model, options.range_overrides)
    else:
        assert open_inputs is not None
        everything = options.placement is Placement.ALL
        statistics = collect_statistics(
            model,
            open_inputs(),
            tensors=float_tensors(model) if everything else None,
            threads=threads,
            on_image=tick("calibrate"),
        )
        ranges, images = statistics.ranges(options.algorithm), statistics.images
        override_ranges(model, ranges, options.range_overrides)
    sensitivities: list[LayerSensitivity] = []
    kept = list(named)
    if automatic:
        assert open_inputs is not None
        layers = sum(1 for _ in Graph(model).weighted_nodes())
        sensitivities = layer_sensitivity(
            model,
            ranges,
            list(islice(open_inputs(), SENSITIVITY_IMAGES)),
            threads=threads,
            on_layer=tick("sensitivity", layers),
        )
        for request in automatic:
            kept.extend(choose_float_layers(sensitivities, request.removeprefix("auto:")))
    kept = list(dict.fromkeys(kept))
    macs = layer_macs(model)
    quantized = insert_qdq(
        model,
        ranges,
        keep_float=kept,
        placement=options.placement,
        weight_format=options.weight_format,
    )
    share = sum(macs.get(name, 0) for name in kept) / max(sum(macs.values()), 1)
    return QuantizedModel(quantized, ranges, images, equalized, sensitivities, kept, share)
