# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Python module `tensorrt` of a given version, for API conformance only.

It has the names that the version's own API has (support/trt_api/api_*.json) and no others: a name
that the version lacks raises AttributeError, a name that the stand-in gives no behaviour raises
NotImplementedError. Every call and assignment is recorded in `module.calls`. Parsing reads the real
ONNX file, so layers and tensors have their real names and shapes. Nothing is computed: a "built"
engine is JSON of the settings, and running it notes the addresses.
"""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

API_FOLDER = Path(__file__).with_name("trt_api")
#: Table -> the version that the stand-in claims to be.
VERSIONS = {
    "8.5": "8.5.3.1",
    "8.6": "8.6.1.6",
    "10.3": "10.3.0.26",
    "10.13": "10.13.0.35",
    "11.4": "11.4.0.106",
    "rtx-1.7": "1.7.1.116",
}
_LAYER_TYPES = {
    "Conv": "CONVOLUTION",
    "Sigmoid": "ACTIVATION",
    "Relu": "ACTIVATION",
    "Clip": "ACTIVATION",
    "MaxPool": "POOLING",
    "Concat": "CONCATENATION",
    "Mul": "ELEMENTWISE",
    "Add": "ELEMENTWISE",
    "Slice": "SLICE",
    "Resize": "RESIZE",
    "Reshape": "SHUFFLE",
    "Transpose": "SHUFFLE",
    "Shape": "SHAPE",
    "Constant": "CONSTANT",
    "Cast": "CAST",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
_ELEMENT_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
}
#: Classes that users derive from; they may have attributes of their own.
_DERIVED = frozenset(
    {
        "ILogger",
        "IProfiler",
        "IProgressMonitor",
        "IInt8EntropyCalibrator",
        "IInt8EntropyCalibrator2",
        "IInt8LegacyCalibrator",
        "IInt8MinMaxCalibrator",
    }
)


def load_table(name: str) -> dict[str, Any]:
    """Return a version's table of names."""
    table: dict[str, Any] = json.loads((API_FOLDER / f"api_{name}.json").read_text())
    return table


class EnumValue:
    """A pybind11 enumeration's value."""

    def __init__(self, owner: str, name: str, value: int) -> None:
        self.owner, self.name, self.value = owner, name, value

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"{self.owner}.{self.name}"


