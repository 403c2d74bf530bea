# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From a model to a running TensorRT engine: the cache, the builder and the runtime together."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from yolox_trt.compiler.tensorrt.build import EngineBuilder
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan, warn_of_batch
from yolox_trt.compiler.tensorrt.request import BuildRequest
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.faults import EngineFileError
from yolox_trt.core.files import make_plain_folder, read_trusted, write_trusted
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.core.option import parse_path
from yolox_trt.engines.cache import CacheEntry, EngineCache
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.engine_file import (
    EngineFile,
    is_engine_file,
    read_engine,
    refuse_engine,
    writing_to,
)
from yolox_trt.engines.tensorrt import TensorRTEngine
from yolox_trt.engines.trt_api import ProgressCallback, TensorRTApi, load_api

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger("yolox_trt.build")

_Engine = TypeVar("_Engine", bound=Engine)


def load_tensorrt_engine(
    model: Path | str | onnx.ModelProto,
    device: Device,
    options: BuildOptions | None = None,
    cache: EngineCache | Path | str | None = None,
    on_progress: ProgressCallback | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
) -> TensorRTEngine:
    """Return a running engine: from the cache, or built now, or a built file.

    Args:
        model: ONNX file, loaded ONNX model, or an engine file with its sidecar.
        device: gpu, gpu:N or dlaN.
        options: what to build; its device does not count. An ONNX file with another batch than
            max_batch built in is opened for it (not for the DLA). Where that cannot be, it is
            logged and the file's own batch taken. Not used for engine files.
        cache: EngineCache, or its folder; None for the default folder.
        on_progress: on_progress(fraction 0..1, phase) while the engine is built.
        preprocessing: instead of the model's own.
        class_names: instead of the model's own.

    Raises:
        ModelError, ConfigurationError, EngineError, DeviceError, MissingDependencyError: see
            BuildPlan, EngineBuilder and TensorRTEngine.
    """
    return load_engine(
        model,
        device,
        options or BuildOptions(),
        TensorRTEngine,
        cache,
        on_progress,
        preprocessing=preprocessing,
        class_names=class_names,
    )


def load_engine(
    model: Path | str | onnx.ModelProto,
    device: Device,
    options: BuildOptions,
    make: Callable[..., _Engine],
    cache: EngineCache | Path | str | None = None,
    on_progress: ProgressCallback | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
) -> _Engine:
    """Return a running engine as load_tensorrt_engine does, of the class that is given.

    Args:
        model: see load_tensorrt_engine, and all but `make` likewise.
        device: gpu, gpu:N or dlaN.
        options: what to build; its device does not count.
        make: make(file, device=..., lease=...) is the engine: TensorRTEngine, or one of cuDLA's.
        cache: EngineCache, or its folder; None for the default folder.
        on_progress: on_progress(fraction 0..1, phase) while the engine is built.
        preprocessing: instead of the model's own.
        class_names: instead of the model's own.
    """
    if isinstance(model, str | Path) and is_engine_file(model):
        file = read_engine(Path(model))
        return make(_described(file, preprocessing, class_names), device=device)
    if not isinstance(cache, EngineCache):
        cache = EngineCache(cache)
    path = _as_file(model, cache)
    options = dataclasses.replace(options, device=device)
    api = load_api(options.flavour)

    rebuild = ""
    while True:
        entry = cached_engine(path, options, cache, on_progress, api=api, rebuild=rebuild)
        file = _described(entry.file, preprocessing, class_names)
        try:
            return make(file, device=device, lease=entry.lease)
        except EngineFileError as error:
            if entry.built or rebuild:
                raise
            # The files agree with each other, and the runtime refuses them all the same.
            _log.warning("cached engine %s is built again: %s", entry.file.path, error)
            rebuild = error.found


def cached_engine(
    model: Path,
    options: BuildOptions,
    cache: EngineCache,
    on_progress: ProgressCallback | None = None,
    *,
    api: TensorRTApi | None = None,
    fit_batch: bool = True,
    rebuild: str = "",
) -> CacheEntry:
    """Return a model's engine from the cache, building it if need be.

    The cache is asked with the file's hash and the options first: a model whose engine is there
    is not opened.

    Args:
        model: ONNX file.
        options: what to build.
        cache: where it is, or will be.
        on_progress: on_progress(fraction 0..1, phase) while it is built.
        api: TensorRT; None for options.flavour.
        fit_batch: see BuildPlan.
        rebuild: a reason to build although the engine is there; empty for none.

    Raises:
        ModelError, ConfigurationError, EngineError, DeviceError, MissingDependencyError: see
            BuildPlan, EngineBuilder and EngineCache.
    """
    api = api or load_api(options.flavour)
    refuse_engine(model)
    if not rebuild:
        request = BuildRequest(model, options, api, fit_batch=fit_batch)
        entry = cache.find_requested(
            request.key, name=model.stem, model=model, own=request.file_sha256
        )
        if entry is not None:
            largest = entry.file.fingerprint.batch[2]
            if options.max_batch not in (None, largest):
                warn_of_batch(model, largest, options)
            return entry
    plan = BuildPlan(model, options, api=api, fit_batch=fit_batch)
    entry = cache.get_or_build(
        plan.fingerprint,
        EngineBuilder(plan, on_progress).build,
        name=model.stem,
        on_progress=on_progress,
        rebuild=rebuild,
    )
    cache.remember(
        plan.request.key, plan.fingerprint, name=model.stem, external_files=plan.external_files
    )
    return entry


def _described(
    file: EngineFile, preprocessing: Preprocessing | None, class_names: Sequence[str] | None
) -> EngineFile:
    changes: dict[str, Any] = {}
    if preprocessing is not None:
        changes["preprocessing"] = preprocessing
    if class_names is not None:
        if len(class_names) != file.spec.num_classes:
            raise ConfigurationError(
                f"{len(class_names)} class names",
                expected=f"{file.spec.num_classes}, as {file.path.name} has classes",
                fix="give the model's own label file",
            )
        changes["class_names"] = tuple(class_names)
    if not changes:
        return file
    return dataclasses.replace(file, spec=dataclasses.replace(file.spec, **changes))


def _as_file(model: Path | str | onnx.ModelProto, cache: EngineCache) -> Path:
    """Return the model's path; a loaded model is written into the cache under its SHA-256."""
    if isinstance(model, str | Path):
        return parse_path(str(model))
    data = model.SerializeToString()
    path = cache.folder / "models" / f"{hashlib.sha256(data).hexdigest()[:16]}.onnx"
    with contextlib.suppress(OSError):
        if read_trusted(path) == data:
            os.utime(path)  # copies that were not used for a day are removed
            return path
    with writing_to(cache.folder):
        make_plain_folder(path.parent)
        write_trusted(path, data)
    return path
