# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tables: an Inspection for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolox_trt.compiler.inspector import CHANNEL_MULTIPLES, ConvFigures, Inspection
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    from rich.console import Console


def print_inspection(inspection: Inspection, console: Console, *, layers: bool = False) -> None:
    """Print the figures of a model; `layers` lists every convolution."""
    table = require("rich.table").Table(title=inspection.model, show_header=False)
    for row in _summary(inspection):
        table.add_row(*row)
    console.print(table)
    heaviest = sorted(inspection.convs, key=lambda c: -c.cost.flops)
    console.print(_layers(inspection, inspection.convs if layers else tuple(heaviest[:10]), layers))
    if inspection.device is not None:
        _print_device(inspection, console)
    if inspection.problems:
        table = require("rich.table").Table(
            title=f"What TensorRT {inspection.tensorrt}'s parser does not take"
        )
        for name in ("node", "operator", "why", "mended by"):
            table.add_column(name, overflow="fold")
        for p in inspection.problems:
            table.add_row(p.node, p.op, p.reason, p.mended_by or "-")
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


def _layers(i: Inspection, convs: tuple[ConvFigures, ...], every: bool) -> object:
    table = require("rich.table").Table(
        title="Convolutions" if every else "Heaviest convolutions (--layers lists all)"
    )
    table.add_column("node", overflow="fold")
    for name in ("kernel", "channels", "output", "activation"):
        table.add_column(name)
    for name in ("GFLOPs", "share", "parameters", "channel use", "ops/byte"):
        table.add_column(name, justify="right")
    if i.device is not None:
        table.add_column("bound by")
    timed = any(c.time_ms is not None for c in convs)
    if timed:
        table.add_column("ms", justify="right")
        table.add_column("efficiency", justify="right")
    for c in convs:
        kernel = "x".join(str(k) for k in c.cost.kernel)
        if any(s != 1 for s in c.cost.stride):
            kernel += f"/{c.cost.stride[0]}"
        if c.cost.groups > 1:
            kernel += f" g{c.cost.groups}"
        channels = f"{_channels(c.cost.input_shape)} -> {_channels(c.cost.output_shape)}"
        row = [
            c.cost.name,
            kernel,
            channels,
            "x".join(str(d) for d in c.cost.output_shape[2:]),
            c.activation,
            f"{c.cost.gflops:.3f}",
            f"{c.share:.1%}",
            str(c.cost.parameters),
            f"{c.utilisation:.0%}",
            f"{c.intensity:.0f}",
        ]
        if i.device is not None:
            row.append({None: "-", True: "memory", False: "compute"}[c.memory_bound])
        if timed:
            row.append("-" if c.time_ms is None else f"{c.time_ms:.3f}")
            row.append("-" if c.efficiency is None else f"{c.efficiency:.1f} %")
        table.add_row(*row)
    return table


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
