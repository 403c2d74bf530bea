# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Engine: a built network, and everything that a Detector uses of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.model_spec import ModelSpec


class Engine(ABC):
    """A built network bound to one Device, with input and output buffers of its own.

    A Detector writes the first `batch` images into `input`, calls `run(batch)`, and reads the
    first `batch` entries of `outputs`. The buffers are allocated once and keep their addresses,
    so that a CUDA graph may be captured around them. An engine is used by one thread at a time.

    Attributes:
        device: where it runs.
        spec: what it takes and gives.
        max_batch: largest batch of one run.
        memory: where the buffers are: numpy arrays ("host") or cupy arrays ("cuda").
        input: input buffer (max_batch, 3, H, W), dtype spec.input_dtype, numpy or cupy; rows may
            be padded (strides). In a packed `input_format` it is the packed array instead.
        outputs: output buffers by name, first axis max_batch, numpy or cupy.
        input_format: "linear", "dla_linear", "dla_hwc4", "chw16" or "chw32", as in TensorLayout.
        input_scale: real value of one step of an int8 input; None for other types, or where it is
            not known.
        output_scales: of each int8 output, by name: the real value of one step, where it is known.
        stream: the cupy.cuda.Stream on which it works; None where run() takes any.
    """

    device: Device
    spec: ModelSpec
    max_batch: int
    memory: Literal["host", "cuda"] = "host"
    input: Any
    outputs: Mapping[str, Any]
    input_format: str = "linear"
    input_scale: float | None = None
    output_scales: Mapping[str, float] = MappingProxyType({})
    stream: Any = None

    @property
    def capture_refusal(self) -> str:
        """Why run() may not be captured into a CUDA graph; empty if it may.

        A run of the same batch comes before the capture: the first one may allocate or compile.
        """
        if self.device.kind == "dla":  # cuDLA refuses a stream that is being captured
            return "a DLA's work cannot be captured"
        return "there is no CUDA in it"

    @abstractmethod
    def run(self, batch: int, stream: Any = None) -> None:
        """Infer the first `batch` images.

        Host engines return when the outputs are written. CUDA engines enqueue on `stream` (a
        cupy.cuda.Stream, None for the current one) and return at once.

        Raises:
            OutOfMemoryError, DeviceBrokenError: see core.faults.
            EngineError: the run failed, the batch is out of range, or the engine is closed.
        """

    def raise_late_fault(self) -> None:
        """Raise what a run that has ended since failed with, where the engine learns of it late.

        Called when the results of a run have been waited for.

        Raises:
            OutOfMemoryError, DeviceBrokenError, EngineError: as run().
        """
        return None

    def keep_compiled(self) -> None:
        """Keep for the next process what the first runs compiled; by default there is nothing."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Release the engine's resources; it cannot be used afterwards."""

    def check_batch(self, batch: int, *, is_open: bool, least: int = 1) -> None:
        """Refuse a run of a closed engine or of a batch that it does not take.

        Raises:
            EngineError: see above.
        """
        if not is_open:
            raise EngineError("run() of a closed engine", expected="an open one")
        if not least <= batch <= self.max_batch:
            raise EngineError(
                f"batch {batch}",
                expected=f"{least} to {self.max_batch}, as the engine was made",
                fix="make it for larger batches, or split the batch",
            )
