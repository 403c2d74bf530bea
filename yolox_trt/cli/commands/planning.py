# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room executor: plan, soak."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; what they need is imported when they run."""
    parser = subparsers.add_parser(
        "plan",
        help="place cameras on devices, and simulate it",
        description="Read cameras and devices from a YAML file (config/orin_agx.yaml is an "
        "example), place the cameras, and simulate the executor in virtual time: loads, "
        "latencies, drops, and how many cameras fit. Exit status 1 if frames are dropped or "
        "late under the last policy that is shown.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file")
    parser.add_argument(
        "--policy",
        action="append",
        choices=("by-hand", "static", "balanced", "dynamic"),
        help="placement policy; may be repeated (default: by hand, balanced, dynamic)",
    )
    parser.add_argument(
        "--duration",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="virtual time to simulate (default: %(default)g)",
    )
    parser.add_argument(
        "--contention",
        choices=("none", "measured"),
        help="how GPU and DLA slow each other down (default: what the file says)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of jitter and measured latencies")
    parser.add_argument(
        "--no-search", action="store_true", help="do not look for the limits (seconds of work)"
    )
    parser.add_argument(
        "--gantt", type=Path, metavar="FILE", help="picture of the first frames: .png, .svg, .pdf"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.json", help="the same for https://ui.perfetto.dev"
    )
    parser.add_argument(
        "--window",
        type=float,
        default=0.1,
        metavar="SECONDS",
        help="length of picture and trace (default: %(default)g)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.set_defaults(run=_plan)

    parser = subparsers.add_parser(
        "soak",
        help="run for half an hour with a fault every 20 s",
        description="Four cameras at 10 Hz on a CPU (ONNX Runtime) and a simulated GPU and DLA, "
        "which raise, give NaN, hang and run out of memory in turn. Resident memory must stay "
        "flat, nothing may leak, and every frame must be accounted for; exit status 1 if not.",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)g")
    parser.add_argument(
        "--fault-period",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="from one fault to the next (default: %(default)g)",
    )
    parser.add_argument("--model", type=Path, help="YOLOX ONNX file (default: the shipped one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.set_defaults(run=_soak)


def _plan(args: argparse.Namespace) -> int:
    from yolox_trt.cli.commands.plan import run_plan

    return run_plan(args)


def _soak(args: argparse.Namespace) -> int:
    from yolox_trt.evaluation.bench.soak import run_soak

    return run_soak(
        minutes=args.minutes,
        fault_period=args.fault_period,
        model=args.model,
        json_path=args.json,
    )
