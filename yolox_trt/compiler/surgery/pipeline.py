# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline: passes in their order, each checked against the original model."""

from __future__ import annotations

import dataclasses
import functools
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
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.float16 import computes_in_float16
from yolox_trt.graph.graph import Graph
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
    model: str | Path | onnx.ModelProto | Graph,
    options: SurgeryOptions | None = None,
    *,
    verify: bool = True,
    progress: Progress | None = None,
) -> OptimizeResult:
    """Rewrite a model for a target, checking every change against the original.

    Args:
        model: path, loaded model or graph (not changed).
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
    graph = open_model(model)
    if graph is model:
        graph = graph.copy()
    _note_metadata(graph, options)
    original = graph.copy()
    graph.upgrade()
    graph.infer_shapes()
    graph.check(rewritten=False)
    if graph.opset == original.opset:
        original = graph.copy()  # whose shapes are known
    batch = (original.image.shape or [None])[0]
    passes = build_passes(options, open_batch=not isinstance(batch, int))
    comparison = _Comparison(original, options) if verify else None
    tolerance = TOLERANCE_FP16 if computes_in_float16(original) else TOLERANCE
    steps = len(passes) + 1
    records: list[PassRecord] = []
    difference: float | None = None  # of the model as the last change left it
    failure = ""  # why that could not be compared
    measured = False
    lost = ""  # the first of the passes since which it cannot be measured
    for step, rewrite in enumerate(passes):
        if progress is not None:
            progress(rewrite.name, step, steps)
        log = rewrite.run(graph)
        own: float | None = None
        if log.changes and comparison is not None:
            (difference, failure), measured = comparison.measure(graph), True
            own = difference
            if own is not None and own > tolerance:
                raise ModelError(
                    f"pass {rewrite.name} changed the predictions by {own:.2g} (relative)",
                    expected=f"at most {tolerance:g}",
                    fix=f"leave it out (`--skip {rewrite.name}`) and report it with the model",
                )
            # A later pass may mend it: a constant of the old size goes with the head.
            lost = (lost or rewrite.name) if failure else ""
        if log.changes or log.notes:
            record = PassRecord(rewrite.name, tuple(log.changes), tuple(log.notes), own)
            records.append(record)
    if any(record.changes for record in records):
        _note_activation(graph)
    if progress is not None:
        progress("report", steps - 1, steps)
    if comparison is not None and not measured:
        difference, failure = comparison.measure(graph)
    if failure:
        blamed = f" since pass {lost}" if lost else ""
        way_out = f"leave that pass out (`--skip {lost}`)" if lost else "export the model again"
        raise ModelError(
            f"the rewritten model does not run{blamed} ({failure})",
            expected="the predictions of the original, which runs",
            fix=f"{way_out} and report it with the model; `--no-verify` writes the file unchecked",
        )
    graph.check()
    figures = functools.partial(
        GraphFigures.of, tensorrt=options.tensorrt, precision=options.precision, soc=options.soc
    )
    # The original is counted at the size of the result, or the figures could not be compared; an
    # opened batch counts as the one that it was, likewise.
    operators = dict(Counter(node.op for node in original.nodes).most_common())
    original.upgrade()
    if isinstance(passes[0], FixedShape):
        passes[0].run(original)
    counted = graph.copy()
    if options.open_batch and isinstance(batch, int):
        FixedShape(batch).run(counted)
        ConstantFolding().run(counted)
    reason = "switched off" if comparison is None else comparison.reason
    report = SurgeryReport(
        before=dataclasses.replace(figures(original), operators=operators),
        after=figures(counted),
        passes=tuple(records),
        difference=difference,
        not_measured=reason,
    )
    return OptimizeResult(graph.to_model(), report)


def _note_metadata(graph: Graph, options: SurgeryOptions) -> None:
    """Write the preprocessing and class names that the user gave into the metadata."""
    if options.preprocessing is not None:
        graph.metadata[model_spec.METADATA_PREPROCESSING] = options.preprocessing.to_json()
    if options.class_names is not None:
        graph.metadata[model_spec.METADATA_CLASS_NAMES] = json.dumps(list(options.class_names))


def _note_activation(graph: Graph) -> None:
    """Write the activation behind the convolutions into the metadata, where there is but one."""
    kinds = {activation_behind(conv) for conv in graph.find("Conv")} - {""}
    if len(kinds) == 1:
        graph.metadata.setdefault(model_spec.METADATA_ACTIVATION, json.dumps(kinds.pop()))


class _Comparison:
    """Compares rewritten models with the original one on the same images.

    Where another input size is asked for, the original is run at that size too, without the
    constants that fix the old one: cut at its last convolutions, a YOLOX is fully convolutional.
    """

    def __init__(self, original: Graph, options: SurgeryOptions) -> None:
        self.reason = ""
        self._reference: Predictions | None = None
        try:
            fixed = all(isinstance(d, int) for d in (original.image.shape or ())[2:])
            spec = read_spec(original, input_size=None if fixed else options.input_size)
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

    def measure(self, graph: Graph) -> tuple[float | None, str]:
        """Compare a rewritten model with the original.

        Returns:
            The relative difference, None where it cannot be measured; why the rewritten model
            cannot be compared, "" where it can or where the original itself does not run.
        """
        if self._reference is None:
            return None, ""
        size = (self.images.shape[2], self.images.shape[3])
        try:
            spec = read_spec(graph, input_size=size)
            found = predict(graph, self.images, spec=spec)
            return relative_difference(self._reference, found), ""
        except ModelError as error:
            return None, str(error)


def _without_size(graph: Graph) -> Graph:
    """Return the graph cut at its last convolutions, with open height and width."""
    cut = graph.copy()
    for rewrite in (ConstantFolding(), UpsampleToScales(), HeadCut()):
        rewrite.run(cut)
    for value in (cut.image, *cut.outputs):
        if value.shape is not None and len(value.shape) == 4:
            channels = value.shape[1]
            value.shape = ("batch", channels, f"{value.name}_h", f"{value.name}_w")
    cut.forget_shapes()
    return cut
