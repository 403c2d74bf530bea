# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One adapter over the Python APIs of TensorRT 8.5, 8.6, 10.x, 11.x and TensorRT-RTX."""

from __future__ import annotations

import importlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import (
    DeviceError,
    EngineError,
    Message,
    MissingDependencyError,
    parts_of,
)
from yolox_trt.core.optional import INSTALL_COMMANDS
from yolox_trt.engines.trt_features import FEATURES, TENSORRT, TENSORRT_RTX, Version

_log = logging.getLogger("yolox_trt.tensorrt")

#: Oldest version that has execute_async_v3 and tensor addresses by name.
OLDEST_VERSION: Version = (8, 5)

#: on_progress(fraction 0..1, phase)
ProgressCallback = Callable[[float, str], None]


class TensorRTApi:
    """A TensorRT module, its version, and what of it may be used.

    Args:
        module: `tensorrt`, `tensorrt_rtx`, or something with the same names.

    Raises:
        EngineError: the version is older than 8.5 or cannot be read.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.version_text = str(module.__version__)
        numbers = re.findall(r"\d+", self.version_text)
        self.version: Version = tuple(int(n) for n in numbers[:4])
        name = getattr(module, "__name__", TENSORRT)
        self.flavour = TENSORRT_RTX if "rtx" in name else TENSORRT
        if self.flavour == TENSORRT and self.version < OLDEST_VERSION:
            raise EngineError(
                f"TensorRT {self.version_text}",
                expected="8.5 or newer",
                fix="use JetPack 5.1 or newer, or pip install tensorrt",
            )
        self.logger: Any = _make_logger(module)
        self._plugins_ready = False

    def __str__(self) -> str:
        title = "TensorRT-RTX" if self.flavour == TENSORRT_RTX else "TensorRT"
        return f"{title} {self.version_text}"

    @property
    def fingerprint_version(self) -> str:
        """Version as it counts for an engine file: engines of another patch do not load."""
        return ".".join(str(n) for n in self.version)

    def has(self, feature: str) -> bool:
        """Tell whether this version has a feature of FEATURES, by the table and by its names."""
        entry = FEATURES[feature]
        return entry.covers(self.version, self.flavour) and all(
            self._has_name(name) for name in entry.names.split()
        )

    def require(self, feature: str, *, option: Message) -> None:
        """Refuse an option whose feature this version lacks.

        Args:
            feature: key of FEATURES.
            option: what asks for it, for the error.

        Raises:
            EngineError: with the reason and the way round.
        """
        if self.has(feature):
            return
        entry = FEATURES[feature]
        reason = f" ({entry.reason})" if entry.reason else ""
        raise EngineError(
            (*parts_of(option), f": {self} has no {entry.title}{reason}"), fix=entry.instead
        )

    def _has_name(self, dotted: str) -> bool:
        owner, _, attribute = dotted.partition(".")
        return hasattr(getattr(self.module, owner, None), attribute)

    def init_plugins(self) -> None:
        """Register NVIDIA's plugins (EfficientNMS_TRT among them) once."""
        if not self._plugins_ready:
            self.module.init_libnvinfer_plugins(self.logger, "")
            self._plugins_ready = True

    def has_plugin(self, name: str, version: str = "1") -> bool:
        """Tell whether a plugin is registered, such as EfficientNMS_TRT."""
        self.init_plugins()
        registry = self.module.get_plugin_registry()
        # get_plugin_creator was removed in 11.0; get_creator came in 10.0.
        find = getattr(registry, "get_creator", None) or registry.get_plugin_creator
        with self.collect_messages():
            return find(name, version, "") is not None

    @contextmanager
    def collect_messages(self) -> Iterator[list[tuple[str, str]]]:
        """Collect TensorRT's messages as (severity, text) while in the block.

        Raises:
            BaseException: what a log handler raised meanwhile, KeyboardInterrupt included.
        """
        with self.logger.collecting() as messages:
            yield messages
        failure, self.logger.failure = self.logger.failure, None
        if failure is not None:
            raise failure

    def last_error(self) -> str:
        """Return the last error that TensorRT logged, for runs that fail without a collection."""
        return str(self.logger.last_error) or "TensorRT gave no message"

    def numpy_dtype(self, data_type: Any, *, tensor: str) -> str:
        """Return the numpy name of a tensor's element type.

        Raises:
            EngineError: numpy has no such type (BF16, FP8, FP4, INT4).
        """
        if (name := enum_name(data_type)) not in _NUMPY_NAMES:
            fix = "export the model with FP32 or FP16 inputs and outputs"
            raise EngineError.unknown(f"tensor '{tensor}' of type", name, _NUMPY_NAMES, fix=fix)
        return _NUMPY_NAMES[name]

    def data_type(self, name: str) -> Any:
        """Return trt.DataType of "fp32", "fp16" or "int8"."""
        types = self.module.DataType
        return {"fp32": types.FLOAT, "fp16": types.HALF, "int8": types.INT8}[name]


