# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BuildPlan: a model and BuildOptions, checked against the TensorRT that is installed."""

from __future__ import annotations

import dataclasses
import logging
from functools import cached_property
from pathlib import Path

import numpy as np

from yolox_trt.compiler.tensorrt.options import BATCH_OPTIONS, BuildOptions
from yolox_trt.compiler.tensorrt.request import BuildRequest
from yolox_trt.core.errors import (
    ConfigurationError,
    EngineError,
    Message,
    ModelError,
    parts_of,
)
from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.core.option import options_of
from yolox_trt.engines.engine_file import refuse_engine
from yolox_trt.engines.fingerprint import Fingerprint, external_files, file_sha256, model_sha256
from yolox_trt.engines.trt_api import TensorRTApi, load_api
from yolox_trt.engines.trt_features import FEATURES
from yolox_trt.graph import batch as batch_module
from yolox_trt.graph import float16, input_size, int8_io
from yolox_trt.graph.batch import check_open_batch, open_batch
from yolox_trt.graph.fixed_size import fix_size
from yolox_trt.graph.float16 import computes_in_float16, to_float16
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.input_size import has_other_size, tool_size, with_size
from yolox_trt.graph.single_input import single_input
from yolox_trt.graph.spec import read_spec

_log = logging.getLogger("yolox_trt.build")
_OF = options_of(BuildOptions)
_QUANTIZE = "yolox_trt quantize MODEL --images FOLDER -o OUT"

#: Option -> the feature (trt_features) that another value than the default needs: that of its
#: name, or another one. What `strongly_typed` needs, _choose_typing knows.
_NEEDS = {name: name for name in _OF if name in FEATURES and name != "strongly_typed"} | {
    "dla_sram_kib": "dla_pools",
    "dla_local_dram_mib": "dla_pools",
    "dla_global_dram_mib": "dla_pools",
    "calibration_cache": "int8_calibration",
    "default_dynamic_range": "dynamic_ranges",
    "keep_first_layer_fp16": "layer_precisions",
    "keep_last_layer_fp16": "layer_precisions",
    "workspace_mib": "workspace",
}
_NUMPY_TYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
#: Versions that the DLA linter has rules for.
_LINTER_VERSIONS = ((8, 5), (8, 6), (8, 6, 12), (10, 3), (11, 4, 1))
#: Format of the DLA -> types that it takes.
_DLA_FORMATS = {
    "chw16": ("fp16",),
    "chw32": ("int8",),
    "dla_linear": ("fp16", "int8"),
    "dla_hwc4": ("fp16", "int8"),
}
#: Compute capability of the Jetsons with DLA.
_SOCS = {"7.2": "xavier", "8.7": "orin"}


