# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BuildReport: what was built, which layers run where, what it took."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.documents import checked, parse_json
from yolox_trt.core.errors import FILE_ERRORS, EngineError
from yolox_trt.engines import cuda_driver
from yolox_trt.engines.engine_file import EngineFile
from yolox_trt.engines.trt_api import LAYERS_MESSAGE, TensorRTApi, device_memory_of

_MIB = 1 << 20


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine (often many ONNX nodes in one).

    Attributes:
        name: TensorRT's name.
        kind: TensorRT's layer type, "" where it is not told.
        device: "gpu", or "dla0" and so on.
        input_type: type of its first input, such as "INT8"; "" where it is not told. It is what a
            convolution computes in.
        output_type: type of its first output, likewise.
        onnx_nodes: names of the ONNX nodes in it, where TensorRT tells them.
    """

    name: str
    kind: str = ""
    device: str = "gpu"
    input_type: str = ""
    output_type: str = ""
    onnx_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildReport:
    """Report of a build, in the manner of trtexec.

    Attributes:
        model, tensorrt, device, precision, strongly_typed, batch: what was built.
        parse_seconds, build_seconds: wall-clock time.
        engine_bytes: size of the serialised engine.
        network_layers: layers before TensorRT fused them.
        pinned_layers: layers whose precision was set, by name.
        default_range_tensors: tensors with the default dynamic range.
        gpu_fallback_layers: layers (before fusion) that the DLA could not take.
        layers: layers of the engine.
        layers_source: "engine inspector", "build log", or why there are none.
        memory: bytes by kind ("activations", "weights", ...), as TensorRT tells them.
    """

    model: str
    tensorrt: str
    device: str
    precision: str
    strongly_typed: bool
    batch: tuple[int, int, int]
    parse_seconds: float
    build_seconds: float
    engine_bytes: int
    network_layers: int
    pinned_layers: dict[str, str] = field(default_factory=dict)
    default_range_tensors: int = 0
    gpu_fallback_layers: list[str] = field(default_factory=list)
    layers: list[EngineLayer] = field(default_factory=list)
    layers_source: str = ""
    memory: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildReport:
        """Read the report in an engine's details, which is the dataclass as JSON.

        Raises:
            EngineError: it is none.
        """
        with EngineError.instead_of(
            FILE_ERRORS,
            "report of a build that cannot be read",
            expected="what the build has written into the engine's sidecar",
            fix="build the engine again",
        ):
            layers = [
                checked(EngineLayer(**{**layer, "onnx_nodes": tuple(layer["onnx_nodes"])}))
                for layer in values["layers"]
            ]
            return checked(cls(**{**values, "layers": layers, "batch": tuple(values["batch"])}))

    def summary(self) -> list[tuple[str, str]]:
        """Return (title, text) lines for people."""
        smallest, best, largest = self.batch
        devices = Counter(layer.device for layer in self.layers)
        kinds = Counter(layer.input_type for layer in self.layers if layer.input_type)
        batch = str(largest) if smallest == largest else f"{smallest} to {largest}, best {best}"
        typing = "strongly typed" if self.strongly_typed else "builder flags"
        lines = [
            ("Model", self.model),
            ("TensorRT", self.tensorrt),
            ("Device", self.device),
            ("Precision", f"{self.precision} ({typing})"),
            ("Batch", batch),
            ("Layers", f"{self.network_layers} in the network, {len(self.layers)} in the engine"),
            ("Layers by device", _counts(devices) or f"not told: {self.layers_source}"),
            ("Layers by input type", _counts(kinds) or "not told"),
            ("Parse time", f"{self.parse_seconds:.2f} s"),
            ("Build time", f"{self.build_seconds:.2f} s"),
            ("Engine size", f"{self.engine_bytes / _MIB:.1f} MiB"),
        ]
        if self.gpu_fallback_layers:
            lines.append(("GPU fallback", f"{len(self.gpu_fallback_layers)} network layers"))
        if self.pinned_layers:
            lines.append(("Pinned layers", _counts(Counter(self.pinned_layers.values()))))
        if self.default_range_tensors:
            lines.append(("Default range", f"{self.default_range_tensors} tensors"))
        lines += [
            (f"Memory: {kind}", f"{size / _MIB:.1f} MiB") for kind, size in self.memory.items()
        ]
        return lines


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counter.most_common())


def read_layers(
    api: TensorRTApi,
    engine: bytes,
    messages: list[tuple[str, str]],
    device: Device,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return BuildReport's `layers`, `layers_source` and `memory`.

    The engine inspector tells them where the engine can be loaded, the build log otherwise.

    Args:
        api: TensorRT.
        engine: what was built.
        messages: TensorRT's, of the build.
        device: what it was built for.
        options: its fingerprint's.
    """
    texts = [text for _, text in messages]
    memory = _memory_of(texts)
    loaded = _load(api, engine, device, options)
    if loaded is not None:
        memory["execution context"] = device_memory_of(loaded)
        layers = layers_of_inspector(_inspector_json(api, loaded), device)
        return {"layers": layers, "layers_source": "engine inspector", "memory": memory}
    layers = _layers_of_log(texts, device)
    source = "build log" if layers else "the engine cannot be loaded on this machine"
    return {"layers": layers, "layers_source": source, "memory": memory}


