# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt plan`: place cameras on devices, and simulate it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import Kind, option, options_of, parse_path, path_option
from yolox_trt.core.output_paths import OutputFile

if TYPE_CHECKING:
    from yolox_trt.core.device import Device
    from yolox_trt.planning.capacity_planner import PolicyPlan
    from yolox_trt.planning.plan_config import PlanConfig

_BY_HAND = "by-hand"


def _policies(names: list[str]) -> tuple[str, ...]:
    return tuple("by hand" if name == _BY_HAND else name for name in names)


@dataclass(frozen=True, kw_only=True)
class Plan(Command, name="plan", has_json=True):
    """Place cameras on devices, and simulate it.

    Cameras and devices stand in a YAML file (config/orin_agx.yaml is an example). The cameras are
    placed, and the executor is simulated in virtual time: loads, latencies, drops, and how many
    cameras fit. Exit status 1 if frames are dropped or late under the last policy that is shown.

    Examples:
        yolox_trt plan config/orin_agx.yaml
        yolox_trt plan config/orin_agx.yaml --policy dynamic --gantt plan.png
    """

    config: Path = option(parse=parse_path, flag="CONFIG", help="YAML file.")
    policies: tuple[str, ...] = option(
        [],
        kind=Kind.STRING_ARRAY,
        choices=(_BY_HAND, "static", "balanced", "dynamic"),
        parse=_policies,
        flag="--policy",
        help="Placement policy (default: by hand, balanced, dynamic).",
    )
    duration: float = option(60.0, above=0.0, unit="s", help="Virtual time to simulate.")
    contention: str | None = option(
        None,
        kind=Kind.STRING,
        choices=("none", "measured"),
        help="How GPU and DLA slow each other down (default: what the file says).",
    )
    seed: int = option(0, minimum=0, help="Of jitter and measured latencies.")
    no_search: bool = option(False, help="Do not look for the limits (seconds of work).")
    gantt: Path | None = path_option(
        parse=OutputFile(".png", ".svg", ".pdf"),
        help="Picture of the first frames: .png, .svg or .pdf.",
    )
    trace: Path | None = path_option(
        parse=OutputFile(".json"), help="The same for https://ui.perfetto.dev."
    )
    window: float = option(0.1, above=0.0, unit="s", help="Length of picture and trace.")

    def run(self, output: Output) -> int:
        from yolox_trt.core.contention import Contention
        from yolox_trt.core.optional import require
        from yolox_trt.planning.capacity_planner import BY_HAND, policies_of
        from yolox_trt.planning.plan_config import PlanConfig

        config = PlanConfig.load(self.config)
        if self.contention is not None:
            config = replace(config, contention=Contention.parse(self.contention))
        if self.gantt is not None:
            require("matplotlib", purpose="the option --gantt")
        if BY_HAND in self.policies and not config.has_placement_by_hand:
            raise ConfigurationError(
                (options_of(Plan)["policies"], f" {_BY_HAND} for {self.config}"),
                expected="a device for each camera",
                fix="add `placed_by_hand` to each camera in the file",
            )
        policies = policies_of(config, self.policies)
        plans = self._compute(output, config, policies)
        _show_cameras(output, config)
        for policy in policies:
            _show_placement(output, config, plans[policy])
        _show_comparison(output, config, plans, self.duration)
        last = plans[policies[-1]]
        for path in self._write_pictures(
            config, last if self.policies else plans.get("balanced", last)
        ):
            output.print(f"Wrote {path}")
        output.json({"config": self.config, "duration": self.duration, "policies": _figures(plans)})
        return 0 if last.result.fits else 1

    def _compute(
        self, output: Output, config: PlanConfig, policies: list[str]
    ) -> dict[str, PolicyPlan]:
        """Plan, and search for the limits of each policy."""
        from yolox_trt.planning.capacity_planner import (
            largest_number_of_cameras,
            largest_rate_factor,
            plan_policy,
        )

        plans: dict[str, PolicyPlan] = {}
        with output.progress() as bar:
            for policy in policies:

                def simulated(done: float, policy: str = policy) -> None:
                    bar(f"simulating {_title(policy)}", done, self.duration)

                def fitting(count: int, policy: str = policy) -> None:
                    bar(f"limits of {_title(policy)}", count, note="cameras fit")

                plan = plan_policy(
                    config, policy, duration=self.duration, seed=self.seed, progress=simulated
                )
                if not self.no_search:
                    count = largest_number_of_cameras(config, policy, progress=fitting)
                    plan = replace(plan, limits=(count, largest_rate_factor(config, policy)))
                plans[policy] = plan
        return plans

    def _write_pictures(self, config: PlanConfig, plan: PolicyPlan) -> list[Path]:
        from yolox_trt.planning.capacity_planner import plan_policy
        from yolox_trt.planning.gantt import dump_timeline

        paths = [path for path in (self.gantt, self.trace) if path is not None]
        if not paths:
            return []
        # A run of its own, as long as the window: the picture starts with the first frames.
        short = plan_policy(
            config, plan.policy, duration=self.window, seed=self.seed, timeline_capacity=100_000
        )
        timeline = short.result.timeline
        assert timeline is not None
        title = (
            f"{len(config.cameras)} cameras, {_title(plan.policy)}: "
            f"{plan.result.drop_rate:.1%} dropped, longest latency "
            f"{_ms(plan.result.latency_max)} ms"
        )
        for path in paths:
            dump_timeline(
                timeline, path, self.window, until=self.window, devices=config.devices, title=title
            )
        return paths