class _Behaviour:
    """What the stand-in does, by "Class.name"; only names of the version's table are attached."""

    def __init__(self, fake: Any) -> None:
        self.fake = fake

    # Builder

    def Builder_create_network(self, builder: Any, flags: int = 0) -> Any:  # noqa: N802
        network = self.fake.new("INetworkDefinition")
        network._flags, network._layers, network._inputs, network._outputs = flags, [], [], []
        return network

    def Builder_create_builder_config(self, builder: Any) -> Any:  # noqa: N802
        config = self.fake.new("IBuilderConfig")
        config._flags, config._pools, config._profiles = set(), {}, []
        config._timing_cache, config._capabilities = None, {}
        config._calibration_profile = None
        config._preview = set()
        return config

    def Builder_create_optimization_profile(self, builder: Any) -> Any:  # noqa: N802
        profile = self.fake.new("IOptimizationProfile")
        profile._shapes = {}
        return profile

    def Builder_build_serialized_network(  # noqa: N802
        self, builder: Any, network: Any, config: Any
    ) -> bytes | None:
        fake = self.fake
        for tensor in network._inputs:
            if -1 in tensor._shape and not config._profiles:
                fake.log("ERROR", "no optimization profile")
                return None
        monitor = config._values.get("progress_monitor")
        if monitor is not None:
            assert monitor._initialised
            monitor.phase_start("Building engine", None, 2)
            monitor.phase_start("Timing", "Building engine", 4)
            for step in range(4):
                if not monitor.step_complete("Timing", step):
                    fake.log("ERROR", "cancelled by the progress monitor")
                    return None
            monitor.phase_finish("Timing")
            monitor.step_complete("Building engine", 1)
            monitor.phase_finish("Building engine")
        calibrator = config._values.get("int8_calibrator")
        cache = None
        if calibrator is not None:
            assert calibrator._initialised
            assert calibrator.get_batch_size() == 1
            # NvInfer.h, setCalibrationProfile; and what trtexec works around (nvbugs 3262234).
            if config._profiles and config._calibration_profile is None:
                fake.log("ERROR", "Calibration profile is not defined")
                return None
            for tensor in [*network._inputs, *network._outputs]:
                if tensor._values["dtype"].name == "INT8" and tensor._range is None:
                    fake.log("ERROR", f"{tensor._name} is INT8 and has no dynamic range")
                    return None
            cache = bytes(calibrator.read_calibration_cache()).decode()
        if fake.build_fails:
            fake.log("ERROR", fake.build_fails)
            return None
        if config._timing_cache is not None:
            config._timing_cache._data += b"timings;"
        on_dla = getattr(config._values.get("default_device_type"), "name", "") == "DLA"
        fake.log("INFO", "Total Activation Memory: 1048576 bytes")
        if on_dla:
            fake.log("INFO", "---------- Layers Running on DLA ----------")
            fake.log("INFO", "[DlaLayer] {ForeignNode[first...last]}")
            fake.log("INFO", "[GpuLayer] COPY: reformat")
        description = {
            "values": {k: _plain(v) for k, v in config._values.items()},
            "flags": sorted(flag.name for flag in config._flags),
            "pools": config._pools,
            "profiles": [profile._shapes for profile in config._profiles],
            "shared": fake.shares_profiles or "PROFILE_SHARING_0806" in config._preview,
            "capabilities": config._capabilities,
            "network_flags": network._flags,
            "cache": cache,
            "layers": [
                {
                    "name": layer._name,
                    **{k: _plain(v) for k, v in layer._values.items() if not callable(v)},
                    "output_types": {str(i): t.name for i, t in layer._output_types.items()},
                }
                for layer in network._layers
            ],
            "ranges": {
                t._name: t._range
                for t in [*network._inputs, *(o for n in network._layers for o in n._outputs)]
                if t._range
            },
            "tensors": [
                {
                    "name": t._name,
                    "input": t in network._inputs,
                    "shape": list(t._shape),
                    "dtype": t._values["dtype"].name,
                    "formats": t._values.get(
                        "allowed_formats", 1 << int(fake.module.TensorFormat.LINEAR)
                    ),
                }
                for t in [*network._inputs, *network._outputs]
            ],
        }
        return json.dumps(description).encode()

    # INetworkDefinition, ILayer, ITensor

    def INetworkDefinition_get_layer(self, network: Any, index: int) -> Any:  # noqa: N802
        return network._layers[index]

    def INetworkDefinition_get_input(self, network: Any, index: int) -> Any:  # noqa: N802
        return network._inputs[index]

    def INetworkDefinition_get_output(self, network: Any, index: int) -> Any:  # noqa: N802
        return network._outputs[index]

    def ILayer_get_input(self, layer: Any, index: int) -> Any:  # noqa: N802
        return layer._inputs[index]

    def ILayer_get_output(self, layer: Any, index: int) -> Any:  # noqa: N802
        return layer._outputs[index]

    def ILayer_set_output_type(self, layer: Any, index: int, kind: Any) -> None:  # noqa: N802
        layer._output_types[index] = kind

    def ITensor_set_dynamic_range(self, tensor: Any, low: float, high: float) -> bool:  # noqa: N802
        tensor._range = [low, high]
        return True

    # OnnxParser

    def OnnxParser_parse(self, parser: Any, data: bytes) -> bool:  # noqa: N802
        return self._parse(parser, onnx.load_from_string(data))

    def OnnxParser_parse_from_file(self, parser: Any, path: str) -> bool:  # noqa: N802
        return self._parse(parser, onnx.load(path))

    def OnnxParser_get_error(self, parser: Any, index: int) -> Any:  # noqa: N802
        error = self.fake.new("ParserError")
        error._text = parser._errors[index]
        return error

    def ParserError_desc(self, error: Any) -> str:  # noqa: N802
        return str(error._text)

    def _parse(self, parser: Any, model: onnx.ModelProto) -> bool:
        fake, network = self.fake, parser._network
        if fake.number < (10,) and fake.flavour == "tensorrt" and not network._flags & 1:
            parser._errors.append("This version of the ONNX parser needs kEXPLICIT_BATCH")
            return False
        if fake.parse_fails:
            parser._errors.append(fake.parse_fails)
            return False
        inferred = onnx.shape_inference.infer_shapes(model)
        infos = {
            value.name: value.type.tensor_type
            for value in (
                *inferred.graph.input,
                *inferred.graph.output,
                *inferred.graph.value_info,
            )
        }
        tensors: dict[str, Any] = {}

        def tensor(name: str) -> Any:
            if name not in tensors:
                info = infos.get(name)
                shape = [d.dim_value or -1 for d in info.shape.dim] if info is not None else []
                kind = _ELEMENT_TYPES.get(info.elem_type, "FLOAT") if info is not None else "FLOAT"
                made = fake.new("ITensor")
                made._name, made._shape, made._range = name, tuple(shape), None
                # Versions without INT64 compute in INT32.
                kinds = fake.module.DataType
                made._values["dtype"] = getattr(kinds, kind, getattr(kinds, "INT32", None))
                tensors[name] = made
            return tensors[name]

        constants = {t.name for t in model.graph.initializer}
        network._inputs = [tensor(v.name) for v in model.graph.input if v.name not in constants]
        for index, node in enumerate(model.graph.node):
            layer = fake.new("ILayer")
            layer._name = node.name or f"{node.op_type}_{index}"
            layer._kind = _LAYER_TYPES.get(node.op_type, "ELEMENTWISE")
            layer._inputs = [tensor(n) for n in node.input if n and n not in constants]
            layer._outputs = [tensor(n) for n in node.output]
            layer._output_types = {}
            network._layers.append(layer)
        network._outputs = [tensor(v.name) for v in model.graph.output]
        return True

    # IOptimizationProfile, IBuilderConfig

    def IOptimizationProfile_set_shape(  # noqa: N802
        self, profile: Any, name: str, least: Any, best: Any, most: Any
    ) -> None:
        profile._shapes[name] = [list(least), list(best), list(most)]

    def IBuilderConfig_set_flag(self, config: Any, flag: Any) -> None:  # noqa: N802
        config._flags.add(flag)

    def IBuilderConfig_clear_flag(self, config: Any, flag: Any) -> None:  # noqa: N802
        config._flags.discard(flag)
        config._values[f"cleared {flag.name}"] = True

    def IBuilderConfig_set_preview_feature(  # noqa: N802
        self, config: Any, feature: Any, enable: bool
    ) -> None:
        assert enable
        config._preview.add(feature.name)

    def IBuilderConfig_set_memory_pool_limit(  # noqa: N802
        self, config: Any, pool: Any, size: int
    ) -> None:
        config._pools[pool.name] = size

    def IBuilderConfig_add_optimization_profile(self, config: Any, profile: Any) -> int:  # noqa: N802
        config._profiles.append(profile)
        return len(config._profiles) - 1

    def IBuilderConfig_set_calibration_profile(self, config: Any, profile: Any) -> bool:  # noqa: N802
        config._calibration_profile = profile
        return True

    def IBuilderConfig_can_run_on_DLA(self, config: Any, layer: Any) -> bool:  # noqa: N802
        return layer._name not in self.fake.not_on_dla

    def IBuilderConfig_create_timing_cache(self, config: Any, data: bytes) -> Any:  # noqa: N802
        cache = self.fake.new("ITimingCache")
        cache._data = bytes(data)
        return cache

    def IBuilderConfig_set_timing_cache(  # noqa: N802
        self, config: Any, cache: Any, ignore_mismatch: bool
    ) -> bool:
        if cache._data.startswith(b"foreign") and not ignore_mismatch:
            self.fake.log("WARNING", "the cache is of another device")
            return False
        config._timing_cache = cache
        return True

    def IBuilderConfig_get_timing_cache(self, config: Any) -> Any:  # noqa: N802
        return config._timing_cache

    def IBuilderConfig_set_compute_capability(  # noqa: N802
        self, config: Any, capability: Any, index: int
    ) -> bool:
        config._capabilities[str(index)] = capability.name
        return True

    def ITimingCache_serialize(self, cache: Any) -> bytes:  # noqa: N802
        return bytes(cache._data)

    def ITimingCache_combine(self, cache: Any, other: Any, ignore: bool) -> bool:  # noqa: N802
        foreign = cache._data[:1] != other._data[:1]
        if foreign and not ignore:
            self.fake.log("ERROR", "the caches are of different devices")
            return False
        cache._data += other._data
        return True

    # plugins

    def IPluginRegistry_get_creator(  # noqa: N802
        self, registry: Any, name: str, version: str, namespace: str
    ) -> Any:
        return object() if name in self.fake.plugins else None

    IPluginRegistry_get_plugin_creator = IPluginRegistry_get_creator

    # Runtime, ICudaEngine, IExecutionContext

    def Runtime_deserialize_cuda_engine(self, runtime: Any, data: bytes) -> Any:  # noqa: N802
        try:
            description = json.loads(data)
        except ValueError:
            self.fake.log("ERROR", "Magic tag does not match")
            return None
        engine = self.fake.new("ICudaEngine")
        engine._description = description
        engine._tensors = {t["name"]: t for t in description["tensors"]}
        engine._contexts = weakref.WeakSet()
        return engine

    def ICudaEngine_get_tensor_name(self, engine: Any, index: int) -> str:  # noqa: N802
        return str(engine._description["tensors"][index]["name"])

    def ICudaEngine_get_tensor_mode(self, engine: Any, name: str) -> Any:  # noqa: N802
        modes = self.fake.module.TensorIOMode
        return modes.INPUT if engine._tensors[name]["input"] else modes.OUTPUT

    def ICudaEngine_get_tensor_shape(self, engine: Any, name: str) -> Any:  # noqa: N802
        return tuple(engine._tensors[name]["shape"])

    def ICudaEngine_get_tensor_dtype(self, engine: Any, name: str) -> Any:  # noqa: N802
        return getattr(self.fake.module.DataType, engine._tensors[name]["dtype"])

    def ICudaEngine_get_tensor_format(self, engine: Any, name: str) -> Any:  # noqa: N802
        number = engine._tensors[name]["formats"].bit_length() - 1
        return next(v for v in vars(self.fake.module.TensorFormat).values() if _is(v, number))

    def ICudaEngine_get_tensor_profile_shape(  # noqa: N802
        self, engine: Any, name: str, index: int
    ) -> Any:
        return [tuple(s) for s in engine._description["profiles"][index][name]]

    def ICudaEngine_create_engine_inspector(self, engine: Any) -> Any:  # noqa: N802
        inspector = self.fake.new("EngineInspector")
        inspector._engine = engine
        return inspector

    def EngineInspector_get_engine_information(self, inspector: Any, form: Any) -> str:  # noqa: N802
        assert form.name == "JSON"
        values = inspector._engine._description["values"]
        kind = "DLA" if values.get("default_device_type") == "DLA" else "CaskConvolution"
        outputs = [{"Name": "y", "Format/Datatype": "Channel major FP16 format"}]
        layer = {"Name": "layer0", "LayerType": kind, "Outputs": outputs}
        layer["Metadata"] = "[ONNX Layer: /stem/Conv]\x1e[ONNX Layer: /stem/Mul]"
        return json.dumps({"Layers": [layer], "Bindings": []})

    def ICudaEngine_create_runtime_config(self, engine: Any) -> Any:  # noqa: N802
        return self.fake.new("IRuntimeConfig")

    def IRuntimeConfig_create_runtime_cache(self, config: Any) -> Any:  # noqa: N802
        cache = self.fake.new("IRuntimeCache")
        cache._data = b""
        return cache

    def IRuntimeConfig_set_runtime_cache(self, config: Any, cache: Any) -> bool:  # noqa: N802
        return True

    def IRuntimeCache_deserialize(self, cache: Any, data: bytes) -> bool:  # noqa: N802
        cache._data = data
        return True

    def IRuntimeCache_serialize(self, cache: Any) -> bytes:  # noqa: N802
        return b"kernels"

    def IRuntimeConfig_set_execution_context_allocation_strategy(  # noqa: N802
        self, config: Any, strategy: Any
    ) -> None:
        config._strategy = strategy

    def ICudaEngine_create_execution_context(self, engine: Any, how: Any = None) -> Any:  # noqa: N802
        context = self.fake.new("IExecutionContext")
        context._engine, context._addresses, context._shape = engine, {}, {}
        strategy = how if isinstance(how, EnumValue) else getattr(how, "_strategy", None)
        context._needs_memory = strategy is not None and strategy.name == "USER_MANAGED"
        context._memory = None
        # NvInferRuntime.h: the first context takes profile 0 by itself, others must ask for one.
        context._profile = -1 if engine._contexts else 0
        engine._contexts.add(context)
        return context

    def IExecutionContext_set_optimization_profile_async(  # noqa: N802
        self, context: Any, index: int, stream: int
    ) -> bool:
        engine = context._engine
        others = [c for c in engine._contexts if c is not context and c._profile == index]
        if others and not engine._description["shared"]:
            self.fake.log("ERROR", "Profile 0 has been chosen by another IExecutionContext")
            return False
        context._profile = index
        return True

    def ICudaEngine_create_execution_context_without_device_memory(self, engine: Any) -> Any:  # noqa: N802
        context = self.ICudaEngine_create_execution_context(engine)
        context._needs_memory = True
        return context

    def IExecutionContext_set_device_memory(  # noqa: N802
        self, context: Any, memory: int, size: int
    ) -> None:
        assert size >= 4096
        context._memory = memory

    def IExecutionContext_set_input_shape(self, context: Any, name: str, shape: Any) -> bool:  # noqa: N802
        if context._profile < 0:
            self.fake.log("ERROR", "no optimization profile has been chosen")
            return False
        least, _, most = context._engine._description["profiles"][0][name]
        if not least[0] <= shape[0] <= most[0]:
            self.fake.log("ERROR", "shape outside the profile")
            return False
        context._shape[name] = tuple(shape)
        return True

    def IExecutionContext_get_tensor_shape(self, context: Any, name: str) -> Any:  # noqa: N802
        shape = context._engine._tensors[name]["shape"]
        batch = next(iter(context._shape.values()), (shape[0],))[0]
        return tuple(batch if i == 0 and n == -1 else n for i, n in enumerate(shape))

    def IExecutionContext_set_tensor_address(self, context: Any, name: str, address: int) -> bool:  # noqa: N802
        context._addresses[name] = address
        return True

    def IExecutionContext_is_stream_capturable(self, context: Any, stream: int) -> bool:  # noqa: N802
        return True

    def IExecutionContext_execute_async_v3(self, context: Any, stream: int) -> bool:  # noqa: N802
        if set(context._addresses) != set(context._engine._tensors):
            self.fake.log("ERROR", "an address is not set")
            return False
        memory = context._memory or context._values.get("device_memory")
        if context._needs_memory and memory is None:
            self.fake.log("ERROR", "no device memory")
            return False
        if self.fake.run_fails:
            self.fake.log("ERROR", self.fake.run_fails)
            return False
        self.fake.contexts.append((context, memory))
        profiler = context._values.get("profiler")
        if profiler is not None:
            assert profiler._initialised
            profiler.report_layer_time("conv", 1.5)
            profiler.report_layer_time("head", 0.5)
        self.fake.runs.append((dict(context._addresses), dict(context._shape), stream))
        return True


