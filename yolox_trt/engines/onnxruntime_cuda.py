# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the GPU: IO binding to CuPy memory, on a stream of its own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError, MissingDependencyError
from yolox_trt.core.faults import library_fault
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.core.optional import require
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.onnxruntime import check_output_batch, resolve_batch, run_bound
from yolox_trt.graph.onnx_session import make_session
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx

_PROVIDER = "CUDAExecutionProvider"
#: ONNX Runtime's name of the memory that buffers are bound in.
_MEMORY = "cuda"
#: First version whose captured runs read nothing that was freed; 1.31.1 was run so, on an H100.
CAPTURABLE_SINCE = (1, 31)


def require_cuda_runtime(device: Device) -> tuple[Any, Any]:
    """Return CuPy and ONNX Runtime where they can run a network on a GPU; no model is needed.

    Raises:
        EngineError: the device is no GPU.
        MissingDependencyError: onnxruntime-gpu or CuPy is missing.
        DeviceError: there is no such GPU.
    """
    if device.kind != "gpu":
        raise EngineError(
            f"ONNX Runtime's CUDA provider on {device}",
            expected="a GPU",
            fix="use a TensorRT engine for the DLA",
        )
    cupy = require("cupy", purpose="running ONNX Runtime on the GPU")
    runtime = _require_cuda_provider()
    cuda_driver.require_gpu(
        device,
        expected="an NVIDIA GPU and its driver",
        fix="check nvidia-smi, or use the device cpu",
    )
    return cupy, runtime


class OnnxRuntimeCudaEngine(Engine):
    """A network in ONNX Runtime's CUDA execution provider.

    Buffers are cupy arrays, bound once: no value passes through the host. run() enqueues on
    `stream` and returns, so that a CUDA graph may be captured around it once it has run twice
    with the same batch (CudaDetector does both, and keeps a graph for each batch).

    A model with an open batch has a session for each of the sizes 1, 2, 4, ... max_batch, and a
    batch runs in the next larger one. The provider plans its convolutions for one shape and
    forgets the last: on an H100 the 113 of the shipped model take 1.2 s each time that the batch
    changes, in a session for all. Each session holds the weights.

    Args:
        model: path of an ONNX file, or the model itself.
        device: the GPU.
        spec: its description; None reads it from the graph.
        max_batch: largest batch of one run, for a model with an open batch; None takes the
            model's own batch (1 where it is open).
        tf32: whether FP32 convolutions may round their inputs to TF32 (10 bits of mantissa), as
            ONNX Runtime does by default: on Ampere and later several times faster.

    Raises:
        ModelError: the model is not a YOLOX.
        EngineError: ONNX Runtime cannot run it on the GPU.
        OutOfMemoryError, DeviceBrokenError: see core.faults.
        DeviceError: there is no such GPU.
        ConfigurationError: max_batch contradicts the model's batch.
        MissingDependencyError: onnxruntime-gpu, its CUDA libraries or CuPy is missing.
    """

    memory = "cuda"

    def __init__(
        self,
        model: str | Path | onnx.ModelProto,
        *,
        device: Device | None = None,
        spec: ModelSpec | None = None,
        max_batch: int | None = None,
        tf32: bool = True,
    ) -> None:
        self.device = device or Device("gpu")
        self._cupy, self._runtime = require_cuda_runtime(self.device)
        self.spec = spec or read_spec(model)
        self.max_batch = resolve_batch(self.spec, max_batch)
        with self._cupy.cuda.Device(self.device.index):
            self.stream: Any = self._cupy.cuda.Stream(non_blocking=True)
            provider_options = {
                "device_id": str(self.device.index),
                "user_compute_stream": str(self.stream.ptr),
                "do_copy_in_default_stream": "1",
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "use_tf32": "1" if tf32 else "0",
            }
            self._sessions: dict[int, Any] = {}
            for size in _sizes(self.spec.batch, self.max_batch):
                # One thread: the work is the GPU's.
                self._sessions[size] = make_session(
                    model, [(_PROVIDER, provider_options)], intra_op_num_threads=1
                )
            _check_provider(self._sessions[self.max_batch])
            #: Size of the session that runs a batch.
            self._size_of = [
                min(s for s in self._sessions if s >= batch) for batch in range(self.max_batch + 1)
            ]
            shape = (self.max_batch, 3, self.spec.input_height, self.spec.input_width)
            with self.stream:  # on which the zeros are written before any run reads them
                self.input = self._cupy.zeros(shape, np.dtype(self.spec.input_dtype))
                self.outputs = self._allocate_outputs()
            self.stream.synchronize()
            # The provider's stream and this one may come in any order of events.
            self._before = self._cupy.cuda.Event(disable_timing=True)
            self._after = self._cupy.cuda.Event(disable_timing=True)
        self._bound = {size: self._bind(size, self.outputs) for size in self._sessions}
        # run() shall return when the work is enqueued: the detector waits for its own event.
        self._run_options = self._runtime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @property
    def capture_refusal(self) -> str:
        """Why run() may not be captured; empty if it may.

        Before ONNX Runtime 1.31 what a captured run copies to the device (the tables of Concat and
        Split) was read from host memory that was freed when the capture ended
        (microsoft/onnxruntime, pull request 32121).
        """
        version = self._runtime.__version__
        if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < CAPTURABLE_SINCE:
            return f"ONNX Runtime {version} frees what a captured run reads; 1.31 and later do not"
        return ""

    def run(self, batch: int, stream: Any = None) -> None:
        """Enqueue the first `batch` images; the work on `stream` before it is waited for.

        Raises:
            OutOfMemoryError, DeviceBrokenError: see core.faults.
            EngineError: ONNX Runtime failed, or the engine is closed.
        """
        self.check_batch(batch, is_open=bool(self._sessions))
        size = self._size_of[batch]
        chosen = stream or self._cupy.cuda.get_current_stream()
        foreign = chosen.ptr != self.stream.ptr
        if foreign:
            self._before.record(chosen)
            self.stream.wait_event(self._before)
        run_bound(self._sessions[size], self._bound[size], self._run_options)
        if foreign:
            self._after.record(self.stream)
            chosen.wait_event(self._after)

    def close(self) -> None:
        """Release the sessions; the buffers live as long as somebody holds them."""
        if self._sessions:
            with contextlib.suppress(Exception):  # the device may be lost
                self.stream.synchronize()
        self._bound.clear()
        self._sessions.clear()

    def _allocate_outputs(self) -> dict[str, Any]:
        """Run every session once on zeros, so that it plans, and make buffers for the largest."""
        outputs: dict[str, Any] = {}
        for size, session in self._sessions.items():
            binding = self._bind(size, outputs=None)
            try:
                session.run_with_iobinding(binding)
                values = binding.get_outputs()
            except Exception as error:
                raise library_fault(
                    error,
                    f"the model does not run in ONNX Runtime on {self.device}",
                    expected="a model of which the CUDA provider knows every operator",
                    fix="use TensorRT, or device cpu",
                ) from error
            for name, value in zip(self.spec.tensor_names, values, strict=True):
                shape = tuple(value.shape())
                check_output_batch(name, shape, size)
                outputs[name] = self._cupy.zeros(shape, _numpy_type(value.data_type()))
        return outputs

    def _bind(self, size: int, outputs: Mapping[str, Any] | None) -> Any:
        """Bind a session to the input and to output buffers; None: to memory that it takes."""
        binding = self._sessions[size].io_binding()
        place = (_MEMORY, self.device.index)

        def layout(array: Any) -> tuple[Any, ...]:
            return np.dtype(array.dtype).type, array[:size].shape, array.data.ptr

        binding.bind_input(self.spec.input_name, *place, *layout(self.input))
        for name in self.spec.tensor_names:
            binding.bind_output(name, *place, *(layout(outputs[name]) if outputs else ()))
        return binding


