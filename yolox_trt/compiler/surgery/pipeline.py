# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline: passes in their order, each checked against the original model."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.compiler.dla.limits import limits_for
from yolox_trt.compiler.surgery.activation_patterns import ActivationPatterns, activation_behind
from yolox_trt.compiler.surgery.batch_norm_fusion import BatchNormFusion
from yolox_trt.compiler.surgery.constant_folding import ConstantFolding
from yolox_trt.compiler.surgery.conv_splitting import ConvSplitting
from yolox_trt.compiler.surgery.duplicate_merging import DuplicateMerging
from yolox_trt.compiler.surgery.efficient_nms import EfficientNmsAttachment
from yolox_trt.compiler.surgery.fixed_shape import FixedShape
from yolox_trt.compiler.surgery.focus_to_conv import FocusToConv
from yolox_trt.compiler.surgery.head_cut import HeadCut
from yolox_trt.compiler.surgery.input_folding import InputFolding
from yolox_trt.compiler.surgery.no_op_removal import NoOpRemoval
from yolox_trt.compiler.surgery.open_batch import OpenBatch
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pool_to_chain import PoolToChain
from yolox_trt.compiler.surgery.report import GraphFigures, PassRecord, SurgeryReport
from yolox_trt.compiler.surgery.surgery_pass import SurgeryPass
from yolox_trt.compiler.surgery.uint8_input import Uint8Input
from yolox_trt.compiler.surgery.upsample_to_scales import UpsampleToScales
from yolox_trt.core import model_spec
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.option import options_of
from yolox_trt.graph.float16 import computes_in_float16
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.model_graph import ModelGraph, load_model
from yolox_trt.graph.predictions import (
    Predictions,
    predict,
    relative_difference,
    sample_images,
)
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx

#: Largest relative difference that a rewrite without approximation may leave.
TOLERANCE = 1e-4
#: The same for a graph that computes in FP16: ten of its roundings (2^-10 each).
TOLERANCE_FP16 = 1e-2

Progress = Callable[[str, int, int], None]

#: Every pass by its name, in the pipeline's order.
PASSES: dict[str, type[SurgeryPass]] = {
    p.name: p
    for p in (
        FixedShape,
        OpenBatch,
        ConstantFolding,
        NoOpRemoval,
        BatchNormFusion,
        ActivationPatterns,
        UpsampleToScales,
        HeadCut,
        FocusToConv,
        InputFolding,
        PoolToChain,
        ConvSplitting,
        DuplicateMerging,
        EfficientNmsAttachment,
        Uint8Input,
    )
}


@dataclass(frozen=True)
class OptimizeResult:
    """A rewritten model and the report about it."""

    model: onnx.ModelProto
    report: SurgeryReport


def build_passes(options: SurgeryOptions, *, open_batch: bool = False) -> list[SurgeryPass]:
    """Return the passes for the options, in their order.

    Args:
        options: what is asked for.
        open_batch: whether the model's batch is open.

    Raises:
        ConfigurationError: `skip` names a pass that does not exist.
    """
    unknown = options.skip - PASSES.keys()
    if unknown:
        raise ConfigurationError(
            f"no pass {', '.join(sorted(unknown))}",
            expected=", ".join(PASSES),
            fix=("correct ", options_of(SurgeryOptions)["skip"]),
        )
    dla = options.target == "dla"
    limits = limits_for(options.tensorrt)
    batch = 1 if dla and open_batch and options.batch is None else options.batch
    height, width = options.input_size or (None, None)
    fold_metadata = options.fold_preprocessing or options.uint8_input
    passes: list[SurgeryPass] = [FixedShape(batch, height, width)]
    if options.open_batch:
        passes.append(OpenBatch())
    passes += [
        ConstantFolding(),
        NoOpRemoval(),
        BatchNormFusion(),
        ActivationPatterns(),
        UpsampleToScales(),
    ]
    if options.head == "raw":
        passes.append(HeadCut(options.sigmoid))
    passes += [
        FocusToConv(),
        InputFolding(metadata=fold_metadata, allow_pad=not dla),
        PoolToChain(),
    ]
    if dla or options.max_groups is not None:
        splitting = ConvSplitting(
            limits, max_groups=options.max_groups, precision=options.precision
        )
        passes.append(splitting)
    passes.append(DuplicateMerging())
    if options.head == "efficient-nms":
        passes.append(
            EfficientNmsAttachment(
                options.score_threshold,
                options.iou_threshold,
                options.max_output_boxes,
                class_agnostic=options.class_agnostic,
            )
        )
    if options.uint8_input:
        passes.append(Uint8Input())
    return [p for p in passes if p.name not in options.skip]


