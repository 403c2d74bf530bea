# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench NAME`: benchmarks."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
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
    PipelineOptions,
)
from yolox_trt.ros.tools.options import RosBenchOptions, TransportOptions

if TYPE_CHECKING:
    from yolox_trt.evaluation.bench.report import Report


@dataclass(frozen=True, kw_only=True)
class _Benchmark(Command):
    """A benchmark: its module has measure(options, on_progress), which returns a Report."""

    has_json: ClassVar[bool] = True
    module: ClassVar[str]
    options: Any = None

    def run(self, output: Output) -> int:
        """Measure, and print the tables."""
        report = self.measure(output)
        output.json(report.document)
        return int(report.failed)

    def measure(self, output: Output) -> Report:
        """Measure, and print the tables; the document is left to the caller."""
        with output.progress(per_second=1.0) as progress:
            measure = importlib.import_module(self.module).measure
            report: Report = measure(self.options, progress)
        for table in report.tables:
            output.table(table.title, table.headings, table.rows)
        for note in report.notes:
            output.print(note)
        return report


@dataclass(frozen=True, kw_only=True)
class BenchCameras(_Benchmark):
    """Many cameras through one executor and a real engine, without ROS."""

    name: ClassVar[str] = "bench cameras"
    module: ClassVar[str] = "yolox_trt.evaluation.bench.cameras"
    options: CamerasOptions = nested(CamerasOptions)


@dataclass(frozen=True, kw_only=True)
class BenchCpu(_Benchmark):
    """CPU preprocessing, decode + NMS and the whole path, against YOLOX's ONNX demo."""

    name: ClassVar[str] = "bench cpu"
    needs: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    module: ClassVar[str] = "yolox_trt.evaluation.bench.cpu"
    options: CpuOptions = nested(CpuOptions)


@dataclass(frozen=True, kw_only=True)
class BenchExecutor(_Benchmark):
    """The executor's own time for each frame, with simulated engines.

    The engines sleep for a constant time, so what is left is the executor: from submit() to the
    start of detect() (less the time that the device was still busy with another frame), and from
    the end of detect() to the call of on_result.
    """

    name: ClassVar[str] = "bench executor"
    module: ClassVar[str] = "yolox_trt.evaluation.bench.executor"
    options: ExecutorOptions = nested(ExecutorOptions)


@dataclass(frozen=True, kw_only=True)
class BenchKernels(_Benchmark):
    """CUDA kernels: preprocessing against the copy bandwidth, decode + NMS."""

    name: ClassVar[str] = "bench kernels"
    needs: ClassVar[tuple[str, ...]] = ("cupy",)
    module: ClassVar[str] = "yolox_trt.evaluation.bench.kernels"
    options: KernelsOptions = nested(KernelsOptions)


@dataclass(frozen=True, kw_only=True)
class BenchPipeline(_Benchmark):
    """Host bytes to host detections on the GPU: engine, copy, and everything else."""

    name: ClassVar[str] = "bench pipeline"
    needs: ClassVar[tuple[str, ...]] = ("cupy", "onnx")
    module: ClassVar[str] = "yolox_trt.evaluation.bench.pipeline"
    options: PipelineOptions = nested(PipelineOptions)


@dataclass(frozen=True, kw_only=True)
class BenchRos(_Benchmark):
    """Many cameras through ROS: rate held, drops, latency, overhead, CPU.

    Cameras are processes, multi_camera is the real one, its results come back here. The exit
    status is 1 if a camera had no result at all.
    """

    name: ClassVar[str] = "bench ros"
    needs: ClassVar[tuple[str, ...]] = ("rclpy", "vision_msgs")
    module: ClassVar[str] = "yolox_trt.ros.tools.bench"
    options: RosBenchOptions = nested(RosBenchOptions)


@dataclass(frozen=True, kw_only=True)
class BenchRosTransport(_Benchmark):
    """Large images over Fast DDS, before and after the shipped settings."""

    name: ClassVar[str] = "bench ros-transport"
    needs: ClassVar[tuple[str, ...]] = ("rclpy",)
    module: ClassVar[str] = "yolox_trt.ros.tools.bench_transport"
    options: TransportOptions = nested(TransportOptions)


BENCHMARKS: tuple[type[_Benchmark], ...] = (
    BenchCameras,
    BenchCpu,
    BenchExecutor,
    BenchKernels,
    BenchPipeline,
    BenchRos,
    BenchRosTransport,
)


@dataclass(frozen=True, kw_only=True)
class BenchAll(Command):
    """All benchmarks that this machine can run, with their defaults.

    One that cannot run says why, and the next one begins.
    """

    name: ClassVar[str] = "bench all"
    has_json: ClassVar[bool] = True

    def run(self, output: Output) -> int:
        """Run one after the other."""
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
