# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt soak`: faults for half an hour; memory and counters must stay right."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.option import option, path_option
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    from yolox_trt.evaluation.bench.soak import SoakReport

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class SoakCommand(Command, name="soak", has_json=True):
    """Run for half an hour with a fault every 20 s.

    Four cameras at 10 Hz on a CPU (ONNX Runtime) and a simulated GPU and DLA, which raise, give
    NaN, hang and run out of memory in turn. Resident memory must stay flat, nothing may leak, and
    every frame must be accounted for; exit status 1 if not.

    With --ros, the cameras publish images, and the node multi_camera with two ingest processes
    receives them. Its world fails as well: images that are none, huge headers, processes that are
    killed or stopped, cameras that are silent or frozen, clocks that are set, parameters and
    transitions.
    """

    minutes: float = option(30.0, above=0.0, unit="min", help="Length.")
    fault_period: float = option(20.0, above=0.0, unit="s", help="From one fault to the next.")
    model: Path | None = path_option(help="YOLOX ONNX file (default: the shipped model).")
    ros: bool = option(False, help="Soak the node multi_camera, and the world around it.")

    def run(self, output: Output) -> int:
        from yolox_trt.evaluation.bench.soak import Soak, steady_memory

        # Every fault is logged as an error; here they are expected, and counted.
        logging.getLogger("yolox_trt").setLevel(logging.CRITICAL)
        seconds = 60.0 * self.minutes
        with output.progress() as bar:
            settings: dict[str, Any] = {
                "seconds": seconds,
                "warm_up": min(180.0, 0.25 * seconds),
                "fault_period": self.fault_period,
                "model": self.model,
                "progress": lambda now, done: bar("soaking", now, seconds, done),
            }
            if self.ros:
                require("rclpy", purpose="the ROS nodes")
                from yolox_trt.ros.tools.soak import soak

                report = soak(**settings)
            else:
                steady_memory()
                gc.collect()
                report = Soak(**settings).run()
        _show(output, report)
        figures = dataclasses.asdict(report)
        output.json(figures | {"growth": report.growth, "cores": os.cpu_count()})
        return 1 if report.problems else 0


def _show(output: Output, report: SoakReport) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items() if count)
    memory = (report.memory_start / _MIB, report.memory_end / _MIB)
    output.table(
        f"Soak of {report.seconds / 60.0:g} minutes",
        (),
        [
            ("received", report.received),
            ("processed", report.processed),
            ("dropped", dropped or "0"),
            *((f"fault: {name}", count) for name, count in report.faults.items()),
            ("failures, restarts", f"{report.errors}, {report.restarts}"),
            ("late results discarded", report.late_results),
            ("resident memory", f"{memory[0]:.1f} -> {memory[1]:.1f} MiB ({report.growth:+.2%})"),
            ("descriptors", f"{report.descriptors_start:.0f} -> {report.descriptors_end:.0f}"),
            ("threads", f"{report.threads_start:.0f} -> {report.threads_end:.0f}"),
        ],
    )
    for problem in report.problems:
        output.print(f"PROBLEM: {problem}", colour="red")
    if not report.problems:
        output.print("all well: memory flat, nothing leaks, every frame is accounted for")