def _title(policy: str) -> str:
    return "placed by hand" if policy == "by hand" else policy


def _show_cameras(output: Output, config: PlanConfig) -> None:
    rows = []
    for camera in config.cameras:
        size = f"{camera.resolution[1]}x{camera.resolution[0]}" if camera.resolution else "-"
        stream = camera.config
        rows.append((camera.name, stream.model, size, f"{camera.rate:g}", _ms(stream.deadline)))
    output.table("Cameras", ("camera", "model", "image HxW", "Hz", "due ms"), rows)


def _show_placement(output: Output, config: PlanConfig, plan: PolicyPlan) -> None:
    rows = []
    for camera in config.cameras:
        stream = plan.result.snapshot.streams[camera.name]
        mean, p99, longest = _latencies(plan.result.latencies[camera.name])
        times = (mean, p99, longest, plan.worst_case[camera.name])
        dropped = stream.lost / max(1, stream.received)
        where = _where(plan, camera.name)
        rows.append((camera.name, where, *map(_ms, times), f"{dropped:.1%}"))
    headings = ("camera", "device", "mean ms", "p99 ms", "longest ms", "bound ms", "dropped")
    output.table(f"{_title(plan.policy)}: cameras", headings, rows)
    devices = []
    for device in _sorted(config.devices):
        names = [name for name, shares in plan.result.device_shares.items() if shares.get(device)]
        loads = (plan.loads[device], plan.result.loads[device])
        devices.append((str(device), *(f"{load:.1%}" for load in loads), ", ".join(names) or "-"))
    output.table(
        f"{_title(plan.policy)}: devices",
        ("device", "load asked", "busy (simulated)", "cameras"),
        devices,
    )


def _show_comparison(
    output: Output,
    config: PlanConfig,
    plans: Mapping[str, PolicyPlan],
    duration: float,
) -> None:
    columns = []
    for plan in plans.values():
        result = plan.result
        column = {
            "highest load": f"{max(plan.loads.values()):.1%}",
            "dropped": f"{result.dropped} of {result.received} ({result.drop_rate:.1%})",
            "late": str(result.deadline_missed),
            "mean ms": _ms(result.latency_mean),
            "longest ms": _ms(result.latency_max),
            "bound ms": _ms(max(plan.worst_case.values())),
        }
        if plan.limits is not None:
            count, factor = plan.limits
            column |= {"most cameras": str(count), "fastest": _rates(config, factor)}
        columns.append(column)
    output.table(
        f"{len(config.cameras)} cameras, {duration:g} s of virtual time",
        ("", *map(_title, plans)),
        [(name, *(column[name] for column in columns)) for name in columns[0]],
    )
    output.print(
        "bound: worst case by response-time analysis (docs/planning.md). most cameras, fastest: "
        "the list of cameras repeated, or all rates raised, until a frame is dropped or late.",
        colour="dim",
    )


def _latencies(values: Any) -> tuple[float, float, float]:
    """Return mean, 99th percentile and maximum in seconds, NaN where there is nothing."""
    if not len(values):
        return math.nan, math.nan, math.nan
    return float(values.mean()), float(np.percentile(values, 99)), float(values.max())


def _figures(plans: Mapping[str, PolicyPlan]) -> dict[str, Any]:
    """Return the figures of each policy: seconds, shares, counts; NaN or infinity for none."""
    out: dict[str, Any] = {}
    for policy, plan in plans.items():
        result = plan.result
        cameras = {}
        for name, stream in result.snapshot.streams.items():
            mean, p99, longest = _latencies(result.latencies[name])
            cameras[name] = {
                "device": plan.placement.get(name),
                "shares": plan.result.device_shares[name],
                "bound": plan.worst_case[name],
                "dropped": stream.lost,
                "refused": stream.refused,
                "received": stream.received,
                "late": stream.deadline_missed,
                "latency_mean": mean,
                "latency_p99": p99,
                "latency_max": longest,
            }
        out[_title(policy)] = {
            "fits": result.fits,
            "received": result.received,
            "dropped": result.dropped,
            "refused": result.refused,
            "late": result.deadline_missed,
            "latency_mean": result.latency_mean,
            "latency_max": result.latency_max,
            "devices": {
                device: {"load_asked": load, "busy": result.loads[device]}
                for device, load in plan.loads.items()
            },
            "cameras": cameras,
        }
        if plan.limits is not None:
            count, factor = plan.limits
            out[_title(policy)] |= {"most_cameras": count, "largest_rate_factor": factor}
    return out


def _where(plan: PolicyPlan, name: str) -> str:
    shares = plan.result.device_shares[name]
    if len(shares) <= 1:
        return str(plan.placement.get(name, "-"))
    return ", ".join(f"{device} {shares[device]:.0%}" for device in _sorted(shares))


def _sorted(devices: Iterable[Device]) -> list[Device]:
    from yolox_trt.planning.gantt import lane_order

    return sorted(devices, key=lambda device: lane_order(str(device)))


def _rates(config: PlanConfig, factor: float) -> str:
    rates = {camera.rate for camera in config.cameras}
    if len(rates) == 1:
        return f"{rates.pop() * factor:.1f} Hz"
    return f"rates x {factor:.2f}"


def _ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return "none" if math.isinf(seconds) else f"{seconds * 1e3:.2f}"
