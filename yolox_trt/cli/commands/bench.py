# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench NAME`: benchmarks."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, make_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from yolox_trt.cli.command import Command, name_in
from yolox_trt.cli.output import Output
from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.option import nested
from yolox_trt.core.optional import require
from yolox_trt.evaluation.options import (
    CamerasOptions,
    CpuOptions,
    ExecutorOptions,
    KernelsOptions,
    NetworkOptions,
    PipelineOptions,
    WorkersOptions,
)
from yolox_trt.ros.tools.options import (
    ConsolidationOptions,
    HandOverOptions,
    RosBenchOptions,
    TransportOptions,
)

if TYPE_CHECKING:
    from yolox_trt.evaluation.bench.report import Report


@dataclass(frozen=True, kw_only=True)
class _Benchmark(Command, has_json=True):
    """A benchmark: its module has measure(options, on_progress), which returns a Report."""

    module: ClassVar[str]
    options: Any = None

    def run(self, output: Output) -> int:
        report = self.measure(output)
        output.json(report.document)
        return int(report.failed)

    def measure(self, output: Output) -> Report:
        """Measure, and print the tables; the caller writes the document."""
        with output.progress(per_second=1.0) as progress:
            measure = importlib.import_module(self.module).measure
            report: Report = measure(self.options, progress)
        for table in report.tables:
            output.table(table.title, table.headings, table.rows)
        for note in report.notes:
            output.print(note)
        return report


def _benchmark(name: str, options: type[Any], module: str, *needs: str) -> type[_Benchmark]:
    """Make the command of a benchmark; the docstring of its options is its help."""
    command: type[_Benchmark] = make_dataclass(
        f"Bench{options.__name__}",
        [("options", options, nested(options))],
        bases=(_Benchmark,),
        frozen=True,
        kw_only=True,
    )
    command.name, command.module, command.needs = f"bench {name}", f"yolox_trt.{module}", needs
    command.__doc__ = options.__doc__
    return command


BENCHMARKS = (
    _benchmark("cameras", CamerasOptions, "evaluation.bench.cameras"),
    _benchmark("cpu", CpuOptions, "evaluation.bench.cpu", "onnxruntime"),
    _benchmark("executor", ExecutorOptions, "evaluation.bench.executor"),
    _benchmark("kernels", KernelsOptions, "evaluation.bench.kernels", "cupy"),
    _benchmark("network", NetworkOptions, "evaluation.bench.network", "onnxruntime"),
    _benchmark("pipeline", PipelineOptions, "evaluation.bench.pipeline", "cupy", "onnx"),
    _benchmark("workers", WorkersOptions, "evaluation.bench.workers"),
    _benchmark("consolidation", ConsolidationOptions, "ros.tools.bench_consolidation", "psutil"),
    _benchmark("hand-over", HandOverOptions, "ros.tools.bench_hand_over"),
    _benchmark("ros", RosBenchOptions, "ros.tools.bench", "rclpy", "vision_msgs"),
    _benchmark("ros-transport", TransportOptions, "ros.tools.bench_transport", "rclpy"),
)


@dataclass(frozen=True, kw_only=True)
class BenchAll(Command, name="bench all", has_json=True):
    """All benchmarks that this machine can run, with their defaults.

    One that cannot run says why, and the next one begins.
    """

    def run(self, output: Output) -> int:
        documents: dict[str, Any] = {}
        failed = False
        for benchmark in BENCHMARKS:
            output.print(f"## {benchmark.name}\n")
            try:
                for package in benchmark.needs:
                    require(package, purpose=f"`yolox_trt {benchmark.name}`")
                report = benchmark().measure(output)
                documents[benchmark.name] = report.document
                failed = failed or report.failed
            except YoloxTrtError as error:
                output.print(f"not run: {error.text(partial(name_in, benchmark))}")
            output.print("")
        output.json(documents)
        return int(failed)
