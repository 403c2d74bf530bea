# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DetectorOptions: which model runs where, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.compiler.tensorrt.options import PRECISIONS, BuildOptions
from yolox_trt.core.device import Device
from yolox_trt.core.labels import load_class_names
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS, Preprocessing
from yolox_trt.core.option import Kind, OptionGroup, option, path_option, size_option
from yolox_trt.core.shipped_files import default_model
from yolox_trt.engines.engine_file import is_engine_file

if TYPE_CHECKING:
    import onnx

    from yolox_trt.engines.trt_api import ProgressCallback

#: Values of the option `engine`.
ENGINES = ("auto", "tensorrt", "onnxruntime", "simulated")


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(OptionGroup):
    """What create_detector is asked for. None leaves a choice to the model or to the engine.

    Attributes:
        model: path of an ONNX file or a built engine, or a loaded ONNX model; None for the default
            model (core.shipped_files.default_model).
        labels: names of the classes.
        build: further options of a TensorRT engine. Its device, precision, input size and largest
            batch are not used: they come from here.
        cuda: further arguments of CudaDetector, by name.
        on_progress: on_progress(fraction 0..1, phase) while an engine is built; without it
            progress goes to the log.

    Raises:
        ConfigurationError: a value out of range.
    """

    model: Path | str | onnx.ModelProto | None = path_option(
        flag="MODEL",
        metavar="MODEL",
        help="ONNX file or built engine (default: the shipped model).",
    )
    device: Device | None = option(
        "auto",
        parse=Device.parse_or_auto,
        help="auto, cpu, gpu, gpu:N, dla0 or dla1; auto is the GPU if it works, else the CPU.",
    )
    engine: str = option(
        "auto", choices=ENGINES, help="What runs the network; auto never simulates."
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
        choices=tuple(sorted(PREPROCESSING_PRESETS)),
        parse=PREPROCESSING_PRESETS.__getitem__,
        help="What the input expects (default: what the model's metadata says, else bgr, which is "
        "YOLOX from 0.1.1 on; rgb_imagenet is YOLOX 0.1.0).",
    )
    labels: tuple[str, ...] | None = path_option(
        parse=load_class_names, help="Class names, one a line (default: the model's)."
    )
    input_size: tuple[int, int] | None = size_option(
        unit="pixels", help="Input size of a model that leaves it open."
    )
    max_batch: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        flag="--batch",
        help="Largest batch (default: the model's). A model with another batch built in is opened "
        "for it, except for a DLA.",
    )
    threads: int | None = option(
        None, kind=Kind.INTEGER, minimum=1, help="Threads of one run on the CPU (default: all)."
    )
    engine_cache: Path | None = path_option(
        metavar="FOLDER", help="Folder of the engine cache (default: the user's cache)."
    )
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
    def name(self) -> str:
        """The model's path, for messages."""
        return str(self.source) if isinstance(self.source, str | Path) else "the model"
