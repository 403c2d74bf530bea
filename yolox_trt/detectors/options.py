# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DetectorOptions: which model runs where, and how."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.compiler.tensorrt.options import PRECISIONS, BuildOptions
from yolox_trt.core.device import Device
from yolox_trt.core.input_size import InputSize, Size, input_size_option
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.model_spec import PREPROCESSING_FORM, Preprocessing, parse_preprocessing
from yolox_trt.core.option import (
    Kind,
    OptionGroup,
    again,
    option,
    options_of,
    path_option,
)
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.core.shipped_files import default_model
from yolox_trt.engines import model_zoo
from yolox_trt.engines.engine_file import CacheOptions, is_engine_file, is_loadable

if TYPE_CHECKING:
    import onnx

    from yolox_trt.engines.trt_api import ProgressCallback

_LOGGER = logging.getLogger(__name__)

#: Values of the option `engine`.
ENGINES = ("auto", "tensorrt", "cudla", "onnxruntime", "simulated")
_CACHE = options_of(CacheOptions)["engine_cache"]
_BUILD = options_of(BuildOptions)
#: Options of the simulated engine alone.
SIMULATION = ("latency", "contention")


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(OptionGroup):
    """What create_detector is asked for. None leaves a choice to the model or to the engine.

    Attributes:
        model: path of an ONNX file or a built engine, or a loaded ONNX model; None for the default
            model (core.shipped_files.default_model).
        labels: names of the classes.
        build: further options of a TensorRT engine. Its device, precision, input size, largest
            batch, model type and box format are not used: they come from here.
        cuda: further arguments of CudaDetector, by name.
        exact_sizes: with input size "auto", close the size that was used longest ago where too many
            are open, in place of running at another one: what is found in an image then depends on
            no image before it.
        calls: images that it is worth working on at a time where ONNX Runtime runs on the CPU
            without batches, at most `threads`: the number of cameras, say.
        on_progress: on_progress(fraction 0..1, phase) while an engine is built; without it
            progress goes to the log.

    Raises:
        ConfigurationError: a value out of range.
    """

    model: Path | str | onnx.ModelProto | None = path_option(
        flag="MODEL",
        metavar="MODEL",
        help="ONNX file, built engine, or a name of `yolox_trt models list`, which is fetched "
        "(default: the shipped model).",
    )
    device: Device | None = option(
        "auto",
        parse=Device.parse_or_auto,
        help="auto, cpu, gpu, gpu:N, dla0 or dla1; auto is the GPU if it works, else the CPU.",
    )
    engine: str = option(
        "auto",
        choices=ENGINES,
        help="What runs the network; auto never simulates, and takes cudla for DLA standalone "
        "loadables alone. cudla runs a DLA without TensorRT's runtime.",
    )
    cudla_mode: str = option(
        "hybrid",
        choices=("hybrid", "standalone"),
        help="How the engine cudla runs: hybrid enqueues the DLA's work on a CUDA stream between "
        "the GPU's kernels; standalone uses no CUDA, and preprocesses and decodes on the CPU.",
    )
    precision: str | None = option(
        None,
        kind=Kind.STRING,
        choices=PRECISIONS,
        help="Precision of a TensorRT engine (default: int8 for a Q/DQ model and with INT8 "
        "scales, else fp16).",
    )
    preprocessing: Preprocessing | None = option(
        None,
        kind=Kind.STRING,
        parse=parse_preprocessing,
        metavar="FORM",
        help="What the input expects (default: what the model's metadata says, else bgr, which is "
        f"YOLOX from 0.1.1 on; rgb_imagenet is YOLOX 0.1.0): {PREPROCESSING_FORM}.",
    )
    labels: tuple[str, ...] | None = path_option(
        parse=load_class_names, help="Class names, one a line (default: the model's)."
    )
    input_size: InputSize | None = input_size_option()
    model_type: str = again(_BUILD["model_type"])
    box_format: str | None = again(_BUILD["box_format"])
    max_batch: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        flag="--batch",
        help="Largest batch (default: the model's). A model with another batch built in is opened "
        "for it, except for a DLA.",
    )
    threads: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        maximum=LIMITS.threads,
        help="Threads of one run on the CPU, and most runs at a time of several cameras "
        "(default: all cores).",
    )
    engine_cache: Path | None = again(_CACHE)
    latency: float | None = option(
        None,
        kind=Kind.DOUBLE,
        above=0.0,
        unit="s",
        help="Time of one image in a simulated engine (default: a YOLOX-S on an Orin).",
    )
    contention: bool = option(
        False, help="Whether simulated GPU and DLA slow each other down as on an Orin."
    )
    build: BuildOptions = field(default_factory=BuildOptions)
    cuda: Mapping[str, Any] = field(default_factory=dict)
    on_progress: ProgressCallback | None = None
    exact_sizes: bool = False
    calls: int = 1

    @property
    def fixed_size(self) -> Size | None:
        """The size that `input_size` names, None where it leaves it to the model or the images."""
        return self.input_size if isinstance(self.input_size, tuple) else None

    def located(self, on_progress: Progress = no_progress) -> DetectorOptions:
        """Return these options with a file in place of a published model's name.

        It is fetched into the cache where it is not there, which is logged.

        Raises:
            ConfigurationError: neither a file nor a published model.
            ModelError: it cannot be fetched; the error names the command that does it.
        """
        model = self.model
        if not isinstance(model, str | Path) or Path(model).suffix or Path(model).exists():
            return self
        named = model_zoo.find(str(model))
        _LOGGER.info("%s: %s, licence %s", named.name, named.summary, named.licence)
        files = model_zoo.fetch(named, on_progress=on_progress)
        labels = self.labels
        if labels is None and named.labels is not None:
            labels = load_class_names(files[named.labels.name])
        return replace(self, model=files[named.onnx.name], labels=labels)

    @property
    def source(self) -> Path | str | onnx.ModelProto:
        """The model, or else the default model's path.

        Raises:
            ConfigurationError: there is no default model.
        """
        return default_model() if self.model is None else self.model

    @property
    def is_engine_file(self) -> bool:
        """Whether the model is a built TensorRT engine and not ONNX."""
        return isinstance(self.model, str | Path) and is_engine_file(self.model)

    @property
    def is_loadable(self) -> bool:
        """Whether the model is a DLA standalone loadable, which cuDLA runs."""
        return (
            isinstance(self.model, str | Path) and self.is_engine_file and is_loadable(self.model)
        )

    @property
    def name(self) -> str:
        """The model's path, for messages."""
        return str(self.source) if isinstance(self.source, str | Path) else "the model"