def optimize(
    model: str | Path | onnx.ModelProto,
    options: SurgeryOptions | None = None,
    *,
    verify: bool = True,
    progress: Progress | None = None,
) -> OptimizeResult:
    """Rewrite a model for a target, checking every change against the original.

    Args:
        model: path or loaded model (not changed).
        options: what is asked for.
        verify: run original and rewritten model in ONNX Runtime on random images and compare.
        progress: called with (pass name, step, steps) before each pass.

    Returns:
        The new model and the report.

    Raises:
        ModelError: the model cannot be rewritten, a pass changed its predictions by more than
            TOLERANCE (TOLERANCE_FP16 where it computes in FP16), or the result does not run
            although the original does.
        ConfigurationError: the options contradict each other.
    """
    options = options or SurgeryOptions()
    original = _with_metadata(load_model(model), options)
    graph = ModelGraph(original)
    shape = graph.image.shape or [None]
    passes = build_passes(options, open_batch=not isinstance(shape[0], int))
    comparison = _Comparison(original, options) if verify else None
    tolerance = TOLERANCE_FP16 if computes_in_float16(Graph(original)) else TOLERANCE
    steps = len(passes) + 1
    current = original
    records: list[PassRecord] = []
    measured: _Measurement | None = None  # of the model as the last change left it
    lost = ""  # the first of the passes since which it cannot be measured
    for step, rewrite in enumerate(passes):
        if progress is not None:
            progress(rewrite.name, step, steps)
        result = rewrite.run(current)
        own: float | None = None
        if result.changes and comparison is not None:
            measured = comparison.measure(result.model)
            own = measured.difference
            if own is not None and own > tolerance:
                raise ModelError(
                    f"pass {rewrite.name} changed the predictions by {own:.2g} (relative)",
                    expected=f"at most {tolerance:g}",
                    fix=f"leave it out (`--skip {rewrite.name}`) and report it with the model",
                )
            # A later pass may mend it: a constant of the old size goes with the head.
            lost = (lost or rewrite.name) if measured.failure else ""
        if result.changes or result.notes:
            records.append(PassRecord(rewrite.name, result.changes, result.notes, own))
        current = result.model
    if current is not original:
        _note_activation(current)
    if progress is not None:
        progress("report", steps - 1, steps)
    if comparison is not None and measured is None:
        measured = comparison.measure(current)
    if measured is not None and measured.failure:
        blamed = f" since pass {lost}" if lost else ""
        way_out = f"leave that pass out (`--skip {lost}`)" if lost else "export the model again"
        raise ModelError(
            f"the rewritten model does not run{blamed} ({measured.failure})",
            expected="the predictions of the original, which runs",
            fix=f"{way_out} and report it with the model; `--no-verify` writes the file unchecked",
        )
    rules = {"tensorrt": options.tensorrt, "precision": options.precision, "soc": options.soc}
    # The original is counted at the size of the result, or the figures could not be compared.
    sized = passes[0].run(original).model if isinstance(passes[0], FixedShape) else original
    before = dataclasses.replace(
        GraphFigures.of(sized, **rules),
        operators=dict(Counter(n.op for n in graph.nodes).most_common()),
    )
    reason = "" if comparison is not None else "switched off"
    # An opened batch counts as the one that it was, likewise.
    opened = options.open_batch and isinstance(shape[0], int)
    counted = FixedShape(shape[0]).run(current).model if opened else current
    report = SurgeryReport(
        before=before,
        after=GraphFigures.of(counted, **rules),
        passes=tuple(records),
        difference=measured.difference if measured is not None else None,
        not_measured=comparison.reason if comparison is not None else reason,
    )
    return OptimizeResult(current, report)


