# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt inspect`: what a model costs, before it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.compiler.inspect.options import InspectOptions
from yolox_trt.core.option import nested, option, parse_path, path_option

if TYPE_CHECKING:
    from yolox_trt.compiler.inspect.hardware import Hardware
    from yolox_trt.compiler.inspect.inspector import ConvFigures, Inspection


@dataclass(frozen=True, kw_only=True)
class Inspect(Command, name="inspect", has_json=True):
    """Show GFLOPs, parameters, channels, activations and TensorRT's support of a model.

    Exit status 1: TensorRT's parser does not take an operator.

    Examples:
        yolox_trt inspect yolox_s.onnx --hardware orin-dla --time 5.2
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="ONNX file.")
    profile: Path | None = path_option(
        help="Measured time of each layer: JSON of trtexec --exportProfile or of "
        "`yolox_trt build --profile RUNS --json`.",
    )
    layers: bool = option(False, help="List every convolution.")
    options: InspectOptions = nested(InspectOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.inspect.inspector import inspect_model, read_profile

        profile = None if self.profile is None else read_profile(self.profile)
        found = inspect_model(self.model, self.options, profile=profile)
        output.table(found.model, (), _summary(found))
        heaviest = sorted(found.convs, key=lambda conv: -conv.cost.flops)[:10]
        title = "Convolutions" if self.layers else "Heaviest convolutions (--layers lists all)"
        _show_convolutions(output, title, found, found.convs if self.layers else heaviest)
        if found.hardware is not None:
            _show_hardware(output, found, found.hardware)
        if found.problems:
            output.table(
                f"What TensorRT {found.tensorrt}'s parser does not take",
                ("node", "operator", "why", "mended by"),
                [(p.node, p.op, p.reason, p.mended_by or "-") for p in found.problems],
            )
        else:
            output.print(f"TensorRT {found.tensorrt}'s parser takes every operator")
        output.json(found)
        return 1 if found.refused else 0


def _summary(i: Inspection) -> list[tuple[str, str]]:
    from yolox_trt.compiler.inspect.inspector import CHANNEL_MULTIPLES

    waste = i.padded_gflops / i.gflops - 1 if i.gflops else 0.0
    activations = ", ".join(
        f"{n} {name} ({i.activation_elements[name] / 1e6:.2f} M elements)"
        for name, n in i.activations.items()
    )
    rows = [
        ("input", "x".join(str(d) for d in i.input_shape)),
        ("GFLOPs", f"{i.gflops:.3f}"),
        ("parameters", f"{i.parameters / 1e6:.3f} M"),
        ("convolutions", str(len(i.convs))),
        (
            f"channels not multiples of {CHANNEL_MULTIPLES[i.precision]}",
            f"{len(i.odd_channels)} convolutions; the units do {i.padded_gflops:.3f} GFLOPs "
            f"({waste:+.1%})",
        ),
        ("1x1 convolutions", f"{i.pointwise_share:.1%} of the operations"),
        ("activations", activations or "none"),
    ]
    if i.depthwise_share:
        rows.append(("depthwise convolutions", f"{i.depthwise_share:.1%} of the operations"))
    if i.silu_bytes_share:
        rows.append(("SiLU, where not fused", f"{i.silu_bytes_share:.1%} of the bytes moved"))
    if i.silu_time_share is not None:
        rows.append(("SiLU in layers of its own", f"{i.silu_time_share:.1%} of the measured time"))
    return rows


def _show_convolutions(
    output: Output, title: str, i: Inspection, convs: Sequence[ConvFigures]
) -> None:
    """Print the convolutions; a narrow terminal gets fewer columns."""
    width = output.width
    bound = {None: "-", True: "memory", False: "compute"}
    columns = {
        "node": [c.cost.name for c in convs],
        "kernel": [_kernel(c) for c in convs],
        "channels": [
            f"{_channels(c.cost.input_shape)} > {_channels(c.cost.output_shape)}" for c in convs
        ],
        "GFLOPs": [f"{c.cost.gflops:.3f}" for c in convs],
        "share": [f"{c.share:.1%}" for c in convs],
        "used": [f"{c.utilisation:.0%}" for c in convs],
        "ops/byte": [f"{c.intensity:.0f}" for c in convs],
    }
    if width >= 110:
        columns["output"] = ["x".join(map(str, c.cost.output_shape[2:])) for c in convs]
        columns["activation"] = [c.activation for c in convs]
        columns["parameters"] = [str(c.cost.parameters) for c in convs]
    if i.hardware is not None:
        columns["bound by"] = [bound[c.memory_bound] for c in convs]
    if any(c.time_ms is not None for c in convs):
        columns["ms"] = ["-" if c.time_ms is None else f"{c.time_ms:.3f}" for c in convs]
        columns["efficiency"] = [
            "-" if c.efficiency is None else f"{c.efficiency:.1f} %" for c in convs
        ]
    output.table(title, tuple(columns), list(zip(*columns.values(), strict=True)))


def _kernel(conv: ConvFigures) -> str:
    text = "x".join(str(k) for k in conv.cost.kernel)
    if any(s != 1 for s in conv.cost.stride):
        text += f"/{conv.cost.stride[0]}"
    return f"{text} g{conv.cost.groups}" if conv.cost.groups > 1 else text


def _channels(shape: tuple[int, ...]) -> str:
    return str(shape[1]) if len(shape) > 1 else "-"


def _show_hardware(output: Output, i: Inspection, hardware: Hardware) -> None:
    peak = hardware.peak(i.precision)
    source = hardware.source if i.precision == "int8" else hardware.fp16_source
    output.print(
        f"{hardware.name}: {'-' if peak is None else f'{peak:.2f}'} TOPS {i.precision} dense, "
        f"{hardware.bandwidth} GB/s ({source})"
    )
    if i.bound_ms is not None:
        output.print(f"Least time of one run (peak and bandwidth): {i.bound_ms:.3f} ms")
    if i.efficiency is not None:
        output.print(
            f"Efficiency: {i.gflops:.2f} GFLOPs / {i.time_ms:.3f} ms / {peak:.2f} TOPS = "
            f"{i.efficiency:.2f} %"
        )
    rows = []
    for run in i.published:
        own = hardware.efficiency(run.gflops, run.time_ms, "int8") or 0.0
        printed = f"{run.efficiency} %" if run.efficiency else f"({own:.2f} %, computed)"
        size = f"{run.height}x{run.width}"
        rows.append((run.model, size, run.gflops, run.parameters, run.time_ms, printed))
    if rows:
        output.table(
            "Published runs on this hardware (INT8)",
            ("model", "input HxW", "GFLOPs", "M params", "ms", "efficiency"),
            rows,
        )
