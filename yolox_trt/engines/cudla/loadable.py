# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Loadable: what a DLA standalone loadable takes and gives, by its sidecar and by cuDLA."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.errors import FILE_ERRORS, EngineError
from yolox_trt.core.faults import EngineFileError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.engines.cudla.abi import DataFormat, DataType, ModuleTensorDescriptor
from yolox_trt.engines.engine_file import EngineFile
from yolox_trt.engines.tensor_layout import TensorLayout

_TYPES = {"float32": DataType.FLOAT, "float16": DataType.HALF, "int8": DataType.INT8}
#: Formats in which stride[1] was seen to be the bytes of a row (NVIDIA/cuda-samples, issue 192).
_ROW_FORMATS = {"dla_linear": DataFormat.NCHW, "dla_hwc4": DataFormat.NHWC}


class Loadable:
    """A loadable whose sidecar was read.

    Args:
        file: the loadable and its sidecar.

    Attributes:
        file: likewise.
        input_name: of its input.
        layouts: of input and outputs, by name; the outputs in the order of the file's spec.
        scales: of int8 inputs and outputs, by name: the real value of one step.
        versions: "cudla" and "dla" (version of cuDLA, of the hardware) of the machine that built
            it, where they were known.

    Raises:
        EngineError: no loadable, or an int8 tensor of unknown scale.
        EngineFileError: a sidecar that cannot be read.
    """

    def __init__(self, file: EngineFile) -> None:
        self.file = file
        self.input_name = file.spec.input_name
        names = (self.input_name, *file.spec.tensor_names)
        tensors = file.details.get("tensors")
        if not file.fingerprint.options.get("dla_standalone") or not tensors:
            raise EngineError(  # built again, it would be one again
                f"{file.path} is an engine of TensorRT",
                expected="a loadable: cuDLA does not run TensorRT's engines",
                fix=self.rebuild,
            )
        with EngineFileError.instead_of(
            FILE_ERRORS,
            f"sidecar of {file.path} that does not tell its tensors",
            expected=f"shape, type and format of {', '.join(names)}",
            fix=self.rebuild,
        ):
            self.layouts = {name: _layout(tensors[name]) for name in names}
            scales = {str(n): float(s) for n, s in file.details.get("io_scales", {}).items()}
            self.versions: dict[str, Any] = dict(file.details.get("dla_versions", {}))
        self.scales = {n: s for n, s in scales.items() if math.isfinite(s) and s > 0}
        without = [n for n in names if self.layouts[n].dtype == "int8" and n not in self.scales]
        if without:
            raise EngineError(  # those that it was built with
                f"{file.path} has int8 tensors of unknown scale: {', '.join(without)}",
                expected="the real value of one step of each in its sidecar",
                fix="build it again with scales: yolox_trt calibrate MODEL --images FOLDER --cache "
                "FILE, or yolox_trt translate MODEL -o OUT --cache FILE --dla for a Q/DQ model",
            )

    @property
    def spec(self) -> ModelSpec:
        """What the network takes and gives, the input in the loadable's type."""
        dtype = self.layouts[self.input_name].dtype
        return dataclasses.replace(self.file.spec, input_dtype=dtype)

    @property
    def rebuild(self) -> str:
        """The command that builds it again for this machine."""
        return (
            f"yolox_trt build MODEL --device {self.file.fingerprint.device} --dla-standalone "
            f"--no-gpu-fallback -o {self.file.path}"
        )

    def refusal(self, found: str, expected: str) -> EngineFileError:
        """Return the error that this loadable cannot be used, and another one may."""
        return EngineFileError(f"{self.file.path} {found}", expected=expected, fix=self.rebuild)

    def check_device(self, device: Device) -> None:
        """Refuse a loadable that was built for another core.

        Raises:
            EngineFileError: see above.
        """
        built = self.file.fingerprint.device
        if built != str(device):
            raise self.refusal(f"was built for {built}", f"one for {device}")

    def check_versions(self, cudla: str, hardware: int) -> None:
        """Refuse a loadable that another DLA, or another major version of cuDLA, was built for.

        Args:
            cudla: version of the library here.
            hardware: CUDLA_DEVICE_VERSION here.

        Raises:
            EngineFileError: see above.
        """
        built = self.versions.get("dla")
        if built not in (None, hardware):
            raise self.refusal(
                f"was built for DLA hardware {built}", f"one for {hardware}, as this machine has"
            )
        built = self.versions.get("cudla")
        if built is not None and str(built).partition(".")[0] != cudla.partition(".")[0]:
            raise self.refusal(
                f"was built beside cuDLA {built}", f"one of cuDLA {cudla}, which is installed"
            )

    def describe_versions(self) -> str:
        """Return what it was built with, for errors."""
        known = [f"TensorRT {self.file.fingerprint.tensorrt_version}"]
        known += [
            f"{title} {self.versions[key]}"
            for key, title in (("cudla", "cuDLA"), ("dla", "DLA hardware"))
            if self.versions.get(key)
        ]
        return ", ".join(known)

    def match(self, found: Iterable[ModuleTensorDescriptor], names: Iterable[str]) -> list[str]:
        """Check tensors of the loaded module against the sidecar.

        Args:
            found: cuDLA's descriptors.
            names: what the sidecar has.

        Returns:
            The names in the order of the descriptors.

        Raises:
            EngineFileError: other tensors, or one of another type, size or layout.
        """
        descriptors, names = list(found), list(names)
        told = [d.name.decode(errors="replace").rstrip("'") for d in descriptors]
        if sorted(told) != sorted(names):
            raise self.refusal(
                f"holds the tensors {', '.join(told) or 'none'}",
                f"{', '.join(names)}, as its sidecar says",
            )
        for name, descriptor in zip(told, descriptors, strict=True):
            self._check(name, descriptor)
        return told

    def _check(self, name: str, found: ModuleTensorDescriptor) -> None:
        layout = self.layouts[name]
        n, _, h, w = layout.shape if len(layout.shape) == 4 else (layout.shape[0], 0, 0, 0)
        size = math.prod(layout.buffer_shape) * np.dtype(layout.dtype).itemsize
        row = layout.buffer_shape[-2 if layout.format == "dla_hwc4" else -1]
        row *= np.dtype(layout.dtype).itemsize * (4 if layout.format == "dla_hwc4" else 1)
        here: dict[str, Any] = {"type": found.dataType, "bytes": found.size, "batch": found.n}
        wanted: dict[str, Any] = {"type": int(_TYPES[layout.dtype]), "bytes": size, "batch": n}
        if h:
            here |= {"height": found.h, "width": found.w}
            wanted |= {"height": h, "width": w}
        if layout.format in _ROW_FORMATS:
            here |= {"format": found.dataFormat, "bytes of a row": found.stride[1]}
            wanted |= {"format": int(_ROW_FORMATS[layout.format]), "bytes of a row": row}
        for key, value in wanted.items():
            if here[key] != value:
                enum = {"type": DataType, "format": DataFormat}.get(key)
                raise self.refusal(
                    f"has '{name}' with {key} {_shown(here[key], enum)}",
                    f"{_shown(value, enum)}: {layout.dtype}:{layout.format} of {layout.shape}, as "
                    "its sidecar says",
                )


def _layout(told: Mapping[str, Any]) -> TensorLayout:
    """Read a tensor of the sidecar.

    Raises:
        LookupError, TypeError, ValueError: it is none.
        EngineError: a format that this package does not read.
    """
    shape, dtype = tuple(int(n) for n in told["shape"]), str(told["type"])
    if dtype not in _TYPES or not shape or min(shape) < 1:
        raise ValueError(f"{dtype} {shape}")
    return TensorLayout(shape, dtype, str(told["format"]))


def _shown(value: int, enum: type[IntEnum] | None) -> str:
    known = enum is not None and value in enum.__members__.values()
    return enum(value).name if enum is not None and known else str(value)
