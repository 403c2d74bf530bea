# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt build`: build a TensorRT engine and report on it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.output_paths import prepare_outputs

if TYPE_CHECKING:
    from yolox_trt.compiler.tensorrt.report import BuildReport

_CHOICES = ("fp32", "fp16", "int8")
_FORMATS = ("linear", "chw16", "chw32", "dla_linear", "dla_hwc4")


def add_parsers(subparsers: Any) -> None:
    """Add the subcommand `build` to the command `yolox_trt`."""
    parser = subparsers.add_parser(
        "build",
        help="build a TensorRT engine for the GPU or a DLA core",
        description="Build a TensorRT engine from an ONNX file. What the installed TensorRT cannot "
        "do is refused before the build, with the way round. docs/tensorrt.md has the table.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", type=Path, help="ONNX file")
    add("--device", default="gpu", help="gpu, gpu:N, dla0 or dla1 (default: gpu)")
    add("--precision", choices=_CHOICES, default="fp16", help="default: fp16")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", type=Path, help="engine file (and FILE.json beside it)")
    where.add_argument("--cache", type=Path, help="engine cache folder (default: the user's cache)")
    add("--flavour", choices=("tensorrt", "tensorrt_rtx"), help="default: the one installed")
    add("--strongly-typed", action="store_true", default=None, help="precisions from the graph")
    add("--report", type=Path, help="write the report as JSON")
    add("--layers", action="store_true", help="list every layer of the engine")
    add("--layer-info", type=Path, metavar="FILE", help="write the engine inspector's JSON")
    add("--list-layers", action="store_true", help="list the network's layers and stop")
    add("--profile", type=int, metavar="RUNS", help="run the engine and time each layer")

    shape = parser.add_argument_group("shape")
    shape.add_argument("--size", type=_size, metavar="HxW", help="input size of an open graph")
    for name in ("min", "opt", "max"):
        shape.add_argument(f"--{name}-batch", type=int, metavar="N", help=f"{name} of the profile")

    int8 = parser.add_argument_group("INT8 (a Q/DQ graph needs none of these)")
    int8.add_argument("--calibration-cache", type=Path, help="calibration cache (TensorRT to 10.x)")
    int8.add_argument("--dynamic-ranges", type=Path, help="JSON of ranges (TensorRT to 10.x)")
    int8.add_argument(
        "--default-dynamic-range",
        type=float,
        metavar="MAX",
        help="range (0, MAX) of tensors between convolutions: 6.0 for a ReLU6 model",
    )
    int8.add_argument("--keep-first-layer-fp16", action="store_true")
    int8.add_argument("--keep-last-layer-fp16", action="store_true")
    int8.add_argument(
        "--layer-precision",
        action="append",
        default=[],
        metavar="NAME:PRECISION",
        help="precision of the layers of this name or pattern; may be given more than once",
    )
    int8.add_argument(
        "--layer-precisions",
        dest="layer_precisions_file",
        type=Path,
        metavar="FILE",
        help="JSON of layer names and precisions, as `yolox_trt translate --precisions` writes",
    )

    dla = parser.add_argument_group("DLA")
    dla.add_argument("--no-gpu-fallback", action="store_true", help="refuse layers the DLA lacks")
    dla.add_argument("--dla-standalone", action="store_true", help="a loadable for cuDLA")
    dla.add_argument("--dla-sram-kib", type=int)
    dla.add_argument("--dla-local-dram-mib", type=int)
    dla.add_argument("--dla-global-dram-mib", type=int)

    io = parser.add_argument_group("inputs and outputs")
    for name in ("input", "output"):
        io.add_argument(f"--{name}-type", choices=_CHOICES)
        io.add_argument(f"--{name}-format", choices=_FORMATS)

    more = parser.add_argument_group("builder")
    more.add_argument("--workspace-mib", type=int)
    more.add_argument("--timing-cache", type=Path)
    more.add_argument("--sparsity", action="store_true")
    more.add_argument("--no-tf32", action="store_true")
    more.add_argument("--optimization-level", type=int, metavar="0..5")
    more.add_argument("--version-compatible", action="store_true")
    more.add_argument("--hardware-compatible", action="store_true")
    more.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="X.Y",
        help="target of TensorRT-RTX; may be given more than once",
    )
    more.add_argument(
        "--profiling-verbosity",
        choices=("none", "layer_names_only", "detailed"),
        default="detailed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out `yolox_trt build`."""
    from yolox_trt.compiler.tensorrt.build import EngineBuilder
    from yolox_trt.compiler.tensorrt.load_engine import cached_engine
    from yolox_trt.compiler.tensorrt.plan import BuildPlan
    from yolox_trt.compiler.tensorrt.report import BuildReport, layer_information
    from yolox_trt.core.optional import require
    from yolox_trt.engines.cache import EngineCache
    from yolox_trt.engines.engine_file import write_engine

    console = require("rich.console").Console()
    options = _options(arguments)
    if arguments.list_layers:
        plan = BuildPlan(arguments.model, options)
        for name in EngineBuilder(plan).layer_names():
            print(name)
        return 0
    prepare_outputs(arguments.output, arguments.report, arguments.layer_info)
    plan = BuildPlan(arguments.model, options)
    with _Progress(f"{plan.name} on {options.device}") as progress:
        if arguments.output is not None:
            fingerprint = plan.fingerprint
            built = EngineBuilder(plan, progress).build()
            file = write_engine(
                arguments.output,
                built.engine,
                fingerprint=fingerprint,
                spec=built.spec,
                details=built.details,
            )
            source = "built"
        else:
            entry = cached_engine(plan, EngineCache(arguments.cache), progress)
            file = entry.file
            source = f"built ({entry.reason})" if entry.built else "found in the cache"
    report = BuildReport.from_dict(dict(file.details["report"]))
    _print_report(console, report, all_layers=arguments.layers)
    console.print(f"Engine {source}: {file.path}", highlight=False, soft_wrap=True)
    if arguments.layer_info is not None:
        arguments.layer_info.write_text(layer_information(plan.api, file, options.device))
    times: list[dict[str, Any]] = []
    if arguments.profile:
        times = _profile(console, file, arguments.profile, options.device)
    if arguments.report is not None:
        document = {**report.to_dict(), "fingerprint": file.fingerprint.to_dict()}
        if times:
            document["layer_times_ms"] = times
        arguments.report.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def _options(arguments: argparse.Namespace) -> Any:
    from yolox_trt.compiler.tensorrt.options import BuildOptions

    # Arguments of the same name as the option.
    options = {entry.name for entry in dataclasses.fields(BuildOptions)}
    same = {name: value for name, value in vars(arguments).items() if name in options}
    del same["device"]
    return BuildOptions(
        device=_device(arguments.device),
        input_size=arguments.size,
        allow_gpu_fallback=not arguments.no_gpu_fallback,
        tf32=not arguments.no_tf32,
        layer_precisions=_layer_precisions(arguments),
        compute_capabilities=tuple(arguments.compute_capability),
        **same,
    )


def _device(text: str) -> Device:
    try:
        return Device.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(
            error.found, expected=error.expected, fix="set `--device` to one of these"
        ) from error


def _layer_precisions(arguments: argparse.Namespace) -> dict[str, str]:
    chosen: dict[str, str] = {}
    path = arguments.layer_precisions_file
    if path is not None:
        try:
            chosen = {str(k): str(v) for k, v in json.loads(path.read_text()).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigurationError(
                f"--layer-precisions {path}, which cannot be read ({error})",
                expected="a JSON object of layer names and precisions",
                fix="yolox_trt translate MODEL --precisions FILE writes it",
            ) from error
    return chosen | dict(_layer_precision(text) for text in arguments.layer_precision)


def _layer_precision(text: str) -> tuple[str, str]:
    # From the right: names of layers have colons.
    name, _, precision = text.rpartition(":")
    if not name or precision not in _CHOICES:
        raise ConfigurationError(
            f"--layer-precision {text}",
            expected=f"NAME:PRECISION, precision one of {', '.join(_CHOICES)}",
            fix="such as --layer-precision '*cls_preds*:fp16'",
        )
    return name, precision


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not HxW, such as 608x960") from None


class _Progress:
    """A rich progress bar that is an on_progress(fraction, phase) callback."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        # Where no bar is shown, rich still leaves a blank line.
        self._shown = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[phase]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=1.0, phase="")

    def __enter__(self) -> _Progress:
        if self._shown:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._progress.stop()

    def __call__(self, fraction: float, phase: str) -> None:
        self._progress.update(self._task, completed=fraction, phase=phase)


def _print_report(console: Any, report: BuildReport, *, all_layers: bool) -> None:
    from rich.table import Table

    table = Table(title="Engine", show_header=False, title_justify="left")
    table.add_column()
    table.add_column()
    for title, text in report.summary():
        table.add_row(title, text)
    console.print(table)
    layers = report.layers
    # With a DLA, what went to the GPU is what people look for.
    strays = [n for n in layers if n.device == "gpu"] if report.device.startswith("dla") else []
    shown = layers if all_layers else strays
    if not shown:
        return
    title = "Layers" if all_layers else "Layers that are not on the DLA"
    table = Table(title=f"{title} ({report.layers_source})", title_justify="left")
    for heading in ("#", "Layer", "Kind", "Device", "In", "Out", "ONNX nodes"):
        table.add_column(heading, overflow="fold")
    for number, layer in enumerate(shown):
        nodes = ", ".join(layer.onnx_nodes)
        types = (layer.input_type, layer.output_type)
        table.add_row(str(number), layer.name, layer.kind, layer.device, *types, nodes)
    console.print(table)


def _profile(console: Any, file: Any, runs: int, device: Device) -> list[dict[str, Any]]:
    from rich.table import Table

    from yolox_trt.engines.tensorrt import TensorRTEngine

    with TensorRTEngine(file, device=device) as engine:
        times = engine.profile_layers(engine.max_batch, runs)
    total = sum(layer.milliseconds for layer in times) or 1.0
    table = Table(title=f"Layer times, mean of {runs} runs, batch {engine.max_batch}")
    for heading in ("Layer", "ms", "%"):
        table.add_column(heading, overflow="fold")
    for layer in sorted(times, key=lambda entry: -entry.milliseconds):
        share = 100.0 * layer.milliseconds / total
        table.add_row(layer.name, f"{layer.milliseconds:.4f}", f"{share:.1f}")
    table.add_row("total", f"{total:.4f}", "100.0")
    console.print(table)
    return [{"layer": layer.name, "ms": layer.milliseconds} for layer in times]
