# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BuildRequest: what an engine is asked for, before anybody opens the model."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.fingerprint import file_sha256
from yolox_trt.engines.trt_api import TensorRTApi
from yolox_trt.engines.trt_features import TENSORRT_RTX
from yolox_trt.graph import batch, float16, input_size, int8_io

#: Counts in the key: raise it when BuildPlan makes another plan of the same request.
REVISION = 2


class BuildRequest:
    """The file, the options and the machine: equal requests give one plan, and so one engine.

    Args:
        model: ONNX file.
        options: what to build.
        api: TensorRT.
        fit_batch: see BuildPlan.

    Attributes:
        file_sha256: of the ONNX file alone, without weights that it keeps in other files.
        calibration_sha256: of the calibration cache or the dynamic ranges; None without.
        compute_capability: that the engine is for.

    Raises:
        EngineError: a file cannot be read.
        DeviceError: there is no such GPU, and this TensorRT builds on the target only.
        ConfigurationError: hardware_compatible on a GPU older than Ampere.
    """

    def __init__(
        self, model: Path, options: BuildOptions, api: TensorRTApi, *, fit_batch: bool = False
    ) -> None:
        self.model = model
        self.options = options
        self.api = api
        self.fit_batch = fit_batch
        self.file_sha256 = file_sha256(model)
        self.calibration_source = options.calibration_cache or options.dynamic_ranges
        self.calibration_sha256 = (
            file_sha256(self.calibration_source) if self.calibration_source else None
        )

    @property
    def device(self) -> str:
        """Device as it counts for an engine: a GPU by its compute capability, not by its number."""
        return str(self.options.device) if self.options.on_dla else "gpu"

    @cached_property
    def compute_capability(self) -> str:
        """Compute capability that the engine is for, such as "8.7", "8.0+" or "portable"."""
        options = self.options
        if self.api.flavour == TENSORRT_RTX:
            return ",".join(options.compute_capabilities) or "portable"
        found = cuda_driver.require_gpu(
            options.device,
            expected=f"a GPU: {self.api} builds on the machine that runs the engine",
            fix="build on the target, or with TensorRT-RTX (pip install tensorrt-rtx-cu13), which "
            "builds without a GPU",
        )
        if options.hardware_compatible and int(found.partition(".")[0]) < 8:
            compatible = options_of(BuildOptions)["hardware_compatible"]
            raise ConfigurationError(
                (compatible, f" on a GPU of compute capability {found}"),
                expected="8.0 or newer: engines for other GPUs are built on Ampere and later",
                fix=("drop ", compatible, ", and build on each GPU"),
            )
        return "8.0+" if options.hardware_compatible else found

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that decides about the plan, in hexadecimal."""
        options = self.options
        values: dict[str, Any] = {
            "onnx": self.file_sha256,
            "calibration": self.calibration_sha256,
            "device": self.device,
            "tensorrt": [self.api.flavour, self.api.fingerprint_version, self.compute_capability],
            "options": options.fingerprint_options(),
            "precision": options.precision,
            "batch": [options.min_batch, options.opt_batch, options.max_batch, self.fit_batch],
            "input_size": options.input_size,
            "revisions": [
                REVISION,
                batch.REVISION,
                float16.REVISION,
                input_size.REVISION,
                int8_io.REVISION,
            ],
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
