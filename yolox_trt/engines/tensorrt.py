# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRTEngine: a built TensorRT engine on the GPU or a DLA core."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import statistics
from pathlib import Path
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import EngineError
from yolox_trt.core.faults import EngineFileError, library_fault
from yolox_trt.core.files import read_trusted, write_trusted
from yolox_trt.core.optional import require
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.cache_pruning import RUNTIME_CACHE
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.engine_file import EngineFile
from yolox_trt.engines.file_lock import FileLock
from yolox_trt.engines.tensor_layout import TensorLayout
from yolox_trt.engines.trt_api import (
    TensorRTApi,
    device_memory_of,
    enum_name,
    load_api,
    messages_text,
    no_such_core,
)

_log = logging.getLogger("yolox_trt.tensorrt")


class _ProfileTakenError(EngineError):
    """Another execution context has the engine's only profile."""


class TensorRTEngine(Engine):
    """A TensorRT engine with its buffers in CUDA memory.

    Runs are enqueued with execute_async_v3 on the caller's stream, one after another. Each batch
    has an execution context of its own, made when it first comes: a CUDA graph holds the state of
    the context that it was captured from, which another shape would change under it. The contexts
    share the buffers and the scratch memory; input shape and addresses are set once for each.

    Args:
        file: the engine, its sidecar read and its checksum checked (EngineCache, read_engine).
        device: where it is to run; None for the device that it was built for, GPU 0.
        api: TensorRT; None for the flavour that built it.
        lease: the engine's lease of the cache (CacheEntry), released when the engine is closed.

    Raises:
        EngineError: TensorRT refuses the engine, or it was built for another device, GPU or
            TensorRT.
        DeviceError: the GPU or DLA core is not there.
        MissingDependencyError: TensorRT or CuPy is not installed.
    """

    memory = "cuda"

    def __init__(
        self,
        file: EngineFile,
        *,
        device: Device | None = None,
        api: TensorRTApi | None = None,
        lease: FileLock | None = None,
    ) -> None:
        self._lease = lease
        self.file = file
        self.device = device or Device.parse(file.fingerprint.device)
        self._api = api or load_api(file.fingerprint.flavour)
        self._trt = self._api.module
        check_engine_fits(file, self.device, self._api)
        self._cupy: Any = require("cupy", purpose="running TensorRT engines")
        self.spec = file.spec
        self._cuda_index = self.device.cuda_index
        self._closed = False
        self._runtime: Any = None
        self._engine: Any = None
        self._runtime_config: Any = None
        self._runtime_cache: Any = None
        self._contexts: dict[int, Any] = {}
        self._shares_profile = True
        self._context: Any = None  # that of the batch of the last run
        self._scratch: Any = None
        self._batch = -1
        self._streams: dict[int, Any] = {}
        self._buffers: dict[str, Any] = {}
        with self._cupy.cuda.Device(self._cuda_index):
            self._load()
            self._allocate()
            # The buffers' zeros are written on this stream, and runs come on others.
            self._cupy.cuda.get_current_stream().synchronize()

    # ---- Engine

    @property
    def capture_refusal(self) -> str:
        """Why run() may not be captured into a CUDA graph; empty if it may."""
        if self.device.kind == "dla":
            return super().capture_refusal
        if not self._shares_profile:
            return "all batches share one execution context"
        return ""

    def run(self, batch: int, stream: Any = None) -> None:
        """Enqueue the first `batch` images on `stream` (cupy.cuda.Stream; None: the current one).

        An engine with a static batch runs all its images whatever `batch` is.

        Raises:
            OutOfMemoryError, DeviceBrokenError: see core.faults.
            EngineError: the batch is out of range, TensorRT refused the run, or it was closed.
        """
        if batch != self._batch:
            self._set_batch(batch)
        stream = self._cupy.cuda.get_current_stream() if stream is None else stream
        pointer = stream.ptr
        self._streams[pointer] = stream
        # Not collect_messages(): it costs an allocation and a lock, and runs seldom fail.
        if not self._context.execute_async_v3(pointer):
            raise library_fault(
                self._api.last_error(),
                f"{self.file.path.name} on {self.device}: run with batch {batch} was refused",
                fix="see the log; if the device is lost, restart the process",
            )

    def close(self) -> None:
        """Wait for the runs, and release context, engine, runtime and buffers, in this order."""
        if self._closed:
            return
        self._closed = True
        self._batch = -1
        with self._cupy.cuda.Device(self._cuda_index):
            # Not for the whole device: a DLA's task may hang there, and it may not be waited for
            # while another thread captures a graph.
            for stream in self._streams.values():
                with contextlib.suppress(Exception):  # the device may be lost
                    stream.synchronize()
        self._streams = {}
        self.input = None
        self.outputs = {}
        self._buffers = {}
        # TensorRT's order: what was made last goes first.
        self._context = None
        self._contexts = {}
        self._scratch = None
        self._runtime_config = None
        self._runtime_cache = None
        self._engine = None
        self._runtime = None
        if self._lease is not None:
            self._lease.close()

    # ---- more than the protocol

    @property
    def device_memory_bytes(self) -> int:
        """Scratch memory of the execution contexts together, in bytes (without I/O buffers)."""
        return device_memory_of(self._engine)

    def profile_layers(self, batch: int = 1, runs: int = 10) -> dict[str, float]:
        """Measure each layer's time on the device (slower than a run without).

        Returns:
            Layer -> milliseconds, mean over `runs`, in the order of execution. Inputs are what the
            buffers hold.

        Raises:
            EngineError: a run failed.
        """
        profiler = _make_profiler(self._trt)
        self._set_batch(batch)
        self._context.profiler = profiler
        self._context.enqueue_emits_profile = True
        try:
            with self._cupy.cuda.Device(self._cuda_index):
                stream = self._cupy.cuda.Stream(non_blocking=True)
                self.run(batch, stream)
                self._synchronize(stream)
                profiler.times.clear()
                for _ in range(runs):
                    self.run(batch, stream)
                    self._synchronize(stream)
        finally:
            # A profiler cannot be taken off in every version: the next run has another context.
            self._contexts.pop(self._context_key(batch))
            self._context = None
            self._batch = -1
        return {name: statistics.fmean(times) for name, times in profiler.times.items()}

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- parts

    def _load(self) -> None:
        api = self._api
        api.init_plugins()
        data, self.file = self.file.data, self.file.without_data()
        with api.collect_messages() as messages:
            self._runtime = self._trt.Runtime(api.logger)
            if self.device.kind == "dla":
                cores = int(self._runtime.num_DLA_cores)
                if self.device.index >= cores:
                    raise no_such_core(self.device, cores)
                self._runtime.DLA_core = self.device.index
            if self.file.fingerprint.options.get("version_compatible"):
                # Such an engine carries its runtime as code; the checksum has been checked.
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(data)
            if self._engine is None:
                raise library_fault(
                    messages_text(messages),
                    f"{api} does not load {self.file.path}",
                    expected="an engine of this TensorRT and GPU",
                    fix="build the engine again",
                    otherwise=EngineFileError,
                )
            if api.has("runtime_cache"):
                self._load_runtime_cache()

    def _context_key(self, batch: int) -> int:
        """Return the batch whose context runs a batch: without one for each, the largest."""
        return batch if self._dynamic and self._shares_profile else self.max_batch

    def _context_of(self, batch: int) -> Any:
        key = self._context_key(batch)
        if key not in self._contexts:
            with (
                self._cupy.cuda.Device(self._cuda_index),
                self._api.collect_messages() as messages,
            ):
                context = self._make_context()
                if context is None:
                    raise library_fault(
                        messages_text(messages),
                        f"no execution context for {self.file.path}",
                        expected=f"{self.device_memory_bytes} bytes of free device memory",
                        fix="free device memory: fewer engines, a smaller batch",
                    )
                if self._dynamic:
                    self._select_profile(context, messages)
                    self._set_shape(context, key, messages)
            for name, buffer in self._buffers.items():
                self._set_address(context, name, buffer)
            self._contexts[key] = context
        return self._contexts[key]

    def _select_profile(self, context: Any, messages: list[tuple[str, str]]) -> None:
        """Let a context use the engine's profile: an engine's first one does so by itself."""
        if int(context.active_optimization_profile) == 0:
            return
        stream = self._cupy.cuda.get_current_stream()
        if not context.set_optimization_profile_async(0, stream.ptr):
            raise _ProfileTakenError(
                f"a further execution context for {self.file.path} was refused: "
                f"{messages_text(messages)}",
                fix="build the engine again",
            )
        self._synchronize(stream)

    def _set_shape(self, context: Any, batch: int, messages: list[tuple[str, str]]) -> None:
        shape = (batch, *self._image_shape)
        if not context.set_input_shape(self._input_name, shape):
            raise EngineFileError(
                f"input shape {shape} was refused: {messages_text(messages)}",
                fix="build the engine again",
            )

    def _try_sharing(self) -> None:
        """Find out whether every batch may have a context of its own.

        Before TensorRT 10 a profile serves one context, unless the engine was built for more
        (PreviewFeature.PROFILE_SHARING_0806). Then all batches have the one context, whose shape
        follows them, and no graph holds for long.
        """
        reason = ""
        if not self._api.has("profile_sharing"):
            reason = f"{self._api} has one execution context for a batch profile"
        else:
            try:
                self._context_of(self._min_batch)
            except _ProfileTakenError:
                reason = (
                    "it was built without profile sharing; build it again, or `yolox_trt cache "
                    "clear` and start again"
                )
        if reason:
            self._shares_profile = False
            _log.warning(
                "%s: all batches share one execution context, and no CUDA graph is used: %s",
                self.file.path,
                reason,
            )

    def _make_context(self) -> Any:
        """Make a context; those of a dynamic engine share one scratch memory."""
        engine, config = self._engine, self._runtime_config
        if not self._dynamic:
            return engine.create_execution_context(*(() if config is None else (config,)))
        if config is not None:
            config.set_execution_context_allocation_strategy(
                self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
            context = engine.create_execution_context(config)
        elif hasattr(self._trt, "ExecutionContextAllocationStrategy"):  # TensorRT 10
            context = engine.create_execution_context(
                self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            return None
        size = max(self.device_memory_bytes, 1)
        if self._scratch is None:
            self._scratch = self._cupy.empty(size, dtype="uint8")
        pointer = int(self._scratch.data.ptr)
        if hasattr(context, "set_device_memory"):  # TensorRT 10.1
            context.set_device_memory(pointer, size)
        else:
            context.device_memory = pointer
        return context

    def _allocate(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        if inputs != [self.spec.input_name]:
            raise EngineFileError(
                f"engine {self.file.path} with inputs {inputs}",
                expected=f"one input, '{self.spec.input_name}'",
                fix="build the engine again",
            )
        self._input_name = inputs[0]
        shape = tuple(engine.get_tensor_shape(self._input_name))
        self._dynamic = -1 in shape
        self._min_batch = self.max_batch = int(shape[0])
        if self._dynamic:
            smallest, _, largest = engine.get_tensor_profile_shape(self._input_name, 0)
            self._min_batch, self.max_batch = int(smallest[0]), int(largest[0])
            shape = tuple(largest)
        self._image_shape = tuple(int(n) for n in shape[1:])
        context = self._context_of(self.max_batch)
        layouts = {
            name: TensorLayout(
                shape=tuple(int(n) for n in context.get_tensor_shape(name)),
                dtype=self._api.numpy_dtype(engine.get_tensor_dtype(name), tensor=name),
                format=enum_name(engine.get_tensor_format(name)).lower(),
            )
            for name in names
        }
        for name, layout in layouts.items():
            buffer = self._cupy.zeros(layout.buffer_shape, dtype=layout.dtype)
            self._buffers[name] = buffer
            self._set_address(context, name, buffer)
        order = [n for n in self.spec.tensor_names if n in names]
        if len(order) != len(names) - 1:
            raise EngineFileError(
                f"engine {self.file.path} with tensors {names}",
                expected=f"outputs {list(self.spec.tensor_names)}, as its sidecar says",
                fix="build the engine again",
            )
        views = {name: layouts[name].view(self._buffers[name]) for name in names}
        self.input = views[self._input_name]
        self.outputs = {name: views[name] for name in order}
        layout = layouts[self._input_name]
        self.input_format = layout.format
        scales = self.file.details.get("io_scales", {})
        self.input_scale = scales.get(self._input_name)
        self.output_scales = {name: scales[name] for name in order if name in scales}
        if layout.dtype != self.spec.input_dtype:
            self.spec = dataclasses.replace(self.spec, input_dtype=layout.dtype)
        if self._dynamic and self._min_batch < self.max_batch:
            self._try_sharing()

    @staticmethod
    def _set_address(context: Any, name: str, buffer: Any) -> None:
        if not context.set_tensor_address(name, int(buffer.data.ptr)):
            raise EngineFileError(
                f"address of tensor '{name}' was refused", fix="build the engine again"
            )

    def _set_batch(self, batch: int) -> None:
        least = self._min_batch if self._dynamic else 1
        self.check_batch(batch, is_open=not self._closed, least=least)
        self._context = self._context_of(batch)
        if self._dynamic and not self._shares_profile:
            self._batch = -1
            with self._api.collect_messages() as messages:
                self._set_shape(self._context, batch, messages)
        self._batch = batch

    def _synchronize(self, stream: Any) -> None:
        try:
            stream.synchronize()
        except Exception as error:  # cupy's CUDARuntimeError, which needs cupy to be named
            raise library_fault(
                error,
                f"{self.file.path.name} failed on {self.device}",
                fix="see the log; if the device is lost, restart the process",
            ) from error

    # ---- TensorRT-RTX: kernels are compiled at the first run, and kept beside the engine

    @property
    def _runtime_cache_path(self) -> Path:
        return self.file.path.with_name(self.file.path.name + RUNTIME_CACHE)

    def _load_runtime_cache(self) -> None:
        self._runtime_config = self._engine.create_runtime_config()
        self._runtime_cache = self._runtime_config.create_runtime_cache()
        with contextlib.suppress(OSError):
            data = read_trusted(self._runtime_cache_path)
            if not self._runtime_cache.deserialize(data):
                _log.warning(
                    "%s is not usable; kernels are compiled anew", self._runtime_cache_path
                )
        self._runtime_config.set_runtime_cache(self._runtime_cache)

    def keep_compiled(self) -> None:
        """Write what TensorRT-RTX compiled in the first runs beside the engine."""
        if self._runtime_cache is None:
            return
        try:
            write_trusted(
                self._runtime_cache_path, bytes(memoryview(self._runtime_cache.serialize()))
            )
        except OSError as error:
            _log.warning("compiled kernels are not kept: %s", error)


def check_engine_fits(file: EngineFile, device: Device, api: TensorRTApi) -> None:
    """Refuse an engine that was built for another device, GPU or TensorRT.

    Raises:
        EngineFileError: it does not fit; the text says in what.
        EngineError: it is a DLA standalone loadable.
        DeviceError: the GPU is not there.
    """
    fingerprint = file.fingerprint
    wanted = str(device) if device.kind == "dla" else "gpu"

    def check(
        fits: bool,
        found: str,
        expected: str,
        fix: str = "build it again on this machine: yolox_trt build MODEL",
    ) -> None:
        if not fits:
            raise EngineFileError(f"engine {file.path} {found}", expected=expected, fix=fix)

    if fingerprint.options.get("dla_standalone"):  # built again, it would be one again
        raise EngineError(
            f"engine {file.path} is a DLA standalone loadable",
            expected="an engine: TensorRT's runtime does not run loadables, cuDLA does",
            fix="run it with the engine cudla, or build without --dla-standalone",
        )
    check(
        fingerprint.device == wanted,
        f"for {fingerprint.device}",
        f"one for {wanted}",
        f"yolox_trt build MODEL --device {wanted}",
    )
    check(fingerprint.flavour == api.flavour, f"of {fingerprint.flavour}", api.flavour)
    check(
        api.fingerprint_version == fingerprint.tensorrt_version
        or bool(fingerprint.options.get("version_compatible")),
        f"of TensorRT {fingerprint.tensorrt_version}",
        f"{api.fingerprint_version}, which is installed",
    )
    capability = cuda_driver.require_gpu(
        device,
        expected=f"a GPU for {device}",
        fix="check nvidia-smi, or use the device cpu with the ONNX file",
    )
    targets = fingerprint.compute_capability
    major = int(capability.partition(".")[0])
    check(
        targets in ("portable", "8.0+" if major >= 8 else "") or capability in targets.split(","),
        f"for compute capability {targets}",
        f"{capability}, as {device} has",
    )


def _make_profiler(module: Any) -> Any:
    class Profiler(module.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            # pybind11 trampolines crash when the base class was not initialised.
            module.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()
