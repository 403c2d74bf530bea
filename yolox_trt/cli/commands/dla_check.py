# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt dla-check`: what a DLA would run of a model, and why not the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.compiler.dla.options import DlaTarget
from yolox_trt.core.files import write_atomically
from yolox_trt.core.input_size import InputSize, tool_size_option
from yolox_trt.core.option import nested, option, parse_path, path_option
from yolox_trt.core.output_paths import OutputFile

if TYPE_CHECKING:
    from yolox_trt.compiler.dla.report import DlaReport, NodeVerdict
    from yolox_trt.compiler.dla.rules import Rule

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class DlaCheck(Command, name="dla-check", has_json=True):
    """Tell what a DLA would run of a model, and why not the rest.

    An ONNX model is checked against the DLA's restrictions, without TensorRT. Exit status 0:
    everything runs on the DLA; 1: something falls back to the GPU.

    Examples:
        yolox_trt dla-check yolox_s.onnx
        yolox_trt dla-check yolox_s.onnx --tensorrt 10.3 --precision fp16 --svg graph.svg
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="ONNX file.")
    every: bool = option(False, flag="--all", help="List every node.")
    svg: Path | None = path_option(parse=OutputFile(".svg"), help="Draw the graph.")
    input_size: InputSize | None = tool_size_option()
    target: DlaTarget = nested(DlaTarget)

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.dla import check
        from yolox_trt.compiler.dla.picture import draw
        from yolox_trt.compiler.surgery.mending import keep_what_is_mended
        from yolox_trt.engines.engine_file import open_model
        from yolox_trt.graph.input_size import tool_size, with_size

        model = open_model(self.model)
        size = tool_size(model, self.input_size)
        model = model if size is None else with_size(model, size)
        report = keep_what_is_mended(check(model, self.target), model, self.target)
        _show_nodes(output, report, every=self.every)
        _show_subgraphs(output, report)
        _show_verdict(output, report)
        if self.svg is not None:
            write_atomically(self.svg, draw(report).encode())
        output.json(report.to_dict())
        return 0 if report.passes else 1


def _show_nodes(output: Output, report: DlaReport, *, every: bool) -> None:
    rows: list[tuple[str, ...]] = []
    rules: dict[tuple[str, str], Rule] = {}
    for node in report.nodes if every else report.fallback_nodes:
        violations = node.reasons if node.device == "gpu" else node.violations
        rules |= {(violation.rule, violation.mended_by): violation for violation in violations}
        rows += _rows(node, violations, every=every)
    if rows:
        title = "Nodes" if every else "Nodes that fall back to the GPU"
        device = ("device",) if every else ()
        output.table(title, ("node", "operator", *device, "shape", "rule", "found"), rows)
    if rules:
        output.table(
            "Rules",
            ("rule", "what it asks for", "mended by"),
            [(v.rule, v.text, v.mended_by or "-") for v in rules.values()],
        )


def _rows(node: NodeVerdict, violations: tuple[Rule, ...], *, every: bool) -> list[tuple[str, ...]]:
    """Return a line for each rule that a node breaks, or one if it breaks none."""
    shape = "" if node.shape is None else "x".join(str(d) for d in node.shape)
    operator = f"{node.op} {node.detail}".strip()
    device = (f"{node.device} {node.precision}".strip(),) if every else ()
    return [
        (node.name, operator, *device, shape, violation.rule, violation.found)
        for violation in violations
    ] or [(node.name, operator, *device, shape, "", "")]


def _show_subgraphs(output: Output, report: DlaReport) -> None:
    if report.subgraphs:
        output.table(
            "DLA subgraphs (one loadable each)",
            ("#", "nodes", "from", "to", "in", "out", "weights MiB", "intermediates MiB"),
            [
                (
                    s.index,
                    len(s.nodes),
                    s.nodes[0],
                    s.nodes[-1],
                    len(s.inputs),
                    len(s.outputs),
                    f"{s.weights / _MIB:.2f}",
                    f"{s.intermediates / _MIB:.2f}",
                )
                for s in report.subgraphs
            ],
        )
    inner = [t for t in report.transfers if not t.boundary]
    output.print(
        f"Transfers between GPU and DLA in each run: {len(inner)} inside the network "
        f"({sum(t.size for t in inner) / _MIB:.2f} MiB), {len(report.transfers) - len(inner)} "
        "inputs and outputs"
    )


def _show_verdict(output: Output, report: DlaReport) -> None:
    from yolox_trt.compiler.dla.rules import Effect

    if report.input_format or report.output_format:
        outputs = report.output_format.split(",") if report.output_format else []
        kinds = ", ".join(f"{outputs.count(k)} x {k}" for k in dict.fromkeys(outputs))
        output.print(
            f"Formats without reformatting: input {report.input_format or '-'}, "
            f"outputs {kinds or '-'}"
        )
    if report.fp16_nodes:
        kinds = ", ".join(sorted({n.op for n in report.fp16_nodes}))
        output.print(
            f"{len(report.fp16_nodes)} nodes run on the DLA in FP16 though INT8 was asked for "
            f"({kinds})"
        )
    for violation in report.graph_violations:
        broken = violation.effect is Effect.GPU
        output.print(
            f"The graph {'breaks' if broken else 'note:'} {violation.rule} "
            f"({violation.text}): {violation.found}",
            colour="red" if broken else "",
        )
    head = f"TensorRT {report.tensorrt}, {report.precision}, {report.soc}:"
    subgraphs = f"{len(report.subgraphs)} subgraph{'s' * (len(report.subgraphs) != 1)}"
    if report.passes:
        output.print(
            f"{head} all {len(report.dla_nodes)} nodes run on the DLA in {subgraphs}",
            colour="green",
        )
        return
    output.print(
        f"{head} {len(report.fallback_nodes)} nodes fall back to the GPU, "
        f"{len(report.dla_nodes)} run on the DLA in {subgraphs}",
        colour="red",
    )
    if report.head_unknown:
        output.print(
            "The outputs are not those of a YOLOX: `yolox_trt optimize` leaves the nodes behind "
            "the last convolutions as they are; export the model without them to cut them off"
        )
    if report.mending_passes:
        output.print(
            "`yolox_trt optimize MODEL --target dla -o OUT` mends: "
            + ", ".join(report.mending_passes)
        )
