# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench executor`: the executor's own time for each frame, with simulated engines.

The engines sleep for a constant time, so what is left is the executor: from submit() to the start
of detect() (less the time that the device was still busy with another frame), and from the end of
detect() to the call of on_result.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.cli.arguments import options_named, positive_number, whole_number
from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.simulated import SimulatedDetector
from yolox_trt.engines.simulated import ConstantLatency
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.executor.stream_config import StreamConfig
from yolox_trt.executor.stream_result import StreamResult

SUMMARY = "the executor's own time for each frame, with simulated engines"

Times = npt.NDArray[np.float64]


class _Stamps:
    """Times of every frame in arrays made before the run, in seconds of time.monotonic().

    Dictionaries would grow while it is measured, and Python's garbage collector would walk
    through them at the cost of the frames that wait meanwhile.

    Args:
        count: number of frames; Frame.stamp_ns is a frame's index.
    """

    def __init__(self, count: int) -> None:
        self.submitted, self.device_free, self.begin, self.end, self.delivered = (
            np.full(count, np.nan) for _ in range(5)
        )


class _StampingDetector(SimulatedDetector):
    """Notes when each detect() call begins and ends."""

    def __init__(self, device: Device, seconds: float, stamps: _Stamps) -> None:
        super().__init__(device, ConstantLatency(seconds))
        self._stamps = stamps
        self._last_end = 0.0

    def detect(
        self, frames: Sequence[Frame], options: Sequence[PostprocessOptions]
    ) -> list[Detections]:
        """Detect, and note the end of the call before, begin and end for the frame."""
        begin = time.monotonic()
        results = super().detect(frames, options)
        end = time.monotonic()
        for frame in frames:
            if frame.stream_id:  # the executor's own grey frames have none
                self._stamps.device_free[frame.stamp_ns] = self._last_end
                self._stamps.begin[frame.stamp_ns] = begin
                self._stamps.end[frame.stamp_ns] = end
        self._last_end = end
        return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--streams", type=whole_number, default=8)
    parser.add_argument(
        "--rate", type=positive_number, default=30.0, metavar="HZ", help="of each stream"
    )
    parser.add_argument(
        "--engine-ms", type=positive_number, default=1.0, help="time of a simulated call"
    )
    parser.add_argument("--devices", default="gpu,dla0,dla1", help="separated by commas")
    parser.add_argument("--policy", default="balanced", choices=("static", "balanced", "dynamic"))
    parser.add_argument(
        "--arrival",
        default="staggered",
        choices=("staggered", "together"),
        help="whether the streams' frames come evenly spread or all at once",
    )
    parser.add_argument("--seconds", type=positive_number, default=20.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its table."""
    prepare_outputs(args.json)
    with options_named(device="--devices"):
        devices = [Device.parse(name) for name in args.devices.split(",")]
    if args.rate * args.seconds < 1.0:
        raise ConfigurationError(
            f"--rate {args.rate:g} for --seconds {args.seconds:g}",
            expected="at least one frame of each stream",
            fix=f"raise --seconds to {1.0 / args.rate:g} or more",
        )
    figures = measure(
        devices,
        streams=args.streams,
        rate=args.rate,
        engine_seconds=args.engine_ms / 1e3,
        policy=args.policy,
        staggered=args.arrival == "staggered",
        seconds=args.seconds,
    )
    from yolox_trt.evaluation.bench.cpu import describe_machine

    figures["machine"] = describe_machine()
    _print(args, figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(
    devices: Sequence[Device],
    *,
    streams: int,
    rate: float,
    engine_seconds: float,
    policy: str,
    staggered: bool,
    seconds: float,
    show: bool = True,
) -> dict[str, Any]:
    """Run the load and return figures.

    Args:
        devices: simulated devices.
        streams: number of streams.
        rate: frames a second of each stream.
        engine_seconds: length of a simulated call.
        policy: placement policy.
        staggered: whether the streams' frames come evenly spread.
        seconds: length of the measurement; another second before it is not counted.
        show: whether to show progress.

    Returns:
        Percentiles in seconds by stage ("to_engine", "to_result", "own", "total"), each a dict
        of p50, p90, p99 and max; counters; CPU seconds for each frame.
    """
    periods = int((1.0 + seconds) * rate)
    stamps = _Stamps(periods * streams)
    detectors = [_StampingDetector(device, engine_seconds, stamps) for device in devices]

    def on_result(result: StreamResult) -> None:
        stamps.delivered[result.frame.stamp_ns] = time.monotonic()

    names = [f"camera{i}" for i in range(streams)]
    executor = InferenceExecutor(detectors, policy=policy)
    for name in names:
        executor.add_stream(StreamConfig(id=name, expected_rate=rate), on_result)
    with executor:
        executor.wait_started(10.0)
        source = threading.Thread(
            target=_submit,
            args=(executor, names, rate, staggered, periods, stamps),
            daemon=True,
        )
        time.sleep(0.2)
        begin, cpu_begin = time.monotonic(), time.process_time()
        source.start()
        _wait(source, 1.0 + seconds, show)
        elapsed, cpu = time.monotonic() - begin, time.process_time() - cpu_begin
        time.sleep(0.05 + 2.0 * engine_seconds)
        snapshot = executor.snapshot()
    counted = (stamps.submitted >= begin + 1.0) & np.isfinite(stamps.delivered)
    to_engine = stamps.begin - np.fmax(stamps.submitted, stamps.device_free)
    to_result = stamps.delivered - stamps.end
    stages = {
        "to_engine": to_engine,
        "to_result": to_result,
        "own": to_engine + to_result,
        "engine": stamps.end - stamps.begin,
        "total": stamps.delivered - stamps.submitted,
    }
    counters = snapshot.streams.values()
    return {
        "stages": {name: _percentiles(values[counted]) for name, values in stages.items()},
        "frames": int(counted.sum()),
        "received": sum(s.received for s in counters),
        "processed": sum(s.processed for s in counters),
        "dropped": sum(s.dropped_total for s in counters),
        "moves": sum(s.moves for s in counters),
        "cpu_seconds_per_frame": cpu / stamps.submitted.size,
        "frames_per_second": stamps.submitted.size / elapsed,
    }


def _submit(
    executor: InferenceExecutor,
    names: Sequence[str],
    rate: float,
    staggered: bool,
    periods: int,
    stamps: _Stamps,
) -> None:
    """Submit frames on time, as a node's callback thread does."""
    pixels = np.zeros(3, np.uint8)
    step = 1.0 / rate / len(names) if staggered else 0.0
    begin = time.monotonic()
    for number in range(periods * len(names)):
        period, index = divmod(number, len(names))
        pause = begin + period / rate + index * step - time.monotonic()
        if pause > 0.0:
            time.sleep(pause)
        frame = Frame(
            pixels,
            1,
            1,
            "bgr8",
            3,
            stamp_ns=number,
            stream_id=names[index],
            received_ns=time.monotonic_ns(),
        )
        stamps.submitted[number] = time.monotonic()
        executor.submit(frame)


def _wait(thread: threading.Thread, seconds: float, show: bool) -> None:
    """Wait for the source, with a bar that is drawn once a second, on this thread.

    A redraw takes milliseconds of this process; more of them would be measured with the frames.
    """
    if not show:
        thread.join()
        return
    progress_module = require("rich.progress")
    console = require("rich.console").Console(stderr=True)
    bar = progress_module.Progress(console=console, transient=True, auto_refresh=False)
    with bar:
        task = bar.add_task("measuring", total=seconds)
        while thread.is_alive():
            thread.join(1.0)
            bar.update(task, advance=1.0, refresh=console.is_terminal)


def _percentiles(values: Times) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("p50", "p90", "p99", "max"), float("nan"))
    p50, p90, p99, highest = np.percentile(values, (50, 90, 99, 100))
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(highest)}


def _print(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    console = require("rich.console").Console()
    table = require("rich.table").Table(
        title=f"{args.streams} streams x {args.rate:g} Hz ({args.arrival}), engines of "
        f"{args.engine_ms:g} ms on {args.devices}, {args.policy}, {figures['frames']} frames"
    )
    table.add_column("ms")
    for name in ("p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    titles = {
        "to_engine": "queue to engine",
        "to_result": "engine to result",
        "own": "the executor's own",
        "engine": "engine (asked to sleep)",
        "total": "submit to result",
    }
    for name, title in titles.items():
        values = figures["stages"][name]
        table.add_row(title, *(f"{values[key] * 1e3:.3f}" for key in ("p50", "p90", "p99", "max")))
    console.print(table)
    console.print(
        f"received {figures['received']}, processed {figures['processed']}, dropped "
        f"{figures['dropped']}; CPU {figures['cpu_seconds_per_frame'] * 1e3:.3f} ms a frame "
        "(with the source of the frames)"
    )
    console.print(figures["machine"], style="dim")