def layer_information(api: TensorRTApi, file: EngineFile, device: Device) -> str:
    """Return the engine inspector's JSON, as trtexec --exportLayerInfo writes it.

    Raises:
        EngineError: the engine cannot be loaded on this machine.
    """
    loaded = _load(api, file.data, device, file.fingerprint.options)
    if loaded is None:
        raise EngineError(
            f"engine {file.path} that {api} cannot load on this machine",
            expected=f"{device}, for which it was built; loadables of the DLA are never loaded",
            fix="take --layer-info on the target, or --layers, which reads the build's log",
        )
    return _inspector_json(api, loaded)


def _load(api: TensorRTApi, engine: bytes, device: Device, options: Mapping[str, Any]) -> Any:
    """Return a deserialised engine, None where this machine cannot."""
    if options.get("dla_standalone") or cuda_driver.compute_capability(device.cuda_index) is None:
        return None
    with api.collect_messages():
        runtime = api.module.Runtime(api.logger)
        if device.kind == "dla":
            runtime.DLA_core = device.index
        if options.get("version_compatible"):
            runtime.engine_host_code_allowed = True  # built here, or its checksum was checked
        return runtime.deserialize_cuda_engine(engine)


def _inspector_json(api: TensorRTApi, loaded: Any) -> str:
    inspector = loaded.create_engine_inspector()
    return str(inspector.get_engine_information(api.module.LayerInformationFormat.JSON))


def layers_of_inspector(text: str, device: Device) -> list[EngineLayer]:
    """Read the engine inspector's JSON.

    With profiling verbosity `layer_names_only` its layers are names, with `detailed` objects.
    """
    layers = parse_json(text).get("Layers", [])
    return [
        _layer(
            device,
            layer.get("Name", ""),
            layer.get("LayerType", ""),
            json.dumps(layer.get("Inputs", [])),
            json.dumps(layer.get("Outputs", [])),
            str(layer.get("Metadata", "")),
        )
        if isinstance(layer, dict)
        else _layer(device, str(layer))
        for layer in layers
    ]


_PLACED = re.compile(r"\[(Dla|Gpu)Layer\]\s*(.+)")
_LOGGED_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>.*?), Inputs: ")
#: Inputs, outputs and metadata of a logged layer.
_LOGGED_PARTS = (
    re.compile(r"Inputs: \[(.*?)\], Constants"),
    re.compile(r"Outputs: \[(.*?)\], TacticName"),
    re.compile(r"Metadata: (.*)$"),
)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
#: Myelin's bookkeeping between streams; nothing is computed in these.
_NO_WORK = frozenset({"signal", "wait"})


def _layers_of_log(texts: list[str], device: Device) -> list[EngineLayer]:
    for text in texts:
        if text.startswith(LAYERS_MESSAGE):
            lines = text.splitlines()[1:]
            found = [(line, match) for line in lines if (match := _LOGGED_LAYER.match(line))]
            return [
                _layer(
                    device,
                    match["name"],
                    match["kind"],
                    *(part[1] if (part := p.search(line)) else "" for p in _LOGGED_PARTS),
                )
                for line, match in found
                if match["kind"] not in _NO_WORK
            ]
    placed = [match for text in texts if (match := _PLACED.search(text))]
    return [
        EngineLayer(
            match[2].strip(), device=str(device) if match[1] == "Dla" else "gpu", kind=match[1]
        )
        for match in placed
    ]


_TYPES = (
    ("INT8", re.compile(r"\bInt8\b", re.IGNORECASE)),
    ("FP16", re.compile(r"\bFP16\b|\bHalf\b", re.IGNORECASE)),
    ("FP32", re.compile(r"\bFP32\b|\bFloat\b", re.IGNORECASE)),
    ("INT32", re.compile(r"\bInt32\b", re.IGNORECASE)),
    ("INT64", re.compile(r"\bInt64\b", re.IGNORECASE)),
    ("BOOL", re.compile(r"\bBool\b", re.IGNORECASE)),
)


def _layer(
    device: Device,
    name: str,
    kind: str = "",
    inputs: str = "",
    outputs: str = "",
    metadata: str = "",
) -> EngineLayer:
    # A DLA subgraph is a ForeignNode, and so is one of Myelin on the GPU.
    foreign = name.startswith("{ForeignNode") and "myelin" not in kind.lower()
    on_dla = device.kind == "dla" and ("dla" in kind.lower() or foreign)
    return EngineLayer(
        name=name,
        kind=kind,
        device=str(device) if on_dla else "gpu",
        input_type=_first_type(inputs),
        output_type=_first_type(outputs),
        onnx_nodes=tuple(dict.fromkeys(_ONNX_NODE.findall(metadata))),
    )


def _first_type(text: str) -> str:
    found = [(match.start(), title) for title, pattern in _TYPES if (match := pattern.search(text))]
    return min(found)[1] if found else ""


def _memory_of(texts: list[str]) -> dict[str, int]:
    """Read sizes from build messages such as `Total Weights Memory: 3619584 bytes`."""
    kinds = {
        "Total Activation Memory": "activations",
        "Total Weights Memory": "weights",
        "Total Host Persistent Memory": "host, persistent",
        "Total Device Persistent Memory": "device, persistent",
        "Max Scratch Memory": "scratch",
        "Total Scratch Memory": "scratch",
    }
    memory: dict[str, int] = {}
    for text in texts:
        match = re.match(r"(?P<kind>[A-Z][\w ]+): (?P<bytes>\d+)", text)
        if match and match["kind"] in kinds and int(match["bytes"]):
            memory[kinds[match["kind"]]] = int(match["bytes"])
    return memory
