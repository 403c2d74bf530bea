# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What each TensorRT version can do: one table, for the adapter, the errors and docs/tensorrt.md.

A feature is usable when the version lies in its span AND the module has the names that it needs.
The span is from NVIDIA's release notes and support matrices, the names from the Python bindings of
each version; a test holds the two against each other for 8.5, 8.6, 10.3, 10.13, 11.4 and RTX 1.7.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, ...]

#: Flavours: the module that a TensorRT comes as.
TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt_rtx"


@dataclass(frozen=True)
class Feature:
    """Something that some TensorRT versions can do.

    Attributes:
        title: what it is, as a noun phrase.
        spans: [first, first without) version spans of TensorRT; None is open.
        rtx: whether TensorRT-RTX has it.
        names: `Class.attribute` names of the Python API that it needs, between spaces.
        reason: why a version is without it.
        instead: the way round, as a command or an option.
    """

    title: str
    spans: tuple[tuple[Version | None, Version | None], ...] = ((None, None),)
    rtx: bool = True
    names: str = ""
    reason: str = ""
    instead: str = ""

    def covers(self, version: Version, flavour: str) -> bool:
        """Tell whether a version is in the table as having the feature."""
        if flavour == TENSORRT_RTX:
            return self.rtx
        return any(
            (first is None or version >= first) and (end is None or version < end)
            for first, end in self.spans
        )


_BEFORE_11 = ((None, (11,)),)
# "TensorRT 10.7 was the last 10.x that supported DLA"; 11.4.1 brought it back for AGX Orin on
# JetPack 7.2.2 (release notes).
_DLA = ((None, (10, 8)), ((11, 4, 1), None))
_DLA_REASON = "DLA is in TensorRT 8.x, 10.0 to 10.7 (JetPack 5 and 6) and, from 11.4.1, JetPack 7"
_DLA_INSTEAD = "build on the Jetson with JetPack's own TensorRT, or use --device gpu"
_Q_DQ = "quantise to a Q/DQ ONNX first: yolox_trt quantize MODEL --images FOLDER -o OUT, build OUT"

