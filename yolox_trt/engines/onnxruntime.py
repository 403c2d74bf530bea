# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: a host engine with preallocated buffers and IO binding."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError
from yolox_trt.core.faults import library_fault
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.engines.engine import Engine
from yolox_trt.graph.onnx_session import NO_SPINNING, make_session
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx


class OnnxRuntimeEngine(Engine):
    """A network in ONNX Runtime on the CPU.

    Input and outputs are bound once to numpy arrays of its own; a run allocates nothing in Python.
    Each run works in the calling thread, helped by those of the session.

    Args:
        model: path of an ONNX file, or the model itself.
        spec: its description; None reads it from the graph.
        max_batch: largest batch of one run, for a model with an open batch; None takes the
            model's own batch (1 where it is open).
        intra_op_num_threads: most threads of one run, the calling one included; None takes
            `available_cores()`.

    Raises:
        ModelError: the model is not a YOLOX.
        EngineError: ONNX Runtime cannot run it (EfficientNMS_TRT is TensorRT's alone).
        ConfigurationError: max_batch contradicts the model's batch.
        MissingDependencyError: onnxruntime is missing.
    """

    def __init__(
        self,
        model: str | Path | onnx.ModelProto,
        *,
        spec: ModelSpec | None = None,
        max_batch: int | None = None,
        intra_op_num_threads: int | None = None,
    ) -> None:
        self.device = Device("cpu")
        self.spec = spec or read_spec(model)
        self.max_batch = resolve_batch(self.spec, max_batch)
        threads = intra_op_num_threads or available_cores()
        self._session: Any = make_session(
            model,
            ["CPUExecutionProvider"],
            intra_op_num_threads=threads,
            options=NO_SPINNING,
        )
        # np.full touches the pages at once, and not when the first large batch comes.
        shape = (self.max_batch, 3, self.spec.input_height, self.spec.input_width)
        self.input: npt.NDArray[Any] = np.full(shape, 0, self.spec.input_dtype)
        self.outputs = self._allocate_outputs()
        # A fixed batch always runs whole; an open one is bound for each size when first used.
        self._bindings: dict[int, Any] = {}
        self._binding(self.max_batch)

    def run(self, batch: int, stream: Any = None) -> None:
        """Infer the first `batch` images of `input`; the outputs are written on return.

        Raises:
            OutOfMemoryError: memory is full.
            EngineError: ONNX Runtime failed, or the engine is closed.
        """
        self.check_batch(batch, is_open=self._session is not None)
        size = batch if self.spec.batch is None else self.max_batch
        run_bound(self._session, self._binding(size))

    def twin(self) -> OnnxRuntimeEngine:
        """Return an engine of the same session with buffers of its own: both may run at a time.

        They share the weights, and the session's threads.
        """
        twin = copy.copy(self)
        twin.input = self.input.copy()
        twin.outputs = {name: value.copy() for name, value in self.outputs.items()}
        twin._bindings = {}
        twin._binding(self.max_batch)
        return twin

    def close(self) -> None:
        """Release the session; the buffers live as long as somebody holds them."""
        self._bindings.clear()
        self._session = None

    def _allocate_outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Run once on zeros to learn every output's shape, and make buffers of these shapes."""
        try:
            values = self._session.run(
                list(self.spec.tensor_names), {self.spec.input_name: self.input}
            )
        except Exception as error:
            raise library_fault(
                error,
                "the model does not run in ONNX Runtime",
                expected="a model that runs on the CPU",
                fix="export it again, or use a TensorRT engine on the GPU",
            ) from error
        outputs = {}
        for name, value in zip(self.spec.tensor_names, values, strict=True):
            check_output_batch(name, value.shape, self.max_batch)
            outputs[name] = np.full(value.shape, 0, value.dtype)
        return outputs

    def _binding(self, batch: int) -> Any:
        binding = self._bindings.get(batch)
        if binding is None:
            binding = self._session.io_binding()
            image = self.input[:batch]
            values = {self.spec.input_name: image} | {
                name: self.outputs[name][:batch] for name in self.spec.tensor_names
            }
            for name, value in values.items():
                bind = binding.bind_input if value is image else binding.bind_output
                bind(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
            self._bindings[batch] = binding
        return binding


def resolve_batch(spec: ModelSpec, max_batch: int | None) -> int:
    """Return the largest batch of one run, from the model and what is asked for.

    Raises:
        ConfigurationError: below 1, or another batch than the model fixes.
    """
    batch = max_batch or spec.batch or 1
    if batch < 1 or (spec.batch is not None and batch != spec.batch):
        raise ConfigurationError(
            f"max_batch = {max_batch}",
            expected=f"{spec.batch}, which the model fixes" if spec.batch else "at least 1",
            fix="leave max_batch out, or open the batch: yolox_trt optimize MODEL --open-batch",
        )
    return batch


def run_bound(session: Any, *arguments: Any) -> None:
    """Run a session by its IO binding.

    Raises:
        OutOfMemoryError, DeviceBrokenError: see core.faults.
        EngineError: ONNX Runtime failed.
    """
    try:
        session.run_with_iobinding(*arguments)
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise library_fault(
            error,
            "ONNX Runtime failed",
            expected="the network to run",
            fix="check the model with onnx.checker",
        ) from error


def check_output_batch(name: str, shape: tuple[int, ...], batch: int) -> None:
    """Refuse an output whose first axis is not the batch.

    Raises:
        EngineError: see above.
    """
    if shape[:1] != (batch,):
        raise EngineError(
            f"output {name} of shape {shape} for a batch of {batch}",
            expected="the batch as first axis",
            fix="export the model again with this batch, or with an open one",
        )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        return os.cpu_count() or 1
