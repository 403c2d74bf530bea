# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Write which names each TensorRT version's Python API has: `api_<version>.json` beside this file.

Only names are kept (class -> attributes, enumeration -> values). They come from one of:

    python extract.py bindings 8.5 python/src        # pybind11 sources of a release's git tag
    python extract.py stubs 10.13 tensorrt.pyi       # the wheel tensorrt-stubs
    python extract.py module 11.4 tensorrt_bindings  # dir() of an importable module's classes

The sources are in https://github.com/NVIDIA/TensorRT (tags 8.5.3, v8.6.1, v10.3.0). The module
of the wheel tensorrt-cu13-bindings is importable without its libraries once empty libnvinfer.so.11,
libnvinfer_plugin.so.11 and libnvonnxparser.so.11 that export the few undefined symbols are on
LD_LIBRARY_PATH; nothing of it is called.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

#: Classes and enumerations that an adapter could touch; the rest of the API is left out.
CLASSES = re.findall(
    r"\w+",
    """
    Builder BuilderFlag CalibrationAlgoType ComputeCapability CudaGraphStrategy DataType
    DeviceType DLAWorkspaceAllocationStrategy EngineCapability EngineInspector
    ExecutionContextAllocationStrategy HardwareCompatibilityLevel IBuilderConfig ICudaEngine
    IErrorRecorder IExecutionContext IHostMemory IInt8Calibrator IInt8EntropyCalibrator
    IInt8EntropyCalibrator2 IInt8LegacyCalibrator IInt8MinMaxCalibrator ILayer ILogger
    INetworkDefinition IOptimizationProfile IPluginRegistry IProfiler IProgressMonitor
    IRuntimeCache IRuntimeConfig ITensor ITimingCache LayerInformationFormat LayerType Logger
    MemoryPoolType NetworkDefinitionCreationFlag OnnxParser OnnxParserFlag ParserError
    PreviewFeature ProfilingVerbosity QuantizationFlag Runtime TacticSource TensorFormat
    TensorIOMode TensorLocation
    """,
)
FUNCTIONS = ("init_libnvinfer_plugins", "get_plugin_registry", "get_builder_plugin_registry")

Table = dict[str, set[str]]

_BINDING = re.compile(
    r"py::(?:class_|enum_)<\s*(?P<types>[^;{]*?)>\s*(?:\w+\s*)?[({]\s*(?P<scope>\w+)\s*,\s*"
    r'"(?P<name>\w+)"'
)
_MEMBER = re.compile(r'\.(?:def|def_\w+|value)\(\s*"(\w+)"')
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|.', re.DOTALL)


def _without_comments(text: str) -> str:
    return "".join(
        " " if token.startswith(("//", "/*")) else token for token in _TOKEN.findall(text)
    )


def _statement(text: str, start: int) -> str:
    """Return the text from `start` to the semicolon that is in no bracket opened after `start`."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        token = match.group()
        if token in "({[":
            depth += 1
        elif token in ")}]":
            depth -= 1
        elif token == ";" and depth <= 0:
            return text[start : match.start()]
    return text[start:]


def from_bindings(folder: Path) -> Table:
    """Read pybind11 sources: py::class_ and py::enum_ with their .def*() and .value() names."""
    table: Table = {}
    python_name: dict[str, str] = {}  # C++ type -> Python name
    parents: dict[str, list[str]] = {}
    exported: list[tuple[str, str]] = []  # (variable of the outer class, enumeration)
    variable: dict[str, str] = {}
    functions: set[str] = set()
    for path in sorted(folder.rglob("*.cpp")):
        text = _without_comments(path.read_text())
        functions.update(re.findall(r'\bm\.def\(\s*"(\w+)"', text))
        for match in _BINDING.finditer(text):
            name = match["name"]
            types = [t.strip() for t in re.sub(r"<[^<>]*>", "", match["types"]).split(",")]
            python_name[types[0]] = name
            parents.setdefault(name, []).extend(types[1:])
            statement = _statement(text, match.end())
            table.setdefault(name, set()).update(_MEMBER.findall(statement))
            named = re.match(r">\s*(\w+)\s*[({]", text[match.end("types") :])
            if named:
                variable[named[1]] = name
                for later in re.finditer(rf"\b{named[1]}\s*\.def", text):
                    members = _MEMBER.findall(_statement(text, later.start()))
                    table[name].update(members)
            if "export_values()" in statement and match["scope"] != "m":
                exported.append((match["scope"], name))
    for scope, name in exported:
        if scope in variable:
            table[variable[scope]] |= table[name]
    for name in table:  # members of the base classes
        waiting = list(parents.get(name, ()))
        while waiting:
            base = python_name.get(waiting.pop())
            if base and base != name:
                table[name] |= table[base]
                waiting.extend(parents.get(base, ()))
    table[""] = functions | set(table)
    return table


def from_stubs(path: Path) -> Table:
    """Read a .pyi file line by line (that of 10.13 is not valid Python, so `ast` cannot)."""
    table: Table = {"": set()}
    bases: dict[str, list[str]] = {}
    current = ""
    for line in path.read_text().splitlines():
        if match := re.match(r"class (\w+)(?:\((.*)\))?:", line):
            current = match[1]
            table.setdefault(current, set())
            bases[current] = re.findall(r"(\w+)\s*(?:,|$)", match[2] or "")
        elif match := re.match(r"def (\w+)", line):
            table[""].add(match[1])
            current = ""
        elif current and (match := re.match(r"    (?:def |class )?(\w+)\s*[:=(]", line)):
            table[current].add(match[1])
    for name, members in table.items():
        waiting = list(bases.get(name, ()))
        while waiting:
            base = waiting.pop()
            members |= table.get(base, set())
            waiting.extend(bases.get(base, ()))
    table[""] |= set(table) - {""}
    return table


def from_module(name: str) -> Table:
    """Read an importable module with dir()."""
    module = importlib.import_module(name)
    table: Table = {"": set(dir(module))}
    for class_name in CLASSES:
        if hasattr(module, class_name):
            table[class_name] = set(dir(getattr(module, class_name)))
    return table


def main() -> None:
    """Write one version's table."""
    kind, version, source = sys.argv[1:4]
    if kind == "bindings":
        table = from_bindings(Path(source))
    elif kind == "stubs":
        table = from_stubs(Path(source))
    else:
        sys.path.insert(0, ".")
        table = from_module(source)
    kept = {
        name: sorted(m for m in table[name] if not m.startswith("_"))
        for name in CLASSES
        if name in table
    }
    functions = [name for name in FUNCTIONS if name in table[""]]
    out = Path(__file__).with_name(f"api_{version}.json")
    document = {"version": version, "kind": kind, "functions": functions, "classes": kept}
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{out.name}: {len(kept)} classes, {sum(map(len, kept.values()))} names")


if __name__ == "__main__":
    main()