FEATURES: dict[str, Feature] = {
    "fp32": Feature("FP32", names="Builder.build_serialized_network"),
    "precision_flags": Feature(
        "FP16 and INT8 as builder flags (the builder chooses each layer's precision)",
        spans=_BEFORE_11,
        rtx=False,
        names="BuilderFlag.FP16 BuilderFlag.INT8",
        reason="networks are always strongly typed: precisions come from the ONNX graph",
        instead="leave `strongly_typed` unset: --precision fp16 then rewrites the graph in FP16; "
        "for INT8 " + _Q_DQ,
    ),
    "strongly_typed": Feature(
        "strongly typed networks (precisions come from the ONNX graph)",
        spans=(((10,), None),),
        names="NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        reason="TensorRT 8 has builder flags only",
        instead="drop `strongly_typed`; --precision fp16 sets the builder flag",
    ),
    "qdq": Feature(
        "INT8 from Q/DQ nodes in the graph",
        names="INetworkDefinition.add_quantize INetworkDefinition.add_dequantize",
    ),
    "qdq_int8_weights": Feature(
        "INT8 constants before DequantizeLinear (weights stored in INT8)",
        spans=(((10,), None),),
        names="INetworkDefinition.add_dequantize",
        reason="TensorRT 8 quantises weights itself, from FP32 constants with Q/DQ",
        instead="yolox_trt quantize MODEL --weights float -o OUT, then build OUT",
    ),
    "int8_calibration": Feature(
        "INT8 from a calibration cache",
        spans=_BEFORE_11,
        rtx=False,
        names="IInt8EntropyCalibrator2.read_calibration_cache "
        "IInt8MinMaxCalibrator.read_calibration_cache "
        "IInt8LegacyCalibrator.read_calibration_cache IBuilderConfig.int8_calibrator "
        "IBuilderConfig.set_calibration_profile BuilderFlag.INT8",
        reason="calibrators were removed in 11.0",
        instead=_Q_DQ + " (with --from-ranges CACHE it takes the scales of a cache)",
    ),
    "dynamic_ranges": Feature(
        "INT8 from explicit dynamic ranges",
        spans=_BEFORE_11,
        rtx=False,
        names="ITensor.set_dynamic_range ITensor.dynamic_range BuilderFlag.INT8",
        reason="dynamic ranges were removed in 11.0",
        instead=_Q_DQ + " (--from-ranges FILE takes the ranges as they are)",
    ),
    "layer_precisions": Feature(
        "precision of single layers",
        spans=_BEFORE_11,
        rtx=False,
        names="ILayer.precision ILayer.set_output_type BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
        reason="layer precisions were removed in 11.0",
        instead="leave the layers out when quantising: yolox_trt quantize --keep-fp16 NAMES",
    ),
    "io_types": Feature(
        "FP16 and INT8 input and output tensors by option",
        spans=_BEFORE_11,
        rtx=False,
        names="ITensor.dtype ITensor.allowed_formats",
        reason="strongly typed networks take their I/O types from the graph",
        instead="use fp16 I/O with --precision fp16 (the graph is rewritten), int8 I/O where Q/DQ "
        "nodes stand at inputs and outputs, or set the types in the ONNX",
    ),
    "dla": Feature(
        "DLA cores",
        spans=_DLA,
        rtx=False,
        names="DeviceType.DLA IBuilderConfig.default_device_type IBuilderConfig.DLA_core "
        "IBuilderConfig.can_run_on_DLA IBuilderConfig.get_device_type Builder.num_DLA_cores "
        "Runtime.DLA_core",
        reason=_DLA_REASON,
        instead=_DLA_INSTEAD,
    ),
    "gpu_fallback": Feature(
        "GPU fallback of layers that the DLA cannot run",
        spans=_DLA,
        rtx=False,
        names="BuilderFlag.GPU_FALLBACK",
        reason=_DLA_REASON,
        instead=_DLA_INSTEAD,
    ),
    "dla_int8_qdq": Feature(
        "Q/DQ graphs on the DLA",
        spans=(((11, 4, 1), None),),
        rtx=False,
        names="DeviceType.DLA",
        reason="the DLA takes no Q/DQ nodes before TensorRT 11.4.1",
        instead="turn them into a calibration cache: yolox_trt translate MODEL -o OUT --cache FILE "
        "--dla --precisions LAYERS, then build OUT with --calibration-cache FILE "
        "--layer-precisions LAYERS",
    ),
    "dla_standalone": Feature(
        "DLA standalone loadables (cuDLA)",
        spans=_DLA,
        rtx=False,
        names="EngineCapability.DLA_STANDALONE IBuilderConfig.engine_capability",
        reason=_DLA_REASON,
        instead=_DLA_INSTEAD,
    ),
    "dla_pools": Feature(
        "DLA memory pools (managed SRAM, local and global DRAM)",
        spans=_DLA,
        rtx=False,
        names="MemoryPoolType.DLA_MANAGED_SRAM MemoryPoolType.DLA_LOCAL_DRAM "
        "MemoryPoolType.DLA_GLOBAL_DRAM",
        reason=_DLA_REASON,
        instead="drop the dla_* pools",
    ),
    "workspace": Feature(
        "workspace memory limit",
        names="MemoryPoolType.WORKSPACE IBuilderConfig.set_memory_pool_limit",
    ),
    "sparsity": Feature("2:4 sparse weights", names="BuilderFlag.SPARSE_WEIGHTS"),
    "tf32": Feature("TF32 switch", names="BuilderFlag.TF32"),
    "timing_cache": Feature(
        "timing cache",
        rtx=False,
        names="IBuilderConfig.create_timing_cache IBuilderConfig.set_timing_cache "
        "IBuilderConfig.get_timing_cache ITimingCache.serialize ITimingCache.combine",
        reason="timing caches are no-ops in TensorRT-RTX (it compiles kernels on the target)",
        instead="drop --timing-cache; the runtime keeps a kernel cache of its own",
    ),
    "optimization_level": Feature(
        "builder optimisation level",
        spans=(((8, 6), None),),
        names="IBuilderConfig.builder_optimization_level",
        reason="it came with TensorRT 8.6",
        instead="drop --optimization-level",
    ),
    "version_compatible": Feature(
        "engines for later TensorRT versions",
        spans=(((8, 6), None),),
        rtx=False,
        names="BuilderFlag.VERSION_COMPATIBLE",
        reason="it came with TensorRT 8.6; TensorRT-RTX comes without the lean runtime it needs",
        instead="drop --version-compatible and build with the TensorRT that will run",
    ),
    "hardware_compatible": Feature(
        "engines for other GPUs (Ampere and later)",
        spans=(((8, 6), None),),
        rtx=False,
        names="HardwareCompatibilityLevel.AMPERE_PLUS IBuilderConfig.hardware_compatibility_level",
        reason="it came with TensorRT 8.6; TensorRT-RTX engines are portable by themselves",
        instead="drop --hardware-compatible (RTX: use --compute-capability)",
    ),
    "compute_capabilities": Feature(
        "target compute capabilities",
        spans=(),
        names="IBuilderConfig.num_compute_capabilities IBuilderConfig.set_compute_capability "
        "ComputeCapability.SM86",
        reason="TensorRT builds for the GPU of the machine",
        instead="build on the target, or use TensorRT-RTX",
    ),
    "progress_monitor": Feature(
        "build progress in steps",
        spans=(((9,), None),),
        names="IProgressMonitor.step_complete IBuilderConfig.progress_monitor",
        reason="it came with TensorRT 9",
        instead="progress is logged every 5 s",
    ),
    "inspector": Feature(
        "engine inspector",
        names="ICudaEngine.create_engine_inspector EngineInspector.get_engine_information",
    ),
    "layer_profile": Feature(
        "per-layer times",
        names="IProfiler.report_layer_time IExecutionContext.profiler",
    ),
    "execute_async_v3": Feature(
        "enqueue with tensor addresses",
        names="IExecutionContext.execute_async_v3 IExecutionContext.set_tensor_address "
        "ICudaEngine.num_io_tensors",
    ),
    "profile_sharing": Feature(
        "an execution context, and with it a CUDA graph, for each batch of one profile",
        spans=(((8, 6), None),),
        names="IExecutionContext.set_optimization_profile_async "
        "IExecutionContext.active_optimization_profile",
        reason="profiles can be shared since TensorRT 8.6 (PROFILE_SHARING_0806)",
        instead="leave max_batch at 1, or do without CUDA graphs",
    ),
    "runtime_cache": Feature(
        "cache of kernels that the runtime compiled",
        spans=(),
        names="ICudaEngine.create_runtime_config IRuntimeConfig.create_runtime_cache",
        reason="TensorRT compiles at build time",
        instead="nothing to do",
    ),
}