_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def enum_name(value: Any) -> str:
    """Return the name of an enumeration's value (pybind11 enumerations have `name`)."""
    return str(getattr(value, "name", value)).rpartition(".")[2]


def device_memory_of(engine: Any) -> int:
    """Return the bytes of scratch memory that an ICudaEngine's execution contexts take."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def no_such_core(device: Device, cores: int) -> DeviceError:
    """Return the error of a DLA core that the machine does not have."""
    return DeviceError(
        f"{device}: this machine has {cores} DLA cores",
        expected="a Jetson with DLA (Xavier, Orin NX, AGX Orin; Orin Nano and Thor have none), and "
        "/dev/nvhost-nvdla* in the container",
        fix="use the device gpu, or run the container with --runtime nvidia",
    )


def messages_text(messages: list[tuple[str, str]], limit: int = 5) -> str:
    """Return the errors among collected messages (warnings where there is none), one line each."""
    for wanted in (("ERROR", "INTERNAL_ERROR"), ("WARNING",)):
        chosen = [text.strip() for severity, text in messages if severity in wanted]
        if chosen:
            unique = list(dict.fromkeys(chosen))
            return " | ".join(unique[-limit:])
    return "TensorRT gave no message"


def _make_logger(module: Any) -> Any:
    class Logger(module.ILogger):  # type: ignore[misc]
        """Forward TensorRT's messages to Python logging, and keep them for error texts."""

        def __init__(self) -> None:
            # pybind11 trampolines crash when the base class was not initialised.
            module.ILogger.__init__(self)
            # Builder threads log too, so a message belongs to every open collection.
            self._collections: list[list[tuple[str, str]]] = []
            self._lock = threading.Lock()
            self.last_error = ""
            self.failure: BaseException | None = None
            self._warned: set[str] = set()

        def log(self, severity: Any, message: str) -> None:
            try:
                self._log(enum_name(severity), message)
            except BaseException as error:
                # Ctrl-C among them. It must not unwind through C++; collect_messages raises it.
                self.failure = self.failure or error

        def _log(self, name: str, message: str) -> None:
            if name != "VERBOSE" or message.startswith(LAYERS_MESSAGE):
                with self._lock:
                    for collection in self._collections:
                        collection.append((name, message))
            if name in ("ERROR", "INTERNAL_ERROR"):
                self.last_error = message
            level = _LEVELS.get(name, logging.INFO)
            if name == "WARNING":
                # TensorRT says some of them once a layer.
                level = logging.DEBUG if message in self._warned else level
                self._warned.add(message)
            _log.log(level, "%s", message)

        @contextmanager
        def collecting(self) -> Iterator[list[tuple[str, str]]]:
            messages: list[tuple[str, str]] = []
            with self._lock:
                self._collections.append(messages)
            try:
                yield messages
            finally:
                with self._lock:
                    # By identity: two collections with equal messages are not the same one.
                    self._collections = [c for c in self._collections if c is not messages]

    return Logger()


#: Start of the one verbose message that is kept: the built engine's layers.
LAYERS_MESSAGE = "Layers:"

# TensorRT's INFO is talk of the builder, so it is DEBUG here.
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.NOTSET,
}

_loaded: dict[str, TensorRTApi] = {}
_load_lock = threading.Lock()


def load_api(flavour: str | None = None) -> TensorRTApi:
    """Import TensorRT and return its adapter (one for each flavour and process).

    Args:
        flavour: "tensorrt", "tensorrt_rtx", or None for the first of these that is installed.

    Raises:
        MissingDependencyError: none is installed, or its import fails.
        EngineError: it is older than 8.5.
    """
    if flavour not in (None, TENSORRT, TENSORRT_RTX):
        raise EngineError.unknown("TensorRT flavour", str(flavour), (TENSORRT, TENSORRT_RTX))
    names = (flavour,) if flavour else (TENSORRT, TENSORRT_RTX)
    with _load_lock:
        failures = []
        for name in names:
            if name in _loaded:
                return _loaded[name]
            try:
                module: ModuleType = importlib.import_module(name)
            except (ImportError, OSError) as error:
                failures.append(f"{name}: {error}")
                continue
            if not hasattr(module, "Builder"):
                # The wheel tensorrt-stubs leaves a folder `tensorrt` that Python imports.
                failures.append(f"{name}: type stubs only")
                continue
            _loaded[name] = TensorRTApi(module)
            _log.info("using %s", _loaded[name])
            return _loaded[name]
    raise MissingDependencyError(
        "no TensorRT (" + "; ".join(failures) + ")",
        expected="the Python module tensorrt (8.5 or newer) or tensorrt_rtx",
        fix="; ".join(INSTALL_COMMANDS[name] for name in names),
    )
