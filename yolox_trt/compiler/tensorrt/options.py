# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BuildOptions: everything that `yolox_trt build` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, Message
from yolox_trt.core.input_size import InputSize, tool_size_option
from yolox_trt.core.model_spec import BOX_FORMATS
from yolox_trt.core.model_types import AUTO, BOX_FORMAT_HELP, MODEL_TYPE_HELP, parse_model_type
from yolox_trt.core.option import (
    Kind,
    Option,
    OptionGroup,
    option,
    options_of,
    path_option,
)

PRECISIONS = ("fp32", "fp16", "int8")
#: I/O formats, as in NVIDIA's trtexec --inputIOFormats; trt.TensorFormat has them in capitals.
IO_FORMATS = ("linear", "chw16", "chw32", "dla_linear", "dla_hwc4")

#: Options that give INT8 scales.
SCALES = ("calibration_cache", "dynamic_ranges", "default_dynamic_range")

#: Options that Fingerprint holds in attributes of its own, by name or by what is in the file.
_IN_FINGERPRINT = frozenset({
    "device", "precision", "flavour", "min_batch", "opt_batch", "max_batch", "input_size",
    "calibration_cache", "dynamic_ranges",
})  # fmt: skip
#: Options of which only another value than the default counts: engines that were built before there
#: were these are good still.
_WHERE_SET = frozenset({"model_type", "box_format"})
#: Options that change how long a build takes, and not what comes out.
_WITHOUT_EFFECT = frozenset({"timing_cache"})


def parse_layer_precisions(texts: list[str]) -> dict[str, str]:
    """Read layers and their precisions, each "NAME:PRECISION".

    Raises:
        ConfigurationError: another form.
    """
    chosen = {}
    for text in texts:
        name, _, precision = text.rpartition(":")  # from the right: layers' names have colons
        if not name:
            raise ConfigurationError(
                f"layer precision '{text}'",
                expected=f"NAME:PRECISION, precision one of {', '.join(PRECISIONS)}, such as "
                "'*cls_preds*:fp16'",
            )
        chosen[name] = precision
    return chosen


def _number(text: str, *, group: str, unit: str = "") -> Any:
    return option(None, kind=Kind.INTEGER, minimum=1, unit=unit, help=text, group=group)


def _choice(choices: tuple[str, ...], text: str, *, group: str) -> Any:
    return option(None, kind=Kind.STRING, choices=choices, help=text, group=group)


_SHAPE, _INT8, _DLA = "shape", "INT8 (a Q/DQ graph needs none of these)", "DLA"
_IO, _BUILDER = "inputs and outputs", "builder"


