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

from yolox_trt.compiler.surgery.abs_to_sqrt import AbsToSqrt
from yolox_trt.compiler.surgery.activation_patterns import ActivationPatterns, activation_behind
from yolox_trt.compiler.surgery.batch_norm_fusion import BatchNormFusion
from yolox_trt.compiler.surgery.channels_first import ChannelsFirst
from yolox_trt.compiler.surgery.constant_folding import ConstantFolding
from yolox_trt.compiler.surgery.conv_splitting import ConvSplitting
from yolox_trt.compiler.surgery.division_to_product import DivisionToProduct
from yolox_trt.compiler.surgery.duplicate_merging import DuplicateMerging
from yolox_trt.compiler.surgery.efficient_nms import EfficientNmsAttachment
from yolox_trt.compiler.surgery.fixed_shape import FixedShape
from yolox_trt.compiler.surgery.focus_to_conv import FocusToConv
from yolox_trt.compiler.surgery.head_cut import HeadCut
from yolox_trt.compiler.surgery.input_folding import InputFolding
from yolox_trt.compiler.surgery.no_op_removal import NoOpRemoval
from yolox_trt.compiler.surgery.open_batch import OpenBatch
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.compiler.surgery.pool_by_blocks import PoolByBlocks
from yolox_trt.compiler.surgery.pool_to_chain import PoolToChain
from yolox_trt.compiler.surgery.power_to_product import PowerToProduct
from yolox_trt.compiler.surgery.report import GraphFigures, SurgeryReport
from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.compiler.surgery.transpose_cancelling import TransposeCancelling
from yolox_trt.compiler.surgery.uint8_input import Uint8Input
from yolox_trt.compiler.surgery.upsample_to_scales import UpsampleToScales
from yolox_trt.core import model_spec
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.option import Option, options_of
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.damaged import refuses_damaged
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import read_image_input, take_image_alone, why_no_yolox
from yolox_trt.graph.input_size import note_wish, tool_size
from yolox_trt.graph.onnx_session import check_memory
from yolox_trt.graph.output_values import exact_values, output_values, worst_difference
from yolox_trt.graph.predictions import (
    Predictions,
    predict,
    relative_difference,
    sample_images,
    tolerance_of,
)
from yolox_trt.graph.spec import read_spec
from yolox_trt.graph.values import Array

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str, int, int], None]

#: What a network gives on the images of a comparison: a YOLOX's predictions, another's outputs.
_Results = Predictions | list[Array]

