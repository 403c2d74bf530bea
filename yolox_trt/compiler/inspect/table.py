# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tables: an Inspection for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolox_trt.compiler.inspect.inspector import CHANNEL_MULTIPLES, ConvFigures, Inspection
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    from rich.console import Console


def print_inspection(inspection: Inspection, console: Console, *, layers: bool = False) -> None:
    """Print the figures of a model; `layers` lists every convolution."""
    table = require("rich.table").Table(
        title=require("rich.markup").escape(inspection.model), show_header=False
    )
    for row in _summary(inspection):
        table.add_row(*row)
    console.print(table)
    heaviest = sorted(inspection.convs, key=lambda c: -c.cost.flops)
    convs = inspection.convs if layers else tuple(heaviest[:10])
    console.print(_layers(inspection, convs, layers, console.width))
    if inspection.device is not None:
        _print_device(inspection, console)
    if inspection.problems:
        escape = require("rich.markup").escape
        table = require("rich.table").Table(
            title=f"What TensorRT {inspection.tensorrt}'s parser does not take"
        )
        for name in ("node", "operator", "why", "mended by"):
            table.add_column(name, overflow="fold")
        for p in inspection.problems:
            table.add_row(escape(p.node), p.op, escape(p.reason), p.mended_by or "-")
        console.print(table)
    else:
        console.print(f"TensorRT {inspection.tensorrt}'s parser takes every operator")


def _summary(i: Inspection) -> list[tuple[str, str]]:
    multiple = CHANNEL_MULTIPLES[i.precision]
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
            f"channels not multiples of {multiple}",
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


def _layers(i: Inspection, convs: tuple[ConvFigures, ...], every: bool, width: int) -> object:
    """Return the table of convolutions; a narrow terminal gets fewer columns."""
    timed = any(c.time_ms is not None for c in convs)
    columns: list[tuple[str, bool, list[str]]] = [
        ("kernel", True, [_kernel(c) for c in convs]),
        (
            "channels",
            True,
            [f"{_channels(c.cost.input_shape)} > {_channels(c.cost.output_shape)}" for c in convs],
        ),
        ("output", width >= 100, ["x".join(map(str, c.cost.output_shape[2:])) for c in convs]),
        ("activation", width >= 110, [c.activation for c in convs]),
        ("GFLOPs", True, [f"{c.cost.gflops:.3f}" for c in convs]),
        ("share", True, [f"{c.share:.1%}" for c in convs]),
        ("parameters", width >= 120, [str(c.cost.parameters) for c in convs]),
        ("used", True, [f"{c.utilisation:.0%}" for c in convs]),
        ("ops/byte", True, [f"{c.intensity:.0f}" for c in convs]),
        (
            "bound by",
            i.device is not None,
            [{None: "-", True: "memory", False: "compute"}[c.memory_bound] for c in convs],
        ),
        ("ms", timed, ["-" if c.time_ms is None else f"{c.time_ms:.3f}" for c in convs]),
        (
            "efficiency",
            timed,
            ["-" if c.efficiency is None else f"{c.efficiency:.1f} %" for c in convs],
        ),
    ]
    shown = [(name, cells) for name, wanted, cells in columns if wanted]
    escape = require("rich.markup").escape
    table = require("rich.table").Table(
        title="Convolutions" if every else "Heaviest convolutions (--layers lists all)"
    )
    table.add_column("node", overflow="fold")
    for name, _ in shown:
        words = name in ("kernel", "activation", "bound by")
        table.add_column(name, no_wrap=True, justify="left" if words else "right")
    for k, conv in enumerate(convs):
        table.add_row(escape(conv.cost.name), *(cells[k] for _, cells in shown))
    return table


def _kernel(conv: ConvFigures) -> str:
    text = "x".join(str(k) for k in conv.cost.kernel)
    if any(s != 1 for s in conv.cost.stride):
        text += f"/{conv.cost.stride[0]}"
    return f"{text} g{conv.cost.groups}" if conv.cost.groups > 1 else text


def _channels(shape: tuple[int, ...]) -> str:
    return str(shape[1]) if len(shape) > 1 else "-"


def _print_device(i: Inspection, console: Console) -> None:
    device = i.device
    assert device is not None
    peak = device.peak(i.precision)
    source = device.source if i.precision == "int8" else device.fp16_source
    console.print(
        f"{device.name}: {'-' if peak is None else f'{peak:.2f}'} TOPS {i.precision} dense, "
        f"{device.bandwidth} GB/s ({source})"
    )
    if i.bound_ms is not None:
        console.print(f"Least time of one run (peak and bandwidth): {i.bound_ms:.3f} ms")
    if i.efficiency is not None:
        console.print(
            f"Efficiency: {i.gflops:.2f} GFLOPs / {i.time_ms:.3f} ms / {peak:.2f} TOPS = "
            f"{i.efficiency:.2f} %"
        )
    if i.published:
        table = require("rich.table").Table(title="Published runs on this device (INT8)")
        for name in ("model", "input H x W", "GFLOPs", "M params", "ms", "efficiency"):
            table.add_column(name)
        for run in i.published:
            own = device.efficiency(run.gflops, run.time_ms, "int8") or 0.0
            printed = f"{run.efficiency} %" if run.efficiency else f"({own:.2f} %, computed)"
            table.add_row(
                run.model, f"{run.height}x{run.width}", f"{run.gflops}", f"{run.parameters}",
                f"{run.time_ms}", printed,
            )  # fmt: skip
        console.print(table)