def _is(value: Any, number: int) -> bool:
    return isinstance(value, EnumValue) and value.value == number


def _plain(value: Any) -> Any:
    return (
        value
        if isinstance(value, int | float | str | bool | None)
        else getattr(value, "name", type(value).__name__)
    )


class FakeTensorRT:
    """A version's stand-in: `module` is what the adapter sees, the rest steers and records it."""

    def __init__(self, name: str, *, version: str | None = None) -> None:
        self.table = load_table(name)
        self.version = version or VERSIONS[name]
        self.number = tuple(int(n) for n in self.version.split(".")[:3])
        self.flavour = "tensorrt_rtx" if name.startswith("rtx") else "tensorrt"
        self.calls: list[tuple[str, Any]] = []
        self.runs: list[Any] = []
        self.contexts: list[Any] = []  # of each run, with their memory
        #: PROFILE_SHARING_0806 is on by default since TensorRT 10.
        self.shares_profiles = self.number >= (10,) or self.flavour == "tensorrt_rtx"
        self.num_dla_cores = 2
        self.not_on_dla: set[str] = set()
        self.plugins = {"EfficientNMS_TRT"} if self.flavour == "tensorrt" else set()
        self.build_fails = self.parse_fails = self.run_fails = ""
        self.logger: Any = None
        self.module: Any = ModuleType(self.flavour)
        self.module.__version__ = self.version
        behaviour = _Behaviour(self)
        for class_name, members in self.table["classes"].items():
            made = (
                self._enumeration(class_name, members)
                if _is_enumeration(members)
                else self._class(class_name, members, behaviour)
            )
            setattr(self.module, class_name, made)
        for function in self.table["functions"]:
            setattr(self.module, function, self._function(function))

    def names_called(self) -> set[str]:
        """Names that were called or assigned, as "Class.name"."""
        return {name for name, _ in self.calls}

    def log(self, severity: str, text: str) -> None:
        """Send a message to the adapter's logger, as TensorRT does."""
        assert self.logger is not None and self.logger._initialised
        self.logger.log(EnumValue("Severity", severity, 0), text)

    def new(self, class_name: str) -> Any:
        """Make an object that users cannot make themselves."""
        cls = getattr(self.module, class_name)
        made = cls.__new__(cls)
        object.__setattr__(made, "_values", {})
        return made

    def _enumeration(self, name: str, members: list[str]) -> type:
        values = {
            m: EnumValue(name, m, i)
            for i, m in enumerate(m for m in members if m not in ("name", "value", "Members"))
        }
        return type(name, (), values)

    def _function(self, name: str) -> Any:
        def function(*args: Any) -> Any:
            self.calls.append((name, args))
            return self.new("IPluginRegistry") if name.endswith("registry") else True

        return function

    def _class(self, class_name: str, members: list[str], behaviour: _Behaviour) -> type:
        fake, allowed = self, frozenset(members)

        def init(this: Any, *args: Any) -> None:
            object.__setattr__(this, "_values", {})
            object.__setattr__(this, "_initialised", True)
            fake.calls.append((class_name, args))
            if class_name in ("Builder", "Runtime"):
                fake.logger = args[0]
                assert args[0]._initialised, "ILogger.__init__ was not called"
            if class_name == "OnnxParser":
                this._network, fake.logger = args
                this._errors = []

        def set_attribute(this: Any, name: str, value: Any) -> None:
            if not name.startswith("_"):
                if name not in allowed and class_name not in _DERIVED:
                    raise AttributeError(f"TensorRT {fake.version}: no {class_name}.{name}")
                if name in allowed:
                    fake.calls.append((f"{class_name}.{name}", value))
                    this._values[name] = value
                    return
            object.__setattr__(this, name, value)

        def get_attribute(this: Any, name: str) -> Any:
            if name.startswith("_") or name not in allowed:
                raise AttributeError(f"TensorRT {fake.version}: no {class_name}.{name}")
            if name in this._values:
                return this._values[name]
            found = _property(fake, class_name, this, name)
            if found is not _NOTHING:
                return found
            raise NotImplementedError(f"no behaviour for {class_name}.{name}")

        def method(name: str, function: Any) -> Any:
            def call(this: Any, *args: Any) -> Any:
                fake.calls.append((f"{class_name}.{name}", args))
                return function(this, *args)

            return call

        namespace: dict[str, Any] = {
            "__init__": init,
            "__setattr__": set_attribute,
            "__getattr__": get_attribute,
        }
        for name in members:
            function = getattr(behaviour, f"{class_name}_{name}", None)
            if function is not None:
                namespace[name] = method(name, function)
            elif hasattr(type, name) or class_name in _DERIVED:
                continue
        made = type(class_name, (), namespace)
        return _with_class_names(made, allowed)


