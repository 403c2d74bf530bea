# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BuildOptions: everything that `yolox_trt build` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError

PRECISIONS = ("fp32", "fp16", "int8")
#: I/O formats, as in NVIDIA's trtexec --inputIOFormats; trt.TensorFormat has them in capitals.
IO_FORMATS = ("linear", "chw16", "chw32", "dla_linear", "dla_hwc4")
PROFILING_VERBOSITIES = ("none", "layer_names_only", "detailed")

_GPU = Device("gpu")


def _set(name: str) -> str:
    """Return how an option is set: on the command line, and by its name elsewhere."""
    flag = {"height": "size HxW", "width": "size HxW", "layer_precisions": "layer-precision"}
    return f"set `--{flag.get(name, name.replace('_', '-'))}` (option `{name}`)"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What an engine is built for, and how.

    Attributes:
        device: "gpu", "gpu:1", "dla0", ...
        precision: "fp32", "fp16" or "int8" (which keeps layers without scales in FP16).
        flavour: "tensorrt", "tensorrt_rtx", or None for the one that is installed.
        strongly_typed: take precisions from the ONNX graph (TensorRT 10 and newer; 11 and RTX
            always do). None: only where there is no other way. With "fp16" the graph is
            rewritten in FP16 up to the last convolutions.
        min_batch, opt_batch, max_batch: optimisation profile of a graph with an open batch;
            None for 1, max_batch, 1.
        height, width: input size of a graph that leaves it open, in pixels.
        calibration_cache: INT8 calibration cache (TensorRT 8.5 to 10.x).
        dynamic_ranges: JSON file of ranges for INT8 (TensorRT 8.5 to 10.x).
        default_dynamic_range: range (0, value) of tensors between convolutions that
            `dynamic_ranges` does not name: 6.0 for a ReLU6 model. The input is (0, 255) then, or
            what the model's preprocessing makes of it. The outputs need ranges of their own, or
            keep_last_layer_fp16.
        keep_first_layer_fp16: the first convolution is not quantised.
        keep_last_layer_fp16: the last convolutions of each level are not quantised.
        layer_precisions: layer name (or pattern such as "*cls_preds*") -> precision.
        allow_gpu_fallback: layers that the DLA cannot run go to the GPU. Without it a model with
            such layers is refused, and I/O is in a format of the DLA.
        dla_standalone: a loadable for cuDLA instead of an engine; needs allow_gpu_fallback off.
        input_type, output_type: "fp32", "fp16" or "int8"; None for the graph's own.
        input_format, output_format: one of IO_FORMATS; None for linear.
        workspace_mib: limit of scratch memory; None for the device's whole memory.
        dla_sram_kib, dla_local_dram_mib, dla_global_dram_mib: DLA memory pools, powers of two;
            None for TensorRT's 1 MiB, 1 GiB, 512 MiB.
        timing_cache: file of tactic timings, read if it is there and written after the build.
        sparsity: use 2:4 sparse weights where that is faster.
        tf32: allow TF32 in FP32 layers.
        optimization_level: 0 to 5 (8.6 and newer); None for TensorRT's 3.
        version_compatible: the engine loads in later TensorRT versions (8.6 and newer).
        hardware_compatible: the engine loads on Ampere and newer GPUs (8.6 and newer).
        compute_capabilities: targets of TensorRT-RTX such as ("8.6", "8.9"); empty for portable.
        profiling_verbosity: one of PROFILING_VERBOSITIES; how much the inspector tells.

    Raises:
        ConfigurationError: a value out of range, or two that exclude each other.
    """

    device: Device = _GPU
    precision: str = "fp16"
    flavour: str | None = None
    strongly_typed: bool | None = None
    min_batch: int | None = None
    opt_batch: int | None = None
    max_batch: int | None = None
    height: int | None = None
    width: int | None = None
    calibration_cache: Path | None = None
    dynamic_ranges: Path | None = None
    default_dynamic_range: float | None = None
    keep_first_layer_fp16: bool = False
    keep_last_layer_fp16: bool = False
    layer_precisions: Mapping[str, str] = field(default_factory=dict)
    allow_gpu_fallback: bool = True
    dla_standalone: bool = False
    input_type: str | None = None
    input_format: str | None = None
    output_type: str | None = None
    output_format: str | None = None
    workspace_mib: int | None = None
    dla_sram_kib: int | None = None
    dla_local_dram_mib: int | None = None
    dla_global_dram_mib: int | None = None
    timing_cache: Path | None = None
    sparsity: bool = False
    tf32: bool = True
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: tuple[str, ...] = ()
    profiling_verbosity: str = "detailed"

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_int8()
        self._check_dla()

    @property
    def on_dla(self) -> bool:
        """Whether the engine is for a DLA core."""
        return self.device.kind == "dla"

    def _check_choices(self) -> None:
        choices: list[tuple[str, Any, tuple[str, ...]]] = [
            ("precision", self.precision, PRECISIONS),
            ("profiling_verbosity", self.profiling_verbosity, PROFILING_VERBOSITIES),
            ("input_type", self.input_type, PRECISIONS),
            ("output_type", self.output_type, PRECISIONS),
            ("input_format", self.input_format, IO_FORMATS),
            ("output_format", self.output_format, IO_FORMATS),
        ]
        choices += [
            (f"layer_precisions[{name}]", value, PRECISIONS)
            for name, value in self.layer_precisions.items()
        ]
        for name, value, allowed in choices:
            if value is not None and value not in allowed:
                raise ConfigurationError(
                    f"{name} = '{value}'",
                    expected=f"one of {', '.join(allowed)}",
                    fix=f"{_set(name)} to one of these",
                )
        if self.device.kind == "cpu":
            raise ConfigurationError(
                "device = 'cpu' for a TensorRT engine",
                expected="gpu, gpu:N or dlaN",
                fix="use the ONNX file with ONNX Runtime on the CPU, it needs no build",
            )

    def _check_numbers(self) -> None:
        for name in (
            "min_batch",
            "opt_batch",
            "max_batch",
            "height",
            "width",
            "workspace_mib",
            "dla_sram_kib",
            "dla_local_dram_mib",
            "dla_global_dram_mib",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} = {value}", expected="at least 1", fix=_set(name))
        if (self.height is None) != (self.width is None):
            raise ConfigurationError(
                f"height = {self.height}, width = {self.width}",
                expected="both or none",
                fix="give --size HxW",
            )
        level = self.optimization_level
        if level is not None and not 0 <= level <= 5:
            raise ConfigurationError(
                f"optimization_level = {level}", expected="0 to 5", fix=_set("optimization_level")
            )
        # NvInfer.h, MemoryPoolType: DLA pools are powers of two of at least 4 KiB.
        for name, unit in (
            ("dla_sram_kib", 1),
            ("dla_local_dram_mib", 1024),
            ("dla_global_dram_mib", 1024),
        ):
            value = getattr(self, name)
            if value is not None and (value & (value - 1) or value * unit < 4):
                raise ConfigurationError(
                    f"{name} = {value}",
                    expected="a power of two, and at least 4 KiB",
                    fix=_set(name),
                )

    def _check_int8(self) -> None:
        sources = [
            name
            for name, value in (
                ("calibration_cache", self.calibration_cache),
                ("dynamic_ranges", self.dynamic_ranges or self.default_dynamic_range),
            )
            if value
        ]
        if sources and self.precision != "int8":
            raise ConfigurationError(
                f"{sources[0]} with precision {self.precision}",
                expected="precision int8",
                fix=f"set `precision` to int8, or drop `{sources[0]}`",
            )
        if len(sources) == 2:
            raise ConfigurationError(
                "calibration_cache together with dynamic ranges",
                expected="one source of INT8 scales",
                fix="drop one of them",
            )
        if self.default_dynamic_range is not None and self.default_dynamic_range <= 0.0:
            raise ConfigurationError(
                f"default_dynamic_range = {self.default_dynamic_range}",
                expected="a positive number, such as 6.0 for a ReLU6 model",
                fix=_set("default_dynamic_range"),
            )
        for name in ("keep_first_layer_fp16", "keep_last_layer_fp16"):
            if getattr(self, name) and self.precision != "int8":
                raise ConfigurationError(
                    f"{name} with precision {self.precision}",
                    expected="precision int8",
                    fix=f"drop `{name}`",
                )

    def _check_dla(self) -> None:
        if not self.on_dla:
            for name, default in (
                ("dla_standalone", False),
                ("allow_gpu_fallback", True),
                ("dla_sram_kib", None),
                ("dla_local_dram_mib", None),
                ("dla_global_dram_mib", None),
            ):
                if getattr(self, name) != default:
                    raise ConfigurationError(
                        f"{name} = {getattr(self, name)} for device {self.device}",
                        expected="a DLA device",
                        fix=f"drop `{name}`, or set `device` to dla0 or dla1",
                    )
            for name in ("input_format", "output_format"):
                if str(getattr(self, name)).startswith("dla"):
                    raise ConfigurationError(
                        f"{name} = {getattr(self, name)} for device {self.device}",
                        expected="linear, chw16 or chw32 on the GPU",
                        fix=_set(name),
                    )
            return
        if self.precision == "fp32":
            raise ConfigurationError(
                f"precision fp32 for device {self.device}",
                expected="fp16 or int8: the DLA has no FP32",
                fix="set `precision` to fp16 or int8",
            )
        if self.output_format == "dla_hwc4":
            raise ConfigurationError(
                f"output_format = dla_hwc4 for device {self.device}",
                expected="dla_linear, chw16 or chw32: dla_hwc4 is a format of images",
                fix=_set("output_format"),
            )
        if self.dla_standalone and self.allow_gpu_fallback:
            raise ConfigurationError(
                "dla_standalone with allow_gpu_fallback",
                expected="no fallback: a loadable holds DLA layers only",
                fix="set `allow_gpu_fallback` to false (--no-gpu-fallback)",
            )
        if self.compute_capabilities or self.hardware_compatible:
            raise ConfigurationError(
                f"other compute capabilities for device {self.device}",
                expected="none: a DLA engine is for the chip that it is built on",
                fix="drop --hardware-compatible and --compute-capability",
            )
        batches = {b for b in (self.min_batch, self.opt_batch, self.max_batch) if b is not None}
        if len(batches) > 1:
            raise ConfigurationError(
                f"batches {sorted(batches)} for device {self.device}",
                expected="one batch: the DLA takes static batches only",
                fix="set `max_batch` alone (1 is best: DLA time grows with the batch)",
            )

    def fingerprint_options(self) -> dict[str, Any]:
        """Return the options that change the engine and have no field in Fingerprint.

        The timing cache is not among them: it changes how long the build takes.
        """
        names = (
            "strongly_typed",
            "default_dynamic_range",
            "keep_first_layer_fp16",
            "keep_last_layer_fp16",
            "allow_gpu_fallback",
            "dla_standalone",
            "input_type",
            "input_format",
            "output_type",
            "output_format",
            "workspace_mib",
            "dla_sram_kib",
            "dla_local_dram_mib",
            "dla_global_dram_mib",
            "sparsity",
            "tf32",
            "optimization_level",
            "version_compatible",
            "hardware_compatible",
            "profiling_verbosity",
        )
        return {name: getattr(self, name) for name in names} | {
            # In their order: where two patterns fit one layer, the later one counts.
            "layer_precisions": [list(pair) for pair in self.layer_precisions.items()] or {},
            "compute_capabilities": list(self.compute_capabilities),
        }
