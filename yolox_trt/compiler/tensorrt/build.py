# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Builds TensorRT engines from ONNX files."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolox_trt.compiler.int8.calibration_cache import read_cache
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.tensorrt.calibrators import make_calibrator
from yolox_trt.compiler.tensorrt.network_config import (
    computes,
    describe_io,
    input_range,
    inputs_of,
    layers_of,
    set_dynamic_ranges,
    set_int8_io_ranges,
    set_io,
    set_layer_precisions,
)
from yolox_trt.compiler.tensorrt.options import BATCH_OPTIONS, BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.compiler.tensorrt.progress import heartbeat, make_monitor
from yolox_trt.compiler.tensorrt.report import BuildReport, read_layers
from yolox_trt.core.errors import EngineError
from yolox_trt.core.faults import library_fault
from yolox_trt.core.files import write_atomically
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.engines.cudla.module import read_versions
from yolox_trt.engines.engine_file import BuiltEngine
from yolox_trt.engines.file_lock import wait_for_lock
from yolox_trt.engines.trt_api import ProgressCallback, messages_text, no_such_core
from yolox_trt.engines.trt_features import TENSORRT

_log = logging.getLogger("yolox_trt.build")

_OF = options_of(BuildOptions)


class EngineBuilder:
    """Carries out a BuildPlan.

    Args:
        plan: what to build.
        on_progress: on_progress(fraction 0..1, phase), called from the builder's threads. What
            it raises cancels the build and is raised again.
    """

    def __init__(self, plan: BuildPlan, on_progress: ProgressCallback | None = None) -> None:
        self._plan = plan
        self._api = plan.api
        self._trt = plan.api.module
        self._on_progress = on_progress
        self._pinned: dict[str, str] = {}
        self._defaulted: list[str] = []
        self._fallback: list[str] = []
        self._io_scales = plan.io_scales

    def build(self) -> BuiltEngine:
        """Build the engine.

        Raises:
            DeviceError: the GPU or the DLA core is not there.
            EngineError: TensorRT could not parse or build it.
        """
        with _current_device(self._plan):
            return self._build_here()

    def _build_here(self) -> BuiltEngine:
        plan, api = self._plan, self._api
        api.init_plugins()
        data = plan.serialized_model()
        with api.collect_messages() as messages:
            started = time.monotonic()
            builder = self._trt.Builder(api.logger)
            self._check_dla_core(builder)
            network, parser = self._parse(builder, data, messages)
            parsed = time.monotonic()
            engine = self._build(builder, network, messages)
            built = time.monotonic()
            report = BuildReport(
                model=plan.model_path.name,
                tensorrt=str(api),
                device=str(plan.options.device),
                precision=plan.precision,
                strongly_typed=plan.strongly_typed,
                batch=plan.batch,
                parse_seconds=round(parsed - started, 3),
                build_seconds=round(built - parsed, 3),
                engine_bytes=len(engine),
                network_layers=network.num_layers,
                pinned_layers=self._pinned,
                default_range_tensors=len(self._defaulted),
                gpu_fallback_layers=self._fallback,
                **read_layers(api, engine, messages, plan.options.device, plan.fingerprint.options),
            )
            details = {"report": dataclasses.asdict(report), "io_scales": self._io_scales}
            if plan.options.dla_standalone:
                # A TensorRT engine tells these itself.
                details["tensors"] = describe_io(plan, network)
                details["dla_versions"] = read_versions(plan.options.device.index)
            # The parser owns weights that the network points to.
            del network, parser, builder
        return BuiltEngine(engine, plan.spec, details)

    def layer_names(self) -> list[str]:
        """Parse the model and return its layers' names, for layer_precisions."""
        with self._api.collect_messages() as messages:
            builder = self._trt.Builder(self._api.logger)
            network, parser = self._parse(builder, self._plan.serialized_model(), messages)
            names = [str(layer.name) for layer in layers_of(network)]
            del network, parser, builder
            return names

    # ---- steps

    def _check_dla_core(self, builder: Any) -> None:
        options = self._plan.options
        if options.on_dla and options.device.index >= builder.num_DLA_cores:
            raise no_such_core(options.device, builder.num_DLA_cores)

    def _parse(
        self, builder: Any, data: bytes | None, messages: list[tuple[str, str]]
    ) -> tuple[Any, Any]:
        plan = self._plan
        network = builder.create_network(self._network_flags())
        parser = self._trt.OnnxParser(network, self._api.logger)
        done = parser.parse_from_file(str(plan.model_path)) if data is None else parser.parse(data)
        if not done:
            errors = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
            raise EngineError(
                f"{self._api} cannot parse {plan.model_path.name}: "
                + (" | ".join(errors[:3]) or messages_text(messages)),
                expected="operators that TensorRT's ONNX parser takes",
                fix="yolox_trt inspect MODEL names them; yolox_trt optimize MODEL mends most",
            )
        return network, parser

    def _network_flags(self) -> int:
        flags = self._trt.NetworkDefinitionCreationFlag
        if self._api.version < (9,) and self._api.flavour == "tensorrt":
            return 1 << int(flags.EXPLICIT_BATCH)
        if self._plan.strongly_typed and self._api.has("precision_flags"):
            return 1 << int(flags.STRONGLY_TYPED)
        return 0  # batch is explicit, and from 11.0 on every network strongly typed

    def _build(self, builder: Any, network: Any, messages: list[tuple[str, str]]) -> bytes:
        plan, options = self._plan, self._plan.options
        config = builder.create_builder_config()
        profile = self._set_profile(builder, network, config)
        self._set_flags(config)
        self._set_memory(config)
        self._set_device(network, config)
        # What TensorRT keeps no reference to must live until the build is over.
        keep: list[Any] = []
        set_io(plan, network)
        if not plan.strongly_typed:
            self._set_precision(network, config, profile, keep)
        config.profiling_verbosity = getattr(
            self._trt.ProfilingVerbosity, options.profiling_verbosity.upper()
        )
        plan.check_files()  # all of them are read by now, and the build takes long
        with self._timing_cache(config):
            serialized = self._run(builder, network, config)
        if serialized is None:
            raise library_fault(
                messages_text(messages),
                f"{self._api} could not build {plan.model_path.name} for {options.device} in "
                f"{options.precision}",
                fix=(
                    "see the log (yolox_trt build -v) for the layer; if memory ran out, lower ",
                    _OF["workspace_mib"],
                    " or the batch",
                ),
            )
        self._check_int8(keep, messages)
        return bytes(memoryview(serialized))

    def _run(self, builder: Any, network: Any, config: Any) -> Any:
        if self._api.has("progress_monitor") and self._on_progress is not None:
            monitor = make_monitor(self._trt, self._on_progress)
            config.progress_monitor = monitor
            serialized = builder.build_serialized_network(network, config)
            if monitor.failure is not None:
                raise monitor.failure
            self._on_progress(1.0, "built")
            return serialized
        with heartbeat(self._on_progress, self._plan.model_path.name):
            serialized = builder.build_serialized_network(network, config)
        if serialized is not None and self._on_progress is not None:
            self._on_progress(1.0, "built")
        return serialized

    def _set_profile(self, builder: Any, network: Any, config: Any) -> Any:
        """Add an optimisation profile if an input has an open dimension; return it, or None."""
        spec = self._plan.graph_spec
        inputs = inputs_of(network)
        if not any(-1 in tuple(tensor.shape) for tensor in inputs):
            return None
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            profile.set_shape(
                tensor.name,
                *((n, 3, spec.input_height, spec.input_width) for n in self._plan.batch),
            )
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(
                f"TensorRT refused the batch profile {self._plan.batch}",
                fix=BATCH_OPTIONS,
            )
        if self._api.flavour == TENSORRT and self._api.version < (10,):
            sharing = getattr(self._trt.PreviewFeature, "PROFILE_SHARING_0806", None)
            if sharing is not None:  # 8.6; on by itself since 10.0
                config.set_preview_feature(sharing, True)
        return profile

    def _set_flags(self, config: Any) -> None:
        options, flags = self._plan.options, self._trt.BuilderFlag
        if not options.tf32:
            config.clear_flag(flags.TF32)
        if options.sparsity:
            config.set_flag(flags.SPARSE_WEIGHTS)
        if options.version_compatible:
            config.set_flag(flags.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = self._trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.compute_capabilities:
            config.num_compute_capabilities = len(options.compute_capabilities)
            for index, value in enumerate(options.compute_capabilities):
                target = getattr(self._trt.ComputeCapability, "SM" + value.replace(".", ""))
                config.set_compute_capability(target, index)

    def _set_memory(self, config: Any) -> None:
        options = self._plan.options
        for pool, limit, unit in (
            ("WORKSPACE", options.workspace_mib, 1 << 20),
            ("DLA_MANAGED_SRAM", options.dla_sram_kib, 1 << 10),
            ("DLA_LOCAL_DRAM", options.dla_local_dram_mib, 1 << 20),
            ("DLA_GLOBAL_DRAM", options.dla_global_dram_mib, 1 << 20),
        ):
            if limit is not None:
                config.set_memory_pool_limit(getattr(self._trt.MemoryPoolType, pool), limit * unit)

    def _set_device(self, network: Any, config: Any) -> None:
        options = self._plan.options
        if not options.on_dla:
            return
        config.default_device_type = self._trt.DeviceType.DLA
        config.DLA_core = options.device.index
        if options.dla_standalone:
            config.engine_capability = self._trt.EngineCapability.DLA_STANDALONE
        if options.allow_gpu_fallback:
            config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)
        elif hasattr(self._trt.BuilderFlag, "DIRECT_IO"):
            # Reformatting inputs and outputs would be the GPU's work. Deprecated since 10.7.
            config.set_flag(self._trt.BuilderFlag.DIRECT_IO)
        # Precision first: can_run_on_DLA answers for the precisions that are set.
        flags = self._trt.BuilderFlag
        if not self._plan.strongly_typed:
            config.set_flag(flags.FP16)
            if options.precision == "int8":
                config.set_flag(flags.INT8)
        self._fallback = [
            str(layer.name)
            for layer in layers_of(network)
            if computes(self._trt, layer) and not config.can_run_on_DLA(layer)
        ]
        if self._fallback and not options.allow_gpu_fallback:
            shown = ", ".join(self._fallback[:5])
            raise EngineError(
                f"allow_gpu_fallback is off, and {self._api} says that {options.device} cannot run "
                f"{len(self._fallback)} layers ({shown})",
                expected="a model that runs on the DLA as a whole",
                fix="yolox_trt optimize MODEL --target dla, or allow the fallback",
            )
        if self._fallback:
            _log.warning(
                "%d layers fall back from %s to the GPU: %s",
                len(self._fallback),
                options.device,
                ", ".join(self._fallback[:10]),
            )

    def _set_precision(self, network: Any, config: Any, profile: Any, keep: list[Any]) -> None:
        """Set flags, scales and single layers of a network that is not strongly typed."""
        plan, options, flags = self._plan, self._plan.options, self._trt.BuilderFlag
        if options.precision in ("fp16", "int8"):
            config.set_flag(flags.FP16)
        if options.precision == "int8":
            config.set_flag(flags.INT8)
            input_name = plan.graph_spec.input_name
            if options.calibration_cache is not None:
                ranges = read_cache(options.calibration_cache)
                calibrator = make_calibrator(self._api, ranges, on_dla=options.on_dla)
                config.int8_calibrator = calibrator
                keep.append(calibrator)
                if profile is not None and not config.set_calibration_profile(profile):
                    raise EngineError(
                        f"{self._api} refused the batch profile {plan.batch} for calibration",
                        fix=("build with one batch: ", *BATCH_OPTIONS[1:]),
                    )
                self._io_scales = set_int8_io_ranges(plan, network, ranges)
            elif options.dynamic_ranges is not None or options.default_dynamic_range is not None:
                ranges = DynamicRanges()
                if options.dynamic_ranges is not None:
                    ranges = DynamicRanges.load_json(options.dynamic_ranges)
                self._defaulted = set_dynamic_ranges(plan, network, ranges)
                if options.default_dynamic_range is not None and input_name not in ranges:
                    ranges.set_amax(input_name, input_range(plan))
                self._io_scales = set_int8_io_ranges(plan, network, ranges)
        self._pinned = set_layer_precisions(plan, network)
        if self._pinned:
            config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)

    def _check_int8(self, keep: list[Any], messages: list[tuple[str, str]]) -> None:
        if any(calibrator.asked_for_images for calibrator in keep):
            raise EngineError(
                f"{self._api} did not accept the calibration cache "
                f"{self._plan.options.calibration_cache}: {messages_text(messages)}",
                expected="scales for the tensors of this model",
                fix="yolox_trt calibrate MODEL --images FOLDER --cache FILE on this model",
            )

    @contextlib.contextmanager
    def _timing_cache(self, config: Any) -> Iterator[None]:
        path = self._plan.options.timing_cache
        if path is None:
            yield
            return
        data = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(data)
        if cache is None or not config.set_timing_cache(cache, False):
            _log.warning("timing cache %s is of another GPU or TensorRT; starting anew", path)
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        yield
        self._write_timing_cache(config, path)

    @staticmethod
    def _write_timing_cache(config: Any, path: Path) -> None:
        cache = config.get_timing_cache()
        if cache is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(path.with_name(path.name + ".lock")):
            # Another build may have written since: keep its timings too, if they are of this GPU.
            if path.is_file():
                other = config.create_timing_cache(path.read_bytes())
                if other is not None:
                    cache.combine(other, False)
            write_atomically(path, bytes(memoryview(cache.serialize())))


@contextlib.contextmanager
def _current_device(plan: BuildPlan) -> Iterator[None]:
    """Let the plan's GPU be the current one while it builds; GPU 0 is so by itself."""
    index = plan.options.device.cuda_index
    if not index:
        yield
        return
    with require("cupy", purpose=f"building on gpu:{index}").cuda.Device(index):
        yield
