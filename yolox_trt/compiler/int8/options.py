# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options of calibration and quantisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolox_trt.compiler.int8.algorithms import parse_algorithm, to_number
from yolox_trt.compiler.int8.calibration_cache import CacheOptions
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.documents import read_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.input_size import InputSize, tool_size_option
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.core.option import Kind, OptionGroup, again, option, options_of, path_option
from yolox_trt.core.output_paths import OutputFile

#: Algorithm that takes ReLU6's bounds in place of images.
FIXED = "fixed"
_AUTOMATIC = "auto:"
#: Word for the convolutions that give the outputs.
LAST = "last"


def parse_float_layers(text: str) -> tuple[float, bool]:
    """Read how many layers stay in floating point: "N" layers or "P%" of the operations.

    Returns:
        The number, and whether it is a percentage.

    Raises:
        ConfigurationError: it is neither.
    """
    number, is_share = text.strip().removesuffix("%"), text.strip().endswith("%")
    amount = to_number(number)
    if not (0.0 <= amount <= 100.0 if is_share else 0.0 <= amount < math.inf):
        raise ConfigurationError(
            f"'{text}' layers to keep in floating point",
            expected="a number of layers, or a percentage of the operations such as 5%",
        )
    return amount, is_share


def _algorithm(text: str) -> str:
    if text != FIXED:
        parse_algorithm(text, others=(FIXED,))
    return text


def _overrides(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        found[name] = to_number(number)
        if not name or not 0.0 < found[name] < math.inf:
            raise ConfigurationError(
                f"'{text}'", expected="TENSOR=RANGE with a positive range, such as reg_8=6.0"
            )
    return found


def _float_layers(text: str) -> tuple[str, ...]:
    if text.endswith(".json"):
        with ConfigurationError.instead_of(
            FILE_ERRORS,
            f"'{text}', which cannot be read",
            expected="a JSON object of layer names",
            fix="yolox_trt translate MODEL --precisions FILE writes it",
        ):
            names = read_json(text)
            if not isinstance(names, dict | list) or not all(isinstance(n, str) for n in names):
                raise ValueError("no names")
            return tuple(names)
    layers = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in layers:
        if name.startswith(_AUTOMATIC):
            parse_float_layers(name.removeprefix(_AUTOMATIC))
    return layers


@dataclass(frozen=True, kw_only=True)
class ImageOptions(OptionGroup):
    """Calibration images."""

    images: Path | None = path_option(
        metavar="SOURCE",
        help="Calibration images: a folder, a list file, a COCO folder or json, or a bag.",
    )
    limit: int = option(1000, minimum=0, help="Use at most so many images; 0 for all.")
    preprocessing: Preprocessing | None = again(
        options_of(SurgeryOptions)["preprocessing"], group=""
    )
    input_size: InputSize | None = tool_size_option("for the calibration images")


def no_images() -> ConfigurationError:
    """Make the error of missing calibration images."""
    return ConfigurationError(
        "no calibration images",
        expected="at least one, unless ranges are fixed and layers are named",
        fix=("give ", options_of(ImageOptions)["images"]),
    )


@dataclass(frozen=True, kw_only=True)
class RangeOptions(OptionGroup):
    """How the range of each tensor is found."""

    algorithm: str = option(
        "percentile:99.999",
        parse=_algorithm,
        metavar="NAME",
        help="max, entropy, mse, percentile, percentile:NUMBER, or fixed (ReLU6's bounds, no "
        "images).",
    )
    overrides: Mapping[str, float] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=_overrides,
        flag="--set",
        metavar="TENSOR=RANGE",
        help="Set a tensor's range, by name or pattern, as for the heads of a ReLU6 model.",
    )
    threads: int = option(
        0,
        minimum=0,
        maximum=LIMITS.threads,
        help="Threads of ONNX Runtime; 0 for one a core.",
    )


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(RangeOptions):
    """How ranges are found for a builder that calibrates."""

    dla: bool = option(False, help="Make ranges equal where the DLA takes one only.")


@dataclass(frozen=True, kw_only=True)
class RangeFiles(CacheOptions):
    """Where ranges are written: to a calibration cache, a JSON file, or both."""

    cache: Path | None = path_option(
        parse=OutputFile(), help="TensorRT calibration cache to write."
    )
    ranges: Path | None = path_option(
        parse=OutputFile(), help="JSON file of dynamic ranges to write."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cache and not self.ranges:
            declared = options_of(RangeFiles)
            cache, ranges = declared["cache"], declared["ranges"]
            raise ConfigurationError("no output file", fix=("give ", cache, " or ", ranges))


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(RangeOptions):
    """How a model is quantised."""

    equalize: float | None = option(
        None,
        kind=Kind.DOUBLE,
        minimum=0.0,
        maximum=1.0,
        implied=0.75,
        metavar="ALPHA",
        help="Move channel ranges into the weights first, by this share (0.75 where none is "
        "given): SiLU and depthwise networks need it.",
    )
    keep_fp16: tuple[str, ...] = option(
        "",
        parse=_float_layers,
        metavar="LIST",
        help="Layers to leave in floating point: names with commas, last (the convolutions that "
        "give the outputs), auto:N (the N most sensitive), auto:P% (within P percent of the "
        "operations), or the JSON file of `translate`.",
    )
    placement: str = option(
        "conv_inputs",
        choices=("conv_inputs", "all"),
        help="Which activations carry Q/DQ. conv_inputs: inputs of layers with weights, as "
        "TensorRT fuses; all: every tensor between kernels, as the DLA stores them.",
    )
    weights: str = option(
        "int8",
        choices=("int8", "float"),
        help="How weights are stored. int8: a quarter of the size, for TensorRT 10, 11 and RTX; "
        "float: with Q/DQ behind them, for TensorRT 8.x.",
    )
    int8_outputs: bool = option(
        False,
        help="Quantise the outputs too, raw heads alone, for an engine that gives them in INT8.",
    )
    from_ranges: Path | None = path_option(
        help="Take the ranges from a calibration cache or JSON file instead of images."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        declared = options_of(QuantizeOptions)
        equalize, algorithm = declared["equalize"], declared["algorithm"]
        if self.equalize is not None and self.algorithm == FIXED:
            raise ConfigurationError(
                "fixed ranges for equalised channels",
                expected="ranges that are found with images: no activation bounds an equalised "
                "tensor",
                fix=("leave out ", equalize, ", or set ", algorithm, " to ", algorithm.default),
            )
        if self.from_ranges is not None and (self.equalize is not None or self.automatic):
            source, keep = declared["from_ranges"], declared["keep_fp16"]
            raise ConfigurationError(
                (source, " with ", equalize, " or ", keep, f" {_AUTOMATIC}"),
                expected="ranges found on this same model, and layers by name",
                fix=("give ", options_of(ImageOptions)["images"], " instead of ", source),
            )

    @property
    def automatic(self) -> tuple[str, ...]:
        """What is asked of the sensitivity search: "N" or "P%"."""
        found = (name for name in self.keep_fp16 if name.startswith(_AUTOMATIC))
        return tuple(name.removeprefix(_AUTOMATIC) for name in found)

    @property
    def named(self) -> tuple[str, ...]:
        """Layers that stay in floating point by name."""
        return tuple(name for name in self.keep_fp16 if not name.startswith(_AUTOMATIC))