def _sizes(fixed: int | None, max_batch: int) -> list[int]:
    """Return the batches that have a session, the largest last."""
    if fixed is not None:
        return [max_batch]
    powers = [1 << n for n in range(max_batch.bit_length()) if 1 << n < max_batch]
    return [*powers, max_batch]


def _check_provider(session: Any) -> None:
    """Refuse a session that fell back to the CPU: ONNX Runtime only warns of it.

    Raises:
        MissingDependencyError: the CUDA provider's libraries could not be loaded.
    """
    found = session.get_providers()
    if _PROVIDER not in found:
        raise MissingDependencyError(
            f"ONNX Runtime could not load its CUDA provider, and runs on {', '.join(found)}",
            expected="CUDA and cuDNN of the versions that this onnxruntime-gpu was built for",
            fix="pip install 'onnxruntime-gpu[cuda,cudnn]', or see its log for the library",
        )


def _require_cuda_provider() -> Any:
    runtime = require("onnxruntime", purpose="running ONNX models")
    # The wheels of CUDA and cuDNN that a pip environment holds (torch's, say) are found by this.
    preload = getattr(runtime, "preload_dlls", None)
    if preload is not None:
        preload()
    if _PROVIDER not in runtime.get_available_providers():
        raise MissingDependencyError(
            f"onnxruntime {runtime.__version__} without the CUDA provider",
            expected="onnxruntime-gpu",
            fix="pip uninstall onnxruntime; pip install onnxruntime-gpu",
        )
    return runtime


def _numpy_type(name: str) -> Any:
    """Return the numpy type of ONNX Runtime's type name, such as 'tensor(float16)'."""
    element = name.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(element, element))