#: Every pass by its name, in the pipeline's order.
PASSES: dict[str, type[SurgeryPass]] = {
    p.name: p
    for p in (
        ChannelsFirst,
        FixedShape,
        OpenBatch,
        ConstantFolding,
        NoOpRemoval,
        TransposeCancelling,
        BatchNormFusion,
        DivisionToProduct,
        PowerToProduct,
        ActivationPatterns,
        UpsampleToScales,
        HeadCut,
        FocusToConv,
        InputFolding,
        PoolToChain,
        PoolByBlocks,
        AbsToSqrt,
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
    if unknown := options.skip - PASSES.keys():
        fix = ("correct ", options_of(SurgeryOptions)["skip"])
        raise ConfigurationError.unknown("pass", min(unknown), PASSES, fix=fix)
    passes = [make(options) for name, make in PASSES.items() if name not in options.skip]
    return [rewrite for rewrite in passes if rewrite.is_wanted]


@refuses_damaged
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
    take_image_alone(graph)
    size = tool_size(graph, options.input_size)
    options = dataclasses.replace(options, input_size=size)
    note_wish(graph, size)
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
        if log.changes and isinstance(rewrite, EfficientNmsAttachment):
            log.difference = comparison.measure_new_outputs(graph, rewrite.name)
        elif log.changes:
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
    for rewrite in passes:
        if isinstance(rewrite, ChannelsFirst | FixedShape):
            rewrite.run(original)
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

    A YOLOX is compared by its predictions, whatever the form of its head; any other network by its
    outputs. Where another input size is asked for, the original is run at that size too. A YOLOX is
    then taken without the constants that fix the old one: cut at its last convolutions, it is fully
    convolutional. Any other network is compared from the pass fix-shape on.
    """

    def __init__(self, original: Graph, options: SurgeryOptions, *, verify: bool) -> None:
        #: Why nothing is compared, "" where it is.
        self.reason = "" if verify else "switched off"
        #: Of the graph as the last change left it.
        self.difference: float | None = None
        self._reference: _Results | None = None
        self._measured = False
        self._failure = ""  # why the rewritten graph cannot be compared
        self._lost = ""  # the first of the passes since which that is so
        if not verify:
            return
        self._tolerance = tolerance_of(original)
        try:
            self._prepare(original, options)
        except ModelError as error:
            self.reason = str(error)

    def _prepare(self, original: Graph, options: SurgeryOptions) -> None:
        size = options.fixed_size
        image = read_image_input(original, input_size=None if _is_fixed(original) else size)
        height, width = size or (image.input_height, image.input_width)
        batch = options.batch or image.batch or 1
        if options.open_batch:
            batch += 1  # images in a batch beside the same images in the old one
        check_memory(original, batch)
        self._images = sample_images(batch, height, width)
        is_other_size = (height, width) != (image.input_height, image.input_width)
        self._is_yolox = not why_no_yolox(original, (image.input_height, image.input_width))
        self._at_new_size = is_other_size and not self._is_yolox
        if self._is_yolox:
            self._reference = self._run(_without_size(original) if is_other_size else original)
        elif not is_other_size:
            self._original = original
            self._reference = self._run(original)

    def _run(self, graph: Graph) -> _Results:
        size = (self._images.shape[2], self._images.shape[3])
        if self._is_yolox:
            return predict(graph, self._images, spec=read_spec(graph, input_size=size))
        return output_values(graph, read_image_input(graph, input_size=size), self._images)

    def measure(self, graph: Graph, rewrite: str = "") -> float | None:
        """Compare a graph with the original after a pass.

        Returns:
            The relative difference; None where it cannot be measured, which a later pass may mend:
            a constant of the old size goes with the head.

        Raises:
            ModelError: it is over the tolerance.
        """
        if self.reason:
            return None
        self._measured, self._failure, self.difference = True, "", None
        try:
            found = self._run(graph)
            if self._reference is None:  # the network at its new size, which the others must keep
                self._reference, self._original = found, graph.copy()
                return None
            self.difference = self._difference(graph, found)
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

    def measure_new_outputs(self, graph: Graph, rewrite: str) -> float | None:
        """Compare a graph after a pass that gives it other outputs on purpose.

        A YOLOX has the same predictions. Of other networks nothing is left to compare: what comes
        after is compared with these outputs.
        """
        if self.reason or self._is_yolox:
            return self.measure(graph, rewrite)
        self._reference, self._original = self._run(graph), graph.copy()
        return None

    def _difference(self, graph: Graph, found: _Results) -> float:
        """Return how far results are from the original's; see graph.output_values for outputs.

        Where float32 is not enough, both are compared with the original in float64: layers behind
        may make much of a difference in the last bit. What the rewritten network is off by more
        than the original itself is, counts.
        """
        if isinstance(self._reference, Predictions) and isinstance(found, Predictions):
            return relative_difference(self._reference, found)
        assert not isinstance(self._reference, Predictions | None)
        assert not isinstance(found, Predictions)
        difference = worst_difference(self._reference, found)
        if difference <= self._tolerance:
            return difference
        size = (self._images.shape[2], self._images.shape[3])
        exact = exact_values(
            self._original, read_image_input(self._original, input_size=size), self._images
        )
        if exact is None:
            return difference
        own, others = (worst_difference(exact, each) for each in (self._reference, found))
        return max(0.0, others - own)

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


def _is_fixed(graph: Graph) -> bool:
    """Whether height and width of the input are numbers."""
    shape = graph.image.shape or ()
    return all(isinstance(d, int) and d > 0 for d in shape[1:])


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
