# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""From a model to a running TensorRT engine: the cache, the builder and the runtime together."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.compiler.tensorrt.build import EngineBuilder
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.compiler.tensorrt.plan import BuildPlan
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError, EngineError, ModelError
from yolox_trt.core.files import write_atomically
from yolox_trt.core.model_spec import Preprocessing
from yolox_trt.engines.cache import CacheEntry, EngineCache
from yolox_trt.engines.engine_file import EngineFile, cannot_write, is_engine_file, read_engine
from yolox_trt.engines.tensorrt import TensorRTEngine
from yolox_trt.engines.trt_api import ProgressCallback, TensorRTApi
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger("yolox_trt.build")


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
    if isinstance(model, str | Path) and is_engine_file(model):
        file = read_engine(Path(model))
        return TensorRTEngine(_described(file, preprocessing, class_names), device=device)
    if not isinstance(cache, EngineCache):
        cache = EngineCache(cache)
    path = _as_file(model, cache)
    plan = make_plan(path, device, options)
    entry = cached_engine(plan, cache, on_progress)
    try:
        return _load(entry, plan, device, preprocessing, class_names)
    except EngineError as error:
        if entry.built:
            raise
        # The files agree with each other, and TensorRT refuses them all the same.
        _log.warning("cached engine %s is built again: %s", entry.file.path, error)
        entry = cached_engine(plan, cache, on_progress, rebuild=error.found)
    return _load(entry, plan, device, preprocessing, class_names)


def cached_engine(
    plan: BuildPlan,
    cache: EngineCache,
    on_progress: ProgressCallback | None = None,
    *,
    rebuild: str = "",
) -> CacheEntry:
    """Return the plan's engine from the cache, building it if need be (see EngineCache)."""
    return cache.get_or_build(
        plan.fingerprint,
        EngineBuilder(plan, on_progress).build,
        name=plan.name,
        on_progress=on_progress,
        rebuild=rebuild,
    )


def make_plan(
    model: Path,
    device: Device,
    options: BuildOptions | None = None,
    *,
    api: TensorRTApi | None = None,
) -> BuildPlan:
    """Return the plan of a model on a device; see load_tensorrt_engine for the arguments."""
    options = dataclasses.replace(options or BuildOptions(), device=device)
    fixed = read_spec(model, input_size=options.input_size).batch
    if device.kind == "dla" and (options.max_batch or 1) > 1 and options.max_batch != fixed:
        _log.info("%s runs with batch %d: batches gain nothing on the DLA", device, fixed or 1)
        options = _with_batch(options, fixed or 1)
    try:
        return BuildPlan(model, options, api=api)
    except ModelError as error:
        if fixed is None or options.max_batch in (None, fixed):
            raise
        _log.warning(
            "%s runs with batch %d, not %d: %s", model.name, fixed, options.max_batch, error
        )
    return BuildPlan(model, _with_batch(options, fixed), api=api)


def _with_batch(options: BuildOptions, batch: int) -> BuildOptions:
    return dataclasses.replace(options, min_batch=None, opt_batch=None, max_batch=batch)


def _load(
    entry: CacheEntry,
    plan: BuildPlan,
    device: Device,
    preprocessing: Preprocessing | None,
    class_names: Sequence[str] | None,
) -> TensorRTEngine:
    file = _described(entry.file, preprocessing, class_names)
    return TensorRTEngine(file, device=device, api=plan.api, lease=entry.lease)


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
        return Path(model).expanduser()
    data = model.SerializeToString()
    path = cache.folder / "models" / f"{hashlib.sha256(data).hexdigest()[:16]}.onnx"
    with contextlib.suppress(OSError):
        os.utime(path)  # copies that were not used for a day are removed
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise cannot_write(cache.folder, error) from error
    return path
