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
from yolox_trt.compiler.surgery.report import GraphFigures, SurgeryReport
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.compiler.surgery.uint8_input import Uint8Input
from yolox_trt.compiler.surgery.upsample_to_scales import UpsampleToScales
from yolox_trt.core import model_spec
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.option import Option, options_of
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.predictions import (
    Predictions,
    predict,
    relative_difference,
    sample_images,
    tolerance_of,
)
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx

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


def build_passes(options: SurgeryOptions) -> list[SurgeryPass]:
    """Return the passes that the options ask for, in their order.

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
    passes = [make(options) for name, make in PASSES.items() if name not in options.skip]
    return [rewrite for rewrite in passes if rewrite.is_wanted]


def optimize(
    model: str | Path | onnx.ModelProto | Graph,
    options: SurgeryOptions | None = None,
    *,
    verify: bool = True,
    progress: Progress = lambda name, step, steps: None,
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
            tolerance_of() allows, or the result does not run although the original does.
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
    passes = build_passes(options)
    comparison = _Comparison(original, options, verify=verify)
    logs: list[PassLog] = []
    for step, rewrite in enumerate(passes):
        progress(rewrite.name, step, len(passes) + 1)
        log = rewrite.run(graph)
        if log.changes:
            log.difference = comparison.measure(graph, rewrite.name)
        if log.changes or log.notes:
            logs.append(log)
    if any(log.changes for log in logs):
        _note_activation(graph)
    progress("report", len(passes), len(passes) + 1)
    comparison.finish(graph)
    graph.check()
    # The original is counted at the size of the result, or the figures could not be compared; an
    # opened batch counts as the one that it was, likewise.
    operators = dict(Counter(node.op for node in original.nodes).most_common())
    original.upgrade()
    if isinstance(passes[0], FixedShape):
        passes[0].run(original)
    counted = graph.copy()
    if options.open_batch and isinstance(batch, int):
        fix_size(counted, batch)
        ConstantFolding().run(counted)
    report = SurgeryReport(
        before=dataclasses.replace(GraphFigures.of(original, options), operators=operators),
        after=GraphFigures.of(counted, options),
        passes=tuple(logs),
        difference=comparison.difference,
        not_measured=comparison.reason,
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

    def __init__(self, original: Graph, options: SurgeryOptions, *, verify: bool) -> None:
        #: Why nothing is compared, "" where it is.
        self.reason = "" if verify else "switched off"
        #: Of the graph as the last change left it.
        self.difference: float | None = None
        self._reference: Predictions | None = None
        self._measured = False
        self._failure = ""  # why the rewritten graph cannot be compared
        self._lost = ""  # the first of the passes since which that is so
        if not verify:
            return
        self._tolerance = tolerance_of(original)
        try:
            fixed = all(isinstance(d, int) for d in (original.image.shape or ())[2:])
            spec = read_spec(original, input_size=None if fixed else options.input_size)
            height, width = options.input_size or (spec.input_height, spec.input_width)
            batch = options.batch or spec.batch or 1
            if options.open_batch:
                batch += 1  # images in a batch beside the same images in the old one
            self._images = sample_images(batch, height, width)
            reference = original
            if (height, width) != (spec.input_height, spec.input_width):
                reference = _without_size(original)
                spec = read_spec(reference, input_size=(height, width))
            self._reference = predict(reference, self._images, spec=spec)
        except ModelError as error:
            self.reason = str(error)

    def measure(self, graph: Graph, rewrite: str = "") -> float | None:
        """Compare a graph with the original after a pass.

        Returns:
            The relative difference; None where it cannot be measured, which a later pass may mend:
            a constant of the old size goes with the head.

        Raises:
            ModelError: it is over the tolerance.
        """
        if self._reference is None:
            return None
        self._measured, self._failure, self.difference = True, "", None
        try:
            spec = read_spec(graph, input_size=(self._images.shape[2], self._images.shape[3]))
            found = predict(graph, self._images, spec=spec)
            self.difference = relative_difference(self._reference, found)
        except ModelError as error:
            self._failure = str(error)
        self._lost = (self._lost or rewrite) if self._failure else ""
        if self.difference is not None and rewrite and self.difference > self._tolerance:
            raise ModelError(
                f"pass {rewrite} changed the predictions by {self.difference:.2g} (relative)",
                expected=f"at most {self._tolerance:g}",
                fix=(*_leave_out(rewrite), " and report it with the model"),
            )
        return self.difference

    def finish(self, graph: Graph) -> None:
        """Compare the result if that was not done.

        Raises:
            ModelError: it does not run although the original does.
        """
        if not self._measured:
            self.measure(graph)
        if self._failure:
            lost = self._lost
            blamed = f" since pass {lost}" if lost else ""
            way_out = _leave_out(lost) if lost else ("export the model again",)
            raise ModelError(
                f"the rewritten model does not run{blamed} ({self._failure})",
                expected="the predictions of the original, which runs",
                fix=(*way_out, " and report it with the model; or run without this check"),
            )


def _leave_out(rewrite: str) -> tuple[str | Option, ...]:
    """Say how a pass is left out."""
    return "set ", options_of(SurgeryOptions)["skip"], f" to {rewrite}"


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