def _with_metadata(model: onnx.ModelProto, options: SurgeryOptions) -> onnx.ModelProto:
    """Return the model with the preprocessing and class names that the user gave."""
    values: dict[str, str] = {}
    if options.preprocessing is not None:
        values[model_spec.METADATA_PREPROCESSING] = options.preprocessing.to_json()
    if options.class_names is not None:
        values[model_spec.METADATA_CLASS_NAMES] = json.dumps(list(options.class_names))
    if not values:
        return model
    copy = type(model)()
    copy.CopyFrom(model)
    kept = [p for p in copy.metadata_props if p.key not in values]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    for key, value in values.items():
        entry = copy.metadata_props.add()
        entry.key, entry.value = key, value
    return copy


def _note_activation(model: onnx.ModelProto) -> None:
    """Write the activation behind the convolutions into the metadata, where there is but one."""
    if any(p.key == model_spec.METADATA_ACTIVATION for p in model.metadata_props):
        return
    graph = ModelGraph(model)
    kinds = {activation_behind(graph, n) for n in graph.nodes if n.op == "Conv"} - {""}
    if len(kinds) == 1:
        entry = model.metadata_props.add()
        entry.key, entry.value = model_spec.METADATA_ACTIVATION, json.dumps(kinds.pop())


@dataclass(frozen=True)
class _Measurement:
    """What one comparison with the original gave.

    Attributes:
        difference: relative; None where it could not be measured.
        failure: why the rewritten model could not be compared, "" where it was or where the
            original itself does not run.
    """

    difference: float | None = None
    failure: str = ""


class _Comparison:
    """Compares rewritten models with the original one on the same images.

    Where another input size is asked for, the original is run at that size too, without the
    constants that fix the old one: cut at its last convolutions, a YOLOX is fully convolutional.
    """

    def __init__(self, original: onnx.ModelProto, options: SurgeryOptions) -> None:
        self.reason = ""
        self._reference: Predictions | None = None
        try:
            spec = read_spec(original, input_size=_open_size(original, options))
            height, width = options.input_size or (spec.input_height, spec.input_width)
            batch = options.batch or spec.batch or 1
            if options.open_batch:
                batch += 1  # images in a batch beside the same images in the old one
            self.images = sample_images(batch, height, width)
            reference = original
            if (height, width) != (spec.input_height, spec.input_width):
                reference = _without_size(original)
                spec = read_spec(reference, input_size=(height, width))
            self._reference = predict(reference, self.images, spec=spec)
        except ModelError as error:
            self.reason = str(error)

    def measure(self, model: onnx.ModelProto) -> _Measurement:
        """Compare a rewritten model with the original."""
        if self._reference is None:
            return _Measurement()
        size = (self.images.shape[2], self.images.shape[3])
        try:
            spec = read_spec(model, input_size=size)
            found = predict(model, self.images, spec=spec)
            return _Measurement(relative_difference(self._reference, found))
        except ModelError as error:
            return _Measurement(failure=str(error))


def _open_size(model: onnx.ModelProto, options: SurgeryOptions) -> tuple[int, int] | None:
    """Return the size asked for where the graph leaves its own open."""
    shape = ModelGraph(model).image.shape or []
    if len(shape) == 4 and all(isinstance(d, int) for d in shape[2:]):
        return None
    return options.input_size


def _without_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model cut at its last convolutions, with open height and width."""
    plain = ConstantFolding().run(model).model
    cut = HeadCut().run(UpsampleToScales().run(plain).model).model
    copy = type(cut)()
    copy.CopyFrom(cut)
    del copy.graph.value_info[:]
    for value in [*copy.graph.input, *copy.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            for i, name in ((0, "batch"), (2, f"{value.name}_h"), (3, f"{value.name}_w")):
                dims[i].Clear()
                dims[i].dim_param = name
    return copy
