# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Tables: a DlaReport for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolox_trt.compiler.dla.report import DlaReport, NodeVerdict
from yolox_trt.compiler.dla.rules import Effect
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    from rich.console import Console


def print_report(report: DlaReport, console: Console, *, all_nodes: bool = False) -> None:
    """Print nodes (those off the DLA, or all), subgraphs, transfers and the verdict."""
    rich_table = require("rich.table")
    escape = require("rich.markup").escape
    shown = [n for n in report.nodes if all_nodes or n.device == "gpu"]
    if shown:
        table = rich_table.Table(title="Nodes" if all_nodes else "Nodes that fall back to the GPU")
        for name in ("node", "operator", "device", "shape", "rule", "found", "mended by"):
            table.add_column(name, overflow="fold")
        for node in shown:
            for row in _rows(node):
                table.add_row(*(escape(cell) for cell in row))
        console.print(table)
    if report.subgraphs:
        table = rich_table.Table(title="DLA subgraphs (one loadable each)")
        table.add_column("#", justify="right")
        table.add_column("nodes", justify="right")
        table.add_column("from")
        table.add_column("to")
        for name in ("inputs", "outputs", "weights MiB", "intermediates MiB"):
            table.add_column(name, justify="right")
        for s in report.subgraphs[:20]:
            table.add_row(
                str(s.index),
                str(len(s.nodes)),
                escape(s.nodes[0]),
                escape(s.nodes[-1]),
                str(len(s.inputs)),
                str(len(s.outputs)),
                f"{s.weights / 2**20:.2f}",
                f"{s.intermediates / 2**20:.2f}",
            )
        console.print(table)
        if len(report.subgraphs) > 20:
            console.print(f"... and {len(report.subgraphs) - 20} more (see --json)")
    inner = [t for t in report.transfers if not t.boundary]
    size = sum(t.size for t in inner) / 2**20
    console.print(
        f"Transfers between GPU and DLA in each run: {len(inner)} inside the network "
        f"({size:.2f} MiB), {len(report.transfers) - len(inner)} inputs and outputs"
    )
    if report.input_format or report.output_format:
        outputs = report.output_format.split(",") if report.output_format else []
        kinds = ", ".join(f"{outputs.count(k)} x {k}" for k in dict.fromkeys(outputs))
        console.print(
            f"Formats without reformatting: input {report.input_format or '-'}, "
            f"outputs {kinds or '-'}"
        )
    fp16 = report.fp16_nodes
    if fp16:
        kinds = ", ".join(sorted({n.op for n in fp16}))
        console.print(
            f"{len(fp16)} nodes run on the DLA in FP16 though INT8 was asked for ({kinds})"
        )
    for violation in report.graph_violations:
        word = "[red]breaks[/red]" if violation.effect is Effect.GPU else "note:"
        console.print(
            f"The graph {word} {violation.rule.id} ({violation.rule.text}): "
            + escape(violation.found)
        )
    head = f"TensorRT {report.tensorrt}, {report.precision}, {report.soc}:"
    if report.passes:
        console.print(
            f"[green]{head} all {len(report.dla_nodes)} nodes run on the DLA in "
            f"{len(report.subgraphs)} subgraph{'s' * (len(report.subgraphs) != 1)}[/green]"
        )
        return
    console.print(
        f"[red]{head} {len(report.fallback_nodes)} nodes fall back to the GPU, "
        f"{len(report.dla_nodes)} run on the DLA in {len(report.subgraphs)} subgraphs[/red]"
    )
    if report.head_unknown:
        console.print(
            "The outputs are not those of a YOLOX: its nodes behind the last convolutions are not "
            "cut off by `yolox_trt optimize`; export the model without them"
        )
    if report.mending_passes:
        keep = "--head keep " if report.head_unknown else ""
        console.print(
            f"`yolox_trt optimize MODEL {keep}--target dla -o OUT` mends: "
            + ", ".join(report.mending_passes)
        )


def _rows(node: NodeVerdict) -> list[tuple[str, ...]]:
    shape = "" if node.shape is None else "x".join(str(d) for d in node.shape)
    operator = " ".join(p for p in (node.op, node.detail) if p)
    device = node.device if not node.precision else f"{node.device} {node.precision}"
    start = (node.name, operator, device, shape)
    violations = node.reasons if node.device == "gpu" else node.violations
    if not violations:
        return [(*start, "", "", "")]
    rows: list[tuple[str, ...]] = []
    for i, violation in enumerate(violations):
        lead = start if i == 0 else ("", "", "", "")
        rule = f"{violation.rule.id}: {violation.rule.text}"
        rows.append((*lead, rule, violation.found, violation.mended_by))
    return rows