class BuildPlan:
    """What will be built; making one runs every check that needs no builder.

    Args:
        model: ONNX file.
        options: what to build; the attribute of this name has the precision that was chosen.
        api: TensorRT; None for options.flavour.
        fit_batch: take the model's own batch, and log it, where it cannot have max_batch: it
            cannot be opened, or the device is a DLA. Else that is an error.

    Attributes:
        input_type, output_type: of the image input and the outputs; None for the graph's own.
        io_scales: real value of one step of those that a strongly typed network has in INT8.
        input_format, output_format: of these, each one of IO_FORMATS.

    Raises:
        ModelError: the file is no YOLOX, or its size or batch do not fit the options.
        EngineError: this TensorRT cannot do what the options ask; the text has the way round.
        ConfigurationError: options that this model contradicts.
        MissingDependencyError: TensorRT is not installed.
    """

    def __init__(
        self,
        model: Path | str,
        options: BuildOptions,
        *,
        api: TensorRTApi | None = None,
        fit_batch: bool = False,
    ) -> None:
        self.model_path = Path(model)
        self.options = options
        self.api = api or load_api(options.flavour)
        self._fit_batch = fit_batch
        refuse_engine(self.model_path)
        # Hashed before they are read, and compared by check_files: a file that is replaced
        # meanwhile must not become an engine under the name of the other.
        self.request = BuildRequest(self.model_path, options, self.api, fit_batch=fit_batch)
        self.external_files = external_files(self.model_path)
        self._onnx_sha256 = self._hash_model(self.request.file_sha256)
        self.graph = Graph.load(self.model_path)
        size = tool_size(self.graph, options.input_size)
        self._resized = size is not None and has_other_size(self.graph, size)
        if size is not None and self._resized:
            self.graph = with_size(self.graph, size)
        self.graph_spec: ModelSpec = read_spec(
            self.graph,
            input_size=size,
            model_type=options.model_type,
            box_format=options.box_format,
        )
        #: The graph with its own batch and what it takes, where another batch is asked for.
        self._unopened: tuple[Graph, ModelSpec] | None = None
        self._rewritten = bool(single_input(self.graph, self.graph_spec)) or self._resized
        if options.on_dla:
            self._close_input()
        else:
            self._open_batch()
        options = self.options
        self.has_qdq = bool(self.graph.find("QuantizeLinear", "DequantizeLinear"))
        if options.precision is None:
            int8 = self.has_qdq or options.has_scales
            self.options = dataclasses.replace(options, precision="int8" if int8 else "fp16")
        self.has_int8_weights = any(
            node.inputs[0].is_constant and node.inputs[0].dtype == np.int8
            for node in self.graph.find("DequantizeLinear")
        )
        self.has_fp16 = computes_in_float16(self.graph)
        self.strongly_typed = self._choose_typing()
        self._choose_io()
        self.batch = self._choose_batch()
        self._check_version()
        self.io_scales: dict[str, float] = {}
        if self.strongly_typed:
            self.io_scales = int8_io.int8_scales(self.graph, **self._int8_io)
        self._check_int8()
        self._check_plugins()
        self._check_dla()

    # ---- what comes out

    @property
    def precision(self) -> str:
        """Precision of the engine, which options.precision holds too."""
        return str(self.options.precision)

    @property
    def spec(self) -> ModelSpec:
        """What the built engine takes and gives."""
        smallest, _, largest = self.batch
        return dataclasses.replace(
            self.graph_spec,
            batch=largest if smallest == largest else None,
            input_dtype=_NUMPY_TYPES[self.input_type]
            if self.input_type
            else self.graph_spec.input_dtype,
        )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Everything that decides about the engine."""
        options = self.options
        return Fingerprint(
            onnx_sha256=self._onnx_sha256,
            precision=self.precision,
            calibration_sha256=self.request.calibration_sha256,
            device=self.request.device,
            batch=self.batch,
            height=self.graph_spec.input_height,
            width=self.graph_spec.input_width,
            tensorrt_version=self.api.fingerprint_version,
            flavour=self.api.flavour,
            compute_capability=self.request.compute_capability,
            options=options.fingerprint_options()
            | {"strongly_typed": self.strongly_typed, "rewriting": self._rewriting},
        )

    def serialized_model(self) -> bytes | None:
        """Return the graph to parse, or None where it is the file as it is.

        A graph whose batch was opened is compared with the file first, in ONNX Runtime.

        Raises:
            ModelError: FP16 was asked for and the graph cannot be converted, or the opened graph
                gives other predictions than the file.
        """
        if self._unopened is not None:
            check_open_batch(self._unopened[0], self.graph, self._unopened[1])
        graph = self.graph
        if self.io_scales:
            graph = graph.copy()
            int8_io.to_int8_io(graph, **self._int8_io)
        if self._converts:
            graph = graph.copy()
            to_float16(
                graph,
                float16_input=self.input_type == "fp16",
                float16_outputs=self.output_type == "fp16",
            )
        elif not self._rewritten and not self.io_scales:
            return None
        return bytes(graph.to_model().SerializeToString())

    def check_files(self) -> None:
        """Check that the files are those of the fingerprint still, after TensorRT has read them.

        Raises:
            EngineError: one was replaced or removed since the plan was made.
        """
        source = self.request.calibration_source
        changed = self.model_path if self._hash_model() != self._onnx_sha256 else None
        if source is not None and file_sha256(source) != self.request.calibration_sha256:
            changed = source
        if changed is not None:
            raise EngineError(
                f"{changed} was replaced while an engine was being built from it",
                expected="one file from the beginning of the build to its end",
                fix="build again, now that the file is written",
            )

    # ---- choices

    def _hash_model(self, own: str = "") -> str:
        return model_sha256(self.model_path, self.external_files, own=own)

    @property
    def _converts(self) -> bool:
        """Whether the graph is rewritten in FP16, there being no flag for it."""
        return self.strongly_typed and not self.has_fp16 and self.options.precision != "fp32"

    @property
    def _rewriting(self) -> dict[str, int]:
        """What is done to the file's graph, and how: another way gives another engine."""
        done = {}
        if self._unopened is not None:
            done["open_batch"] = batch_module.REVISION
        if self._resized:
            done["input_size"] = input_size.REVISION
        if self._converts:
            done["half"] = float16.REVISION
        if self.io_scales:
            done["int8_io"] = int8_io.REVISION
        return done

    def _choose_io(self) -> None:
        """Take types and formats as asked for; what a DLA takes itself where nothing converts."""
        options = self.options
        native = options.on_dla and not options.allow_gpu_fallback
        int8_input = self.precision == "int8"
        if self.strongly_typed:
            int8_input = native and int8_io.input_step(self.graph.image) is not None
        form = "dla_linear" if native else "linear"
        own_input = ("int8" if int8_input else "fp16") if native else None
        self.input_type = options.input_type or own_input
        self.output_type = options.output_type or ("fp16" if native else None)
        self.input_format = options.input_format or form
        self.output_format = options.output_format or form

    @property
    def _int8_io(self) -> dict[str, bool]:
        """What a strongly typed network has in INT8."""
        return {"inputs": self.input_type == "int8", "outputs": self.output_type == "int8"}

    def _choose_typing(self) -> bool:
        if not self.api.has("precision_flags"):
            return True
        if self.options.strongly_typed:
            self.api.require("strongly_typed", option="strongly_typed")
            if self.options.on_dla:
                raise ConfigurationError(
                    f"strongly_typed for device {self.options.device}",
                    expected="builder flags: the DLA of this TensorRT takes no typed networks",
                    fix=("drop ", _OF["strongly_typed"]),
                )
            return True
        return False

    @property
    def _wanted_batches(self) -> list[int]:
        options = self.options
        return [b for b in (options.min_batch, options.opt_batch, options.max_batch) if b]

    def _open_batch(self) -> None:
        """Open the graph's batch where another one is asked for."""
        fixed = self.graph_spec.batch
        if fixed is None or set(self._wanted_batches) <= {fixed}:
            return
        opened = self.graph.copy()
        try:
            open_batch(opened)
        except ModelError as error:
            if not self._fit_batch:
                raise
            warn_of_batch(self.model_path, fixed, self.options, str(error))
            self._take_batch(fixed)
            return
        self._unopened = self.graph, self.graph_spec
        self.graph, self._rewritten = opened, True
        self.graph_spec = dataclasses.replace(self.graph_spec, batch=None)

    def _take_batch(self, batch: int) -> None:
        self.options = dataclasses.replace(
            self.options, min_batch=None, opt_batch=None, max_batch=batch
        )

    def _close_input(self) -> None:
        """Write batch and size into an open graph's input: a DLA takes static ones.

        Not by a profile: the parser then works out shape arithmetic, which no DLA runs.
        """
        spec, wanted = self.graph_spec, self.options.max_batch or 1
        if self._fit_batch and wanted > 1 and wanted != spec.batch:
            warn_of_batch(self.model_path, spec.batch or 1, self.options)
            self._take_batch(spec.batch or 1)
        batch = spec.batch or max(self._wanted_batches, default=1)
        if fix_size(self.graph, batch, spec.input_height, spec.input_width):
            self._rewritten = True
            self.graph_spec = dataclasses.replace(spec, batch=batch)

    def _choose_batch(self) -> tuple[int, int, int]:
        options, fixed, wanted = self.options, self.graph_spec.batch, self._wanted_batches
        if fixed is not None:
            if any(b != fixed for b in wanted):
                raise ModelError(
                    f"{self.model_path.name} has batch {fixed} built in",
                    expected=f"batch {fixed} for device {options.device}, which takes static ones",
                    fix="yolox_trt optimize MODEL --batch N, or leave the batch as it is",
                )
            return fixed, fixed, fixed
        largest = options.max_batch or max(wanted, default=1)
        batch = (options.min_batch or 1, options.opt_batch or largest, largest)
        if list(batch) != sorted(batch):
            raise ConfigurationError(
                f"batch profile min {batch[0]}, opt {batch[1]}, max {batch[2]}",
                expected="min <= opt <= max",
                fix=BATCH_OPTIONS,
            )
        return batch

    # ---- checks

    def _check_version(self) -> None:
        """Refuse every option that this TensorRT lacks."""
        options, api = self.options, self.api
        asked: list[tuple[str, Message]] = [
            (feature, _OF[name]) for name, feature in _NEEDS.items() if options.is_set(name)
        ]
        if options.on_dla:
            asked.append(("dla", f"device {options.device}"))
            if options.allow_gpu_fallback:
                asked.append(("gpu_fallback", _OF["allow_gpu_fallback"]))
        for wanted, feature in (
            (self.has_qdq, "qdq"),
            (self.has_qdq and options.on_dla, "dla_int8_qdq"),
            (self.has_int8_weights, "qdq_int8_weights"),
        ):
            if wanted:
                asked.append((feature, "Q/DQ nodes in the graph"))
        for feature, option in asked:
            api.require(feature, option=option)
        if self.strongly_typed:
            self._check_typed_io()
        for value in options.compute_capabilities:
            name = "SM" + value.replace(".", "")
            if not hasattr(api.module.ComputeCapability, name):
                raise ConfigurationError(
                    f"compute capability '{value}'",
                    expected="one that this TensorRT-RTX knows, such as 8.6, 8.9, 12.0",
                    fix=("set ", _OF["compute_capabilities"]),
                )

    def _check_typed_io(self) -> None:
        options = self.options
        for option, kind, form in (
            ("input", options.input_type, options.input_format),
            ("output", options.output_type, options.output_format),
        ):
            if form not in (None, "linear") and not options.on_dla:
                self._refuse_typed((_OF[f"{option}_format"], f" = {form}"), "drop it")
            if kind == "fp32" and not self.has_fp16:
                continue
            converted = options.precision != "fp32" and not self.has_fp16
            if kind == "fp16" and converted:
                continue
            if kind == "int8" and self.has_qdq:
                continue  # refused where no Q/DQ stands there
            if kind is not None:
                self._refuse_typed(
                    (_OF[f"{option}_type"], f" = {kind}"),
                    f"{_QUANTIZE}, then build OUT"
                    if kind == "int8"
                    else ("set the type in the ONNX, or ", _OF["precision"], " to fp16"),
                )
        constraints = ("layer_precisions", "keep_first_layer_fp16", "keep_last_layer_fp16")
        if options.has_scales or any(options.is_set(name) for name in constraints):
            self._refuse_typed(
                "INT8 scales or layer precisions by option",
                ("drop ", _OF["strongly_typed"], f", or {_QUANTIZE}"),
            )

    @staticmethod
    def _refuse_typed(found: Message, fix: Message) -> None:
        raise ConfigurationError(
            (*parts_of(found), " in a strongly typed network"),
            expected="types and precisions from the ONNX graph",
            fix=fix,
        )

    def _check_int8(self) -> None:
        options = self.options
        if self.has_fp16 and options.precision == "fp32":
            raise ConfigurationError(
                f"precision fp32 for {self.model_path.name}, a graph in FP16",
                expected="fp16",
                fix=("set ", _OF["precision"], " to fp16, or export the model in FP32"),
            )
        if self.has_qdq:
            if options.precision != "int8":
                raise ConfigurationError(
                    f"precision {options.precision} for {self.model_path.name}, a Q/DQ graph",
                    expected="int8",
                    fix=(
                        "set ",
                        _OF["precision"],
                        " to int8, or build from the graph without Q/DQ",
                    ),
                )
            if options.has_scales:
                raise ConfigurationError(
                    "INT8 scales for a graph that has Q/DQ nodes of its own",
                    expected="one source of scales",
                    fix="drop the calibration cache and the ranges, or build from the graph "
                    "without Q/DQ",
                )
            return
        if options.precision != "int8":
            return
        if self.strongly_typed:
            # Nothing but Q/DQ makes INT8 here; say so rather than build FP16 under that name.
            self.api.require("int8_calibration", option="precision int8 without Q/DQ nodes")
            self._refuse_typed(
                "precision int8 without Q/DQ nodes",
                f"{_QUANTIZE}, then build OUT",
            )
        if not options.has_scales:
            raise ConfigurationError(
                "precision int8 without scales",
                expected="a calibration cache, dynamic ranges, or a Q/DQ graph",
                fix=(
                    "yolox_trt calibrate MODEL --images FOLDER --cache FILE, then set ",
                    _OF["calibration_cache"],
                ),
            )
        if options.default_dynamic_range is not None and not (
            options.keep_last_layer_fp16 or options.dynamic_ranges
        ):
            raise ConfigurationError(
                (
                    _OF["default_dynamic_range"],
                    f" = {options.default_dynamic_range} without ranges for the heads, whose "
                    "values it would cut off",
                ),
                expected=(
                    _OF["keep_last_layer_fp16"],
                    ", or ",
                    _OF["dynamic_ranges"],
                    " that name the outputs",
                ),
                fix=("add ", _OF["keep_last_layer_fp16"]),
            )

    def _check_plugins(self) -> None:
        if self.graph_spec.head is not HeadLayout.EFFICIENT_NMS:
            return
        if not self.api.has_plugin("EfficientNMS_TRT"):
            raise EngineError(
                f"{self.model_path.name} ends in EfficientNMS_TRT, which {self.api} does not have",
                expected="a TensorRT with its plugin library",
                fix="remove it: yolox_trt optimize MODEL -o OUT (this package does NMS itself)",
            )

    def _check_dla(self) -> None:
        options = self.options
        if not options.on_dla:
            return
        self._check_dla_formats()
        if options.allow_gpu_fallback:
            return
        # Here, not at the top: the linter is needed for this case only.
        from yolox_trt.compiler.dla import check
        from yolox_trt.compiler.dla.options import DlaTarget

        older = [v for v in _LINTER_VERSIONS if v <= self.api.version]
        version = ".".join(str(n) for n in max(older, default=_LINTER_VERSIONS[0]))
        soc = _SOCS.get(self.request.compute_capability, "orin")
        report = check(self.graph, DlaTarget(tensorrt=version, precision=self.precision, soc=soc))
        if not report.passes:
            nodes = [f"{node.op} {node.name}" for node in report.fallback_nodes]
            shown = ", ".join(nodes[:5]) + (", ..." if len(nodes) > 5 else "")
            raise EngineError(
                f"allow_gpu_fallback is off, and the DLA of {soc} cannot run all of "
                f"{self.model_path.name}: {len(nodes)} nodes fall back ({shown or 'as a whole'})",
                expected="a model that runs on the DLA as a whole",
                fix="yolox_trt dla-check MODEL tells why; yolox_trt optimize MODEL --target dla "
                "mends it; or allow the fallback",
            )

    def _check_dla_formats(self) -> None:
        """Refuse types that a format of the DLA does not take (NvInfer.h, TensorFormat)."""
        own = {"float32": "fp32", "float16": "fp16"}.get(self.graph_spec.input_dtype)
        for name, kind, form in (
            ("input", self.input_type or own, self.input_format),
            ("output", self.output_type or (None if self.has_fp16 else "fp32"), self.output_format),
        ):
            allowed = _DLA_FORMATS.get(form)
            if allowed and kind is not None and kind not in allowed:
                raise ConfigurationError(
                    (
                        _OF[f"{name}_format"],
                        f" = {form} with {kind} for device {self.options.device}",
                    ),
                    expected=f"{' or '.join(allowed)} in this format",
                    fix=("set ", _OF[f"{name}_type"], f" to {allowed[0]}"),
                )


def warn_of_batch(model: Path, batch: int, options: BuildOptions, reason: str = "") -> None:
    """Log that an engine runs with another largest batch than was asked for."""
    if options.on_dla:
        _log.info("%s runs with batch %d: batches gain nothing on the DLA", options.device, batch)
    else:
        _log.warning(
            "%s runs with batch %d, not %d%s",
            model.name,
            batch,
            options.max_batch,
            f": {reason}" if reason else "",
        )
