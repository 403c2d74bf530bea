# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tables: a SurgeryReport for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolox_trt.compiler.surgery.report import GraphFigures, SurgeryReport
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: SurgeryReport, console: Console) -> None:
    """Print what each pass did, then the figures before and after."""
    rich_table = require("rich.table")
    escape = require("rich.markup").escape
    table = rich_table.Table(title="Passes")
    table.add_column("pass", no_wrap=True)
    table.add_column("what it did", overflow="fold")
    table.add_column("difference", justify="right")
    for record in report.passes:
        lines = [escape(c) for c in _shortened(record.changes)]
        lines += [f"[dim]{escape(n)}[/dim]" for n in record.notes]
        difference = "" if record.difference is None else f"{record.difference:.1e}"
        table.add_row(record.name, "\n".join(lines), difference)
    console.print(table)
    table = rich_table.Table(title="Model")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    before, after = report.before, report.after
    for name, a, b in _figures(before, after):
        table.add_row(name, a, b)
    for op in sorted({*before.operators, *after.operators}):
        old, new = before.operators.get(op, 0), after.operators.get(op, 0)
        if old != new:
            table.add_row(f"  {op}", str(old), str(new))
    console.print(table)
    if report.difference is None:
        console.print(f"[yellow]Predictions not compared: {escape(report.not_measured)}[/yellow]")
    else:
        console.print(
            f"Predictions: max |after - before| / max |before| = {report.difference:.2e} "
            "(ONNX Runtime, random images)"
        )


def _shortened(lines: tuple[str, ...], most: int = 4) -> list[str]:
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], f"... and {len(lines) - most + 1} more"]


def _figures(before: GraphFigures, after: GraphFigures) -> list[tuple[str, str, str]]:
    def gflops(figures: GraphFigures) -> str:
        return "sizes open" if figures.gflops is None else f"{figures.gflops:.3f}"

    return [
        ("operators", str(before.nodes), str(after.nodes)),
        ("parameters (M)", f"{before.parameters / 1e6:.3f}", f"{after.parameters / 1e6:.3f}"),
        ("GFLOPs", gflops(before), gflops(after)),
        ("layers on the DLA", str(before.dla_nodes), str(after.dla_nodes)),
        ("layers falling back", str(before.gpu_nodes), str(after.gpu_nodes)),
        ("DLA subgraphs", str(before.subgraphs), str(after.subgraphs)),
        ("GPU-DLA transfers", str(before.transfers), str(after.transfers)),
    ]