@dataclass(frozen=True, kw_only=True)
class BuildOptions(OptionGroup):
    """What an engine is built for, and how. None leaves a choice to TensorRT or to the graph.

    Raises:
        ConfigurationError: a value out of range, or two that exclude each other.
    """

    device: Device = option("gpu", parse=Device.parse, help="gpu, gpu:N, dla0 or dla1.")
    precision: str | None = option(
        None,
        kind=Kind.STRING,
        choices=PRECISIONS,
        help="What layers compute in (default: int8 for a Q/DQ graph and with INT8 scales, else "
        "fp16). int8 keeps layers without scales in FP16.",
    )
    flavour: str | None = option(
        None,
        kind=Kind.STRING,
        choices=("tensorrt", "tensorrt_rtx"),
        help="TensorRT or TensorRT-RTX (default: the one installed).",
    )
    strongly_typed: bool | None = option(
        None,
        kind=Kind.BOOL,
        help="Take precisions from the ONNX graph (TensorRT 10 and later; 11 and RTX always do). "
        "With fp16 the graph is rewritten in FP16 up to the last convolutions.",
    )
    input_size: InputSize | None = tool_size_option(unit="pixels", group=_SHAPE)
    model_type: str = option(AUTO, parse=parse_model_type, help=MODEL_TYPE_HELP + ".", group=_SHAPE)
    box_format: str | None = _choice(BOX_FORMATS, BOX_FORMAT_HELP, group=_SHAPE)
    min_batch: int | None = _number("Smallest batch of an open graph (default: 1).", group=_SHAPE)
    opt_batch: int | None = _number(
        "Batch that an open graph is tuned for (default: the largest).", group=_SHAPE
    )
    max_batch: int | None = _number("Largest batch (default: the graph's, or 1).", group=_SHAPE)
    calibration_cache: Path | None = path_option(
        help="INT8 calibration cache (TensorRT 8.5 to 10.x).", group=_INT8
    )
    dynamic_ranges: Path | None = path_option(
        help="JSON file of INT8 ranges (TensorRT 8.5 to 10.x).", group=_INT8
    )
    default_dynamic_range: float | None = option(
        None,
        kind=Kind.DOUBLE,
        above=0.0,
        metavar="MAX",
        help="Range (0, MAX) of tensors between convolutions that dynamic ranges do not name: 6 "
        "for a ReLU6 model. The outputs need ranges of their own, or FP16 last layers.",
        group=_INT8,
    )
    keep_first_layer_fp16: bool = option(
        False, help="Do not quantise the first convolution.", group=_INT8
    )
    keep_last_layer_fp16: bool = option(
        False, help="Do not quantise the last convolutions of each level.", group=_INT8
    )
    layer_precisions: Mapping[str, str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_layer_precisions,
        flag="--layer-precision",
        metavar="NAME:PRECISION",
        help="Precision of the layers of this name or pattern; where two fit, the later counts.",
        group=_INT8,
    )
    allow_gpu_fallback: bool = option(
        True,
        flag="--no-gpu-fallback",
        help="Layers that the DLA cannot run go to the GPU. Without it a model with such layers is "
        "refused, and inputs and outputs are in a format of the DLA.",
        group=_DLA,
    )
    dla_standalone: bool = option(
        False, help="A loadable for cuDLA instead of an engine; takes no fallback.", group=_DLA
    )
    dla_sram_kib: int | None = _number(
        "Managed SRAM, a power of two (default: TensorRT's 1024).", unit="KiB", group=_DLA
    )
    dla_local_dram_mib: int | None = _number(
        "Local DRAM, a power of two (default: TensorRT's 1024).", unit="MiB", group=_DLA
    )
    dla_global_dram_mib: int | None = _number(
        "Global DRAM, a power of two (default: TensorRT's 512).", unit="MiB", group=_DLA
    )
    input_type: str | None = _choice(PRECISIONS, "Type of the input.", group=_IO)
    input_format: str | None = _choice(IO_FORMATS, "Format of the input.", group=_IO)
    output_type: str | None = _choice(PRECISIONS, "Type of the outputs.", group=_IO)
    output_format: str | None = _choice(IO_FORMATS, "Format of the outputs.", group=_IO)
    workspace_mib: int | None = _number(
        "Limit of scratch memory (default: the device's memory).", unit="MiB", group=_BUILDER
    )
    timing_cache: Path | None = path_option(
        help="File of tactic timings, read if it is there and written after the build.",
        group=_BUILDER,
    )
    sparsity: bool = option(
        False, help="Use 2:4 sparse weights where that is faster.", group=_BUILDER
    )
    tf32: bool = option(True, flag="--no-tf32", help="Allow TF32 in FP32 layers.", group=_BUILDER)
    optimization_level: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=0,
        maximum=5,
        help="How long to search for fast kernels (TensorRT 8.6 and later; default: 3).",
        group=_BUILDER,
    )
    version_compatible: bool = option(
        False,
        help="The engine loads in later TensorRT versions (8.6 and later).",
        group=_BUILDER,
    )
    hardware_compatible: bool = option(
        False,
        help="The engine loads on Ampere and later GPUs (TensorRT 8.6 and later).",
        group=_BUILDER,
    )
    compute_capabilities: tuple[str, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=tuple,
        flag="--compute-capability",
        metavar="X.Y",
        help="Target of a TensorRT-RTX engine, such as 8.6 (default: any GPU).",
        group=_BUILDER,
    )
    profiling_verbosity: str = option(
        "detailed",
        choices=("none", "layer_names_only", "detailed"),
        help="How much the engine inspector tells.",
        group=_BUILDER,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device.kind == "cpu":
            raise ConfigurationError(
                (_OF["device"], " = cpu for a TensorRT engine"),
                expected="gpu, gpu:N or dlaN",
                fix="use the ONNX file with ONNX Runtime on the CPU, it needs no build",
            )
        for name, precision in self.layer_precisions.items():
            if precision not in PRECISIONS:
                raise ConfigurationError(
                    (_OF["layer_precisions"], f" of {name} = '{precision}'"),
                    expected=f"one of {', '.join(PRECISIONS)}",
                    fix=("set ", _OF["layer_precisions"]),
                )
        self._check_int8()
        if self.on_dla:
            self._check_dla()
        else:
            self._check_gpu()

    @property
    def on_dla(self) -> bool:
        """Whether the engine is for a DLA core."""
        return self.device.kind == "dla"

    @property
    def has_scales(self) -> bool:
        """Whether INT8 scales come from a file or a default, and not from the graph."""
        return any(self.is_set(name) for name in SCALES)

    def is_set(self, name: str) -> bool:
        """Whether an option (other than the device) has another value than its default."""
        return getattr(self, name) not in (_OF[name].default, (), {})

    def _check_int8(self) -> None:
        given = [name for name in SCALES if self.is_set(name)]
        needing = given + [name for name in _KEEP_FP16 if getattr(self, name)]
        if needing and self.precision not in (None, "int8"):
            raise ConfigurationError(
                (_OF[needing[0]], f" with precision {self.precision}"),
                expected="precision int8",
                fix=("set ", _OF["precision"], " to int8, or drop ", _OF[needing[0]]),
            )
        if "calibration_cache" in given and len(given) > 1:
            raise ConfigurationError(
                (_OF[given[0]], " together with ", _OF[given[1]]),
                expected="one source of INT8 scales",
                fix="drop one of them",
            )

    def _check_gpu(self) -> None:
        for name in ("dla_standalone", "allow_gpu_fallback", *_DLA_POOLS):
            if self.is_set(name):
                raise ConfigurationError(
                    (_OF[name], f" for device {self.device}"),
                    expected="a DLA device",
                    fix=("drop ", _OF[name], ", or set ", _OF["device"], " to dla0 or dla1"),
                )
        for name in ("input_format", "output_format"):
            if str(getattr(self, name)).startswith("dla"):
                self._refuse(name, "linear, chw16 or chw32 on the GPU")

    def _check_dla(self) -> None:
        # NvInfer.h, MemoryPoolType: DLA pools are powers of two of at least 4 KiB.
        for name in _DLA_POOLS:
            value = getattr(self, name)
            if value is not None and (value & (value - 1) or (value < 4 and name == _DLA_POOLS[0])):
                self._refuse(name, "a power of two, and at least 4 KiB")
        if self.precision == "fp32":
            self._refuse("precision", "fp16 or int8: the DLA has no FP32")
        if self.output_format == "dla_hwc4":
            self._refuse(
                "output_format", "dla_linear, chw16 or chw32: dla_hwc4 is a format of images"
            )
        if self.dla_standalone and self.allow_gpu_fallback:
            self._refuse(
                "dla_standalone",
                "no fallback to the GPU: a loadable holds DLA layers only",
                ("switch the fallback off: ", _OF["allow_gpu_fallback"]),
            )
        for name in ("compute_capabilities", "hardware_compatible"):
            if getattr(self, name):
                self._refuse(
                    name,
                    "none: a DLA engine is for the chip that it is built on",
                    ("drop ", _OF[name]),
                )
        batches = {b for b in (self.min_batch, self.opt_batch, self.max_batch) if b is not None}
        if len(batches) > 1:
            raise ConfigurationError(
                f"batches {sorted(batches)} for device {self.device}",
                expected="one batch: the DLA takes static batches only",
                fix=("set ", _OF["max_batch"], " alone (1 is best: DLA time grows with the batch)"),
            )

    def _refuse(self, name: str, expected: str, fix: Message = "") -> None:
        raise ConfigurationError(
            (_OF[name], f" = {getattr(self, name)} for device {self.device}"),
            expected=expected,
            fix=fix or ("set ", _OF[name]),
        )

    def fingerprint_options(self) -> dict[str, Any]:
        """Return the options that change the engine and have no attribute in Fingerprint."""
        left_out = _IN_FINGERPRINT | _WITHOUT_EFFECT
        left_out |= {name for name in _WHERE_SET if not self.is_set(name)}
        return {name: getattr(self, name) for name in _OF if name not in left_out} | {
            # In their order: where two patterns fit one layer, the later one counts.
            "layer_precisions": [list(pair) for pair in self.layer_precisions.items()] or {},
            "compute_capabilities": list(self.compute_capabilities),
        }


_OF = options_of(BuildOptions)
#: For errors about the batches of an optimisation profile.
BATCH_OPTIONS: tuple[str | Option, ...] = (
    "set ", _OF["min_batch"], ", ", _OF["opt_batch"], " and ", _OF["max_batch"],
)  # fmt: skip
_KEEP_FP16 = ("keep_first_layer_fp16", "keep_last_layer_fp16")
_DLA_POOLS = ("dla_sram_kib", "dla_local_dram_mib", "dla_global_dram_mib")
