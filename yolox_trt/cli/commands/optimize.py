# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt optimize`: rewrite a model for the GPU or the DLA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import write_atomically
from yolox_trt.core.option import Kind, nested, option, options_of, path_option
from yolox_trt.core.output_paths import OutputFile

if TYPE_CHECKING:
    from yolox_trt.compiler.surgery import OptimizeResult
    from yolox_trt.compiler.surgery.report import GraphFigures, SurgeryReport

#: Changes of a pass that are shown; --json has all.
_CHANGES = 4


def _named_models(texts: list[str]) -> tuple[tuple[str, Path], ...]:
    models = []
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ConfigurationError(f"'{text}'", expected="NAME=MODEL, such as lights=tlr.onnx")
        models.append((name, Path(path)))
    return tuple(models)


@dataclass(frozen=True, kw_only=True)
class Optimize(Command, name="optimize", has_json=True):
    """Rewrite a model for the GPU or the DLA, without retraining.

    An ONNX model with one image input is rewritten in small exact steps, each compared with the
    original in ONNX Runtime. Exit status 1: with --target dla something still falls back to the
    GPU.

    Examples:
        yolox_trt optimize yolox_s.onnx --target dla -o yolox_s_dla.onnx
        yolox_trt optimize yolox_s.onnx --input-size 608x960 --batch 4 -o large.onnx
    """

    model: Path | None = path_option(flag="MODEL", metavar="MODEL", help="ONNX file.")
    output: Path | None = path_option(
        flag="--output -o", parse=OutputFile(), help="ONNX file to write."
    )
    no_verify: bool = option(False, help="Do not compare with the original.")
    list_passes: bool = option(False, help="List the passes and stop.")
    merge: tuple[tuple[str, Path], ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=_named_models,
        metavar="NAME=MODEL",
        help="Merge with another model on the same input; outputs become NAME/..., the first "
        "model's main/....",
    )
    surgery: SurgeryOptions = nested(SurgeryOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.surgery import PASSES, merge_models

        if self.list_passes:
            passes = [(name, rewrite.summary) for name, rewrite in PASSES.items()]
            output.table("", ("pass", "what it does"), passes)
            output.json(dict(passes))
            return 0
        if self.model is None or self.output is None:
            missing = options_of(Optimize)["model" if self.model is None else "output"]
            raise ConfigurationError(
                ("no ", missing),
                expected="MODEL -o OUT",
                fix="yolox_trt optimize MODEL --target dla -o OUT",
            )
        results: dict[str, OptimizeResult] = {}
        for name, path in (("main", self.model), *self.merge):
            if results:
                output.print(f"{name}: {path}")
            results[name] = self._optimize(output, path)
            _show(output, results[name].report)
        models = {name: result.model for name, result in results.items()}
        model = merge_models(models) if self.merge else models["main"]
        write_atomically(self.output, model.SerializeToString())
        output.print(f"Wrote {self.output}")
        output.json(results["main"].report)
        fallback = any(result.report.after.gpu_nodes for result in results.values())
        return int(self.surgery.target == "dla" and fallback)

    def _optimize(self, output: Output, path: Path) -> OptimizeResult:
        from yolox_trt.compiler.surgery import optimize

        with output.progress() as bar:
            return optimize(
                path,
                self.surgery,
                verify=not self.no_verify,
                progress=lambda name, step, steps: bar(path.name, step, steps, name),
            )


def _show(output: Output, report: SurgeryReport) -> None:
    rows = []
    for record in report.passes:
        difference = "-" if record.difference is None else f"{record.difference:.1e}"
        more = len(record.changes) - _CHANGES
        lines = [*record.changes[:_CHANGES], *([f"... and {more} more"] if more > 0 else [])]
        for number, line in enumerate([*lines, *record.notes]):
            rows.append(("" if number else record.name, line, "" if number else difference))
    output.table("Passes", ("pass", "what it did", "difference"), rows)
    before, after = report.before, report.after
    changed = [
        (f"  {op}", before.operators.get(op, 0), after.operators.get(op, 0))
        for op in sorted({*before.operators, *after.operators})
        if before.operators.get(op, 0) != after.operators.get(op, 0)
    ]
    figures = zip(_figures(before), _figures(after), strict=True)
    output.table(
        "Model",
        ("", "before", "after"),
        [*((name, old, new) for (name, old), (_, new) in figures), *changed],
    )
    if report.difference is None:
        output.print(f"Predictions not compared: {report.not_measured}", colour="yellow")
    else:
        output.print(
            f"Predictions: max |after - before| / max |before| = {report.difference:.2e} "
            "(ONNX Runtime, random images)"
        )


def _figures(of: GraphFigures) -> list[tuple[str, str]]:
    return [
        ("operators", str(of.nodes)),
        ("parameters (M)", f"{of.parameters / 1e6:.3f}"),
        ("GFLOPs", "sizes open" if of.gflops is None else f"{of.gflops:.3f}"),
        ("layers on the DLA", str(of.dla_nodes)),
        ("layers falling back", str(of.gpu_nodes)),
        ("DLA subgraphs", str(of.subgraphs)),
        ("GPU-DLA transfers", str(of.transfers)),
    ]
