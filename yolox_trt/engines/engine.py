# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Engine: the protocol between a Detector and a built network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from yolox_trt.core.device import Device
from yolox_trt.core.model_spec import ModelSpec


@runtime_checkable
class Engine(Protocol):
    """A built network bound to one Device, with input and output buffers of its own.

    A Detector writes the first `batch` images into `input`, calls `run(batch)`, and reads the
    first `batch` entries of `outputs`. The buffers are allocated once and keep their addresses,
    so that a CUDA graph may be captured around them. An engine is used by one thread at a time.
    """

    @property
    def device(self) -> Device:
        """Where it runs."""
        ...

    @property
    def spec(self) -> ModelSpec:
        """What it takes and gives."""
        ...

    @property
    def max_batch(self) -> int:
        """Largest batch of one run."""
        ...

    @property
    def memory(self) -> Literal["host", "cuda"]:
        """Where the buffers are: numpy arrays ("host") or cupy arrays ("cuda")."""
        ...

    @property
    def input(self) -> Any:
        """Input buffer (max_batch, 3, H, W), dtype spec.input_dtype, numpy or cupy."""
        ...

    @property
    def outputs(self) -> Mapping[str, Any]:
        """Output buffers by name, first axis max_batch, numpy or cupy."""
        ...

    @property
    def graph_capturable(self) -> bool:
        """Whether run() may be captured into a CUDA graph (never for DLA engines)."""
        ...

    def run(self, batch: int, stream: Any = None) -> None:
        """Infer the first `batch` images.

        Host engines return when the outputs are written. CUDA engines enqueue on `stream` (a
        cupy.cuda.Stream) and return at once.

        Raises:
            EngineError: the run failed.
        """
        ...

    def close(self) -> None:
        """Release the engine's resources; it cannot be used afterwards."""
        ...
