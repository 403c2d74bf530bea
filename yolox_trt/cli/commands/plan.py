# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt plan`: run the capacity planner and print what it found."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.contention import Contention
from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.executor.snapshot import StreamSnapshot
from yolox_trt.planning.capacity_planner import (
    BY_HAND,
    PolicyPlan,
    largest_number_of_cameras,
    largest_rate_factor,
    plan_policy,
    policies_of,
)
from yolox_trt.planning.gantt import PICTURES, dump_timeline
from yolox_trt.planning.plan_config import PlanConfig

#: Names of the policies in tables.
TITLES = {
    BY_HAND: "placed by hand",
    "static": "static",
    "balanced": "balanced",
    "dynamic": "dynamic",
}


def run_plan(args: argparse.Namespace) -> int:
    """Carry out the command; see executor.cli.

    Raises:
        ConfigurationError: a wrong file or option.
    """
    config = PlanConfig.load(args.config)
    if args.contention is not None:
        config = config.with_contention(Contention.parse(args.contention))
    for option in ("duration", "window"):
        seconds = getattr(args, option)
        if not (math.isfinite(seconds) and seconds > 0.0):
            raise ConfigurationError(
                f"--{option} {seconds}",
                expected="a finite number of seconds above 0",
                fix=f"change --{option}",
            )
    if args.seed < 0:
        raise ConfigurationError(
            f"--seed {args.seed}", expected="a whole number from 0 on", fix="change --seed"
        )
    _check_outputs(args)
    wanted = [BY_HAND if name == "by-hand" else name for name in args.policy or ()]
    if BY_HAND in wanted and not config.has_placement_by_hand:
        raise ConfigurationError(
            f"--policy by-hand, but not every camera of {args.config} has `placed_by_hand`",
            expected="a device for each camera",
            fix="add `placed_by_hand`",
        )
    policies = policies_of(config, wanted)
    console = require("rich.console").Console()
    plans, limits = _compute(args, config, policies, console)
    for policy in policies:
        _print_placement(console, config, plans[policy])
    _print_comparison(console, config, plans, limits, args.duration)
    shown = plans[policies[-1]] if wanted else plans.get("balanced", plans[policies[-1]])
    for path in _write_pictures(args, config, shown):
        console.print(f"wrote {path} ({TITLES[shown.policy]})")
    if args.json is not None:
        text = json.dumps(_figures(args, config, plans, limits), indent=2)
        args.json.write_text(text + "\n", encoding="utf-8")
        console.print(f"wrote {args.json}")
    return 0 if plans[policies[-1]].fits else 1


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse wrong file names before the work, not after it."""
    if args.gantt is not None:
        require("matplotlib", purpose="the option --gantt")
        if args.gantt.suffix not in PICTURES:
            raise ConfigurationError(
                f"--gantt {args.gantt}", expected=", ".join(PICTURES), fix="change the suffix"
            )
    if args.trace is not None and args.trace.suffix != ".json":
        raise ConfigurationError(
            f"--trace {args.trace}", expected="a name that ends in .json", fix="change the suffix"
        )
    prepare_outputs(args.gantt, args.trace, args.json)


def _compute(
    args: argparse.Namespace, config: PlanConfig, policies: list[str], console: Any
) -> tuple[dict[str, PolicyPlan], dict[str, tuple[int, float]]]:
    """Plan and search with a progress bar; return plans and (cameras, rate factor) limits."""
    progress_module = require("rich.progress")
    plans: dict[str, PolicyPlan] = {}
    limits: dict[str, tuple[int, float]] = {}
    columns = (
        progress_module.TextColumn("{task.description}"),
        progress_module.BarColumn(),
        progress_module.TimeElapsedColumn(),
        progress_module.TimeRemainingColumn(),
    )
    with progress_module.Progress(*columns, console=console, transient=True) as bar:
        for policy in policies:
            title = TITLES[policy]
            task = bar.add_task(f"simulating {title}", total=args.duration)
            plans[policy] = plan_policy(
                config,
                policy,
                duration=args.duration,
                seed=args.seed,
                progress=lambda done, task=task: bar.update(task, completed=done),  # type: ignore[misc]
            )
            bar.update(task, completed=args.duration)
            if args.no_search:
                continue
            task = bar.add_task(f"limits of {title}", total=None)
            limits[policy] = (
                largest_number_of_cameras(
                    config,
                    policy,
                    progress=lambda count, task=task, title=title: bar.update(  # type: ignore[misc]
                        task, description=f"limits of {title}: {count} cameras fit"
                    ),
                ),
                largest_rate_factor(config, policy),
            )
            bar.remove_task(task)
    return plans, limits


def _print_placement(console: Any, config: PlanConfig, plan: PolicyPlan) -> None:
    table = require("rich.table").Table(title=f"{TITLES[plan.policy]}: cameras")
    table.add_column("camera")
    table.add_column("model")
    for name in ("image", "rate", "device"):
        table.add_column(name, justify="right")
    for name in ("mean", "p99", "longest", "bound", "due"):
        table.add_column(f"{name} ms", justify="right")
    table.add_column("dropped", justify="right")
    for camera in config.cameras:
        stream = plan.result.snapshot.streams[camera.name]
        latencies = plan.result.latencies[camera.name]
        mean = p99 = longest = math.nan
        if len(latencies):
            mean, longest = float(latencies.mean()), float(latencies.max())
            p99 = float(np.percentile(latencies, 99))
        size = f"{camera.resolution[0]}x{camera.resolution[1]}" if camera.resolution else ""
        table.add_row(
            camera.name,
            camera.load.config.model,
            size,
            f"{camera.load.rate:g} Hz",
            _where(plan, camera.name),
            *(_ms(value) for value in (mean, p99, longest, plan.worst_case[camera.name])),
            _ms(camera.load.config.deadline),
            f"{_dropped(stream) / max(1, stream.received):.1%}",
        )
    console.print(table)
    table = require("rich.table").Table(title=f"{TITLES[plan.policy]}: devices")
    table.add_column("device")
    table.add_column("load asked", justify="right")
    table.add_column("busy (simulated)", justify="right")
    table.add_column("cameras")
    for device in sorted(config.devices, key=_device_order):
        cameras = [name for name, shares in plan.shares.items() if shares.get(device, 0.0) > 0.0]
        table.add_row(
            str(device),
            f"{plan.loads[device]:.1%}",
            f"{plan.result.loads[device]:.1%}",
            ", ".join(cameras) or "-",
        )
    console.print(table)


def _print_comparison(
    console: Any,
    config: PlanConfig,
    plans: dict[str, PolicyPlan],
    limits: dict[str, tuple[int, float]],
    duration: float,
) -> None:
    table = require("rich.table").Table(
        title=f"{len(config.cameras)} cameras, {duration:g} s of virtual time"
    )
    table.add_column("")
    for name in ("highest load", "dropped", "late", "mean ms", "longest ms", "bound ms"):
        table.add_column(name, justify="right")
    if limits:
        table.add_column("most cameras", justify="right")
        table.add_column("fastest", justify="right")
    for policy, plan in plans.items():
        result = plan.result
        row = [
            TITLES[policy],
            f"{max(plan.loads.values()):.1%}",
            f"{result.dropped} of {result.received} ({result.drop_rate:.1%})",
            str(result.deadline_missed),
            _ms(result.latency_mean),
            _ms(result.latency_max),
            _ms(max(plan.worst_case.values())),
        ]
        if limits:
            count, factor = limits[policy]
            row += [str(count), _rates(config, factor)]
        table.add_row(*row)
    console.print(table)
    console.print(
        "bound: worst case by response-time analysis (docs/planning.md). most cameras, fastest: "
        "the list of cameras repeated, or all rates raised, until a frame is dropped or late.",
        style="dim",
    )


def _write_pictures(args: argparse.Namespace, config: PlanConfig, plan: PolicyPlan) -> list[Path]:
    if args.gantt is None and args.trace is None:
        return []
    # A run of its own, as long as the window: the picture starts with the first frames.
    short = plan_policy(
        config, plan.policy, duration=args.window, seed=args.seed, timeline_capacity=100_000
    )
    timeline = short.result.timeline
    assert timeline is not None
    title = (
        f"{len(config.cameras)} cameras, {TITLES[plan.policy]}: "
        f"{plan.result.drop_rate:.1%} dropped, longest latency {_ms(plan.result.latency_max)} ms"
    )
    written: list[Path] = []
    for path in (args.gantt, args.trace):
        if path is not None:
            written += dump_timeline(
                timeline,
                path,
                args.window,
                until=args.window,
                devices=config.devices,
                title=title,
            )
    return written


def _figures(
    args: argparse.Namespace,
    config: PlanConfig,
    plans: dict[str, PolicyPlan],
    limits: dict[str, tuple[int, float]],
) -> dict[str, Any]:
    """Return all figures as plain values: seconds, shares, counts; None for no bound."""
    out: dict[str, Any] = {"config": str(args.config), "duration": args.duration, "policies": {}}
    for policy, plan in plans.items():
        result = plan.result
        entry: dict[str, Any] = {
            "fits": plan.fits,
            "received": result.received,
            "dropped": result.dropped,
            "refused": result.refused,
            "late": result.deadline_missed,
            "latency_mean": _finite(result.latency_mean),
            "latency_max": _finite(result.latency_max),
            "devices": {
                str(d): {"load_asked": plan.loads[d], "busy": result.loads[d]}
                for d in config.devices
            },
            "cameras": {
                name: {
                    "device": str(plan.placement[name]) if name in plan.placement else None,
                    "shares": {str(d): share for d, share in plan.shares[name].items()},
                    "bound": _finite(plan.worst_case[name]),
                    "dropped": _dropped(stream),
                    "refused": stream.dropped[DropReason.RATE],
                    "received": stream.received,
                    "late": stream.deadline_missed,
                    "latency_mean": float(values.mean()) if len(values) else None,
                    "latency_p99": float(np.percentile(values, 99)) if len(values) else None,
                    "latency_max": float(values.max()) if len(values) else None,
                }
                for name, stream in result.snapshot.streams.items()
                for values in (result.latencies[name],)
            },
        }
        if policy in limits:
            entry["most_cameras"], entry["largest_rate_factor"] = limits[policy]
        out["policies"][TITLES[policy]] = entry
    return out


def _dropped(stream: StreamSnapshot) -> int:
    """Return the frames dropped, without those that the camera's own `max_rate` refused."""
    return stream.dropped_total - stream.dropped[DropReason.RATE]


def _where(plan: PolicyPlan, name: str) -> str:
    shares = plan.shares[name]
    if len(shares) <= 1:
        return str(plan.placement.get(name, "-"))
    return ", ".join(
        f"{device} {share:.0%}"
        for device, share in sorted(shares.items(), key=lambda item: _device_order(item[0]))
    )


def _rates(config: PlanConfig, factor: float) -> str:
    rates = {camera.load.rate for camera in config.cameras}
    if len(rates) == 1:
        return f"{rates.pop() * factor:.1f} Hz"
    return f"rates x {factor:.2f}"


def _device_order(device: Device) -> tuple[int, int]:
    return ("gpu", "dla", "cpu").index(device.kind), device.index


def _ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return "none" if math.isinf(seconds) else f"{seconds * 1e3:.2f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