_NOTHING = object()


def _property(fake: FakeTensorRT, class_name: str, this: Any, name: str) -> Any:
    key = f"{class_name}.{name}"
    if key in ("Builder.num_DLA_cores", "Runtime.num_DLA_cores"):
        return fake.num_dla_cores
    if key == "INetworkDefinition.num_layers":
        return len(this._layers)
    if key in ("INetworkDefinition.num_inputs", "ILayer.num_inputs"):
        return len(this._inputs)
    if key in ("INetworkDefinition.num_outputs", "ILayer.num_outputs"):
        return len(this._outputs)
    if key in ("ILayer.name", "ITensor.name"):
        return this._name
    if key == "ILayer.type":
        return EnumValue("LayerType", this._kind, 0)
    if key == "ITensor.shape":
        return this._shape
    if key == "OnnxParser.num_errors":
        return len(this._errors)
    if key == "ICudaEngine.num_io_tensors":
        return len(this._tensors)
    if key in ("ICudaEngine.device_memory_size", "ICudaEngine.device_memory_size_v2"):
        return 4096
    if key == "IExecutionContext.active_optimization_profile":
        return this._profile
    if key == "IExecutionContext.profiler":
        return None
    return _NOTHING


def _with_class_names(made: type, allowed: frozenset[str]) -> type:
    """Let hasattr(Class, name) tell the truth for names that instances get by __getattr__."""

    class Meta(type):
        def __getattr__(cls, name: str) -> Any:
            if name in allowed:
                return property()
            raise AttributeError(name)

    return Meta(made.__name__, (made,), {})


def _is_enumeration(members: list[str]) -> bool:
    names = [m for m in members if m not in ("name", "value", "Members", "itemsize")]
    return bool(names) and all(m.upper() == m for m in names)
