# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt plan`: the consolidation of the sources, its limits, and the files it reads."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolox_trt.cli.main import main
from yolox_trt.core import ConfigurationError, Device
from yolox_trt.core.contention import MEASURED_CONTENTION, Contention
from yolox_trt.engines.simulated import BatchLatency
from yolox_trt.planning.capacity_planner import (
    BY_HAND,
    largest_number_of_cameras,
    largest_rate_factor,
    plan_policy,
    policies_of,
)
from yolox_trt.planning.plan_config import PlanConfig

POLICIES = [BY_HAND, "balanced", "dynamic"]
#: Virtual seconds of each of the many loads: all rates are equal in each, so what happens in one
#: period happens in all; looks at drifted rates come each second.
LOAD_SECONDS = 2.0


@pytest.fixture(scope="session")
def orin_file(repository: Path) -> Path:
    """The example of the sources' figures."""
    return repository / "config" / "orin_agx.yaml"


@pytest.fixture(scope="session")
def orin(orin_file: Path) -> PlanConfig:
    """Its content."""
    return PlanConfig.load(orin_file)


def test_the_balanced_policy_finds_the_consolidation(orin: PlanConfig) -> None:
    plan = plan_policy(orin, "balanced", duration=20.0)
    assert Counter(map(str, plan.placement.values())) == {"gpu": 4, "dla0": 2, "dla1": 2}
    assert plan.result.received == 8 * 30 * 20
    assert plan.result.fits
    assert plan.result.dropped == plan.result.deadline_missed == 0
    assert plan.loads[Device("gpu")] == pytest.approx(4 * 30 * 4.1e-3)
    assert plan.loads[Device("dla", 0)] == pytest.approx(2 * 30 * 11.69e-3)
    assert max(plan.worst_case.values()) == pytest.approx(2 * 11.69e-3)
    assert plan.result.latency_max == pytest.approx(2 * 11.69e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_it_holds_under_measured_contention(orin: PlanConfig, policy: str) -> None:
    assert plan_policy(
        dataclasses.replace(orin, contention=MEASURED_CONTENTION), policy, duration=10.0
    ).result.fits


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.sampled(2)
def test_the_limit_beyond_which_frames_drop(orin: PlanConfig, policy: str) -> None:
    """Two cameras fill a DLA at 1 / (2 x 11.69 ms) = 42.8 Hz; no policy does better."""
    factor = largest_rate_factor(orin, policy)
    assert 30.0 * factor == pytest.approx(42.77, rel=0.003)
    # A tenth of a percent beyond the exact limit a frame is late, well beyond it frames drop.
    assert not plan_policy(orin.with_rates(42.82 / 30.0), policy).result.fits
    assert plan_policy(orin.with_rates(60.0 / 30.0), policy).result.dropped > 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.sampled(3)
def test_the_limit_under_measured_contention(orin: PlanConfig, policy: str) -> None:
    """Two DLA frames beside four of the GPU take 27.5 ms, beside five 28.5: 36.4 against 35 Hz."""
    config = dataclasses.replace(orin, contention=MEASURED_CONTENTION)
    assert 30.0 * largest_rate_factor(config, policy) >= 36.3


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.sampled(3)
def test_the_largest_number_of_cameras(orin: PlanConfig, policy: str) -> None:
    """Eight at 4.1 ms fill the GPU (98 %), two at 11.69 ms each DLA (70 %): twelve."""
    assert largest_number_of_cameras(orin, policy) == 12
    assert plan_policy(orin.with_cameras(16), policy).result.dropped > 0


def staggered(config: PlanConfig) -> PlanConfig:
    count = len(config.cameras)
    cameras = tuple(
        dataclasses.replace(c, phase=i / count / c.rate) for i, c in enumerate(config.cameras)
    )
    return dataclasses.replace(config, cameras=cameras)


def frames_saved(load: PlanConfig, phases: str) -> dict[str, int]:
    """Check that both policies are as good as the placement by hand; return drops they spare."""
    config = staggered(load) if phases == "staggered" else load
    hand = plan_policy(config, BY_HAND, duration=LOAD_SECONDS).result
    saved = {}
    for policy in ("balanced", "dynamic"):
        ours = plan_policy(config, policy, duration=LOAD_SECONDS).result
        # Which frames the end of the run cuts off differs by at most one for each camera.
        assert ours.dropped <= hand.dropped + len(config.cameras), policy
        if hand.dropped == hand.deadline_missed == 0:
            assert ours.dropped == ours.deadline_missed == 0, policy
        saved[policy] = hand.dropped - ours.dropped
    return saved


@pytest.mark.parametrize(
    ("rates", "counts"),
    [
        ((10, 36.3, 45, 60, 120), (3, 12, 14)),
        pytest.param(
            (5, 20, 30, 35, 37, 40, 42, 43, 47, 49, 50, 70, 90),
            (1, 5, 9, 11, 13, 15, 17, 20),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["few", "many"],
)
@pytest.mark.parametrize("phases", ["at once", "staggered"])
@pytest.mark.parametrize("contention", [Contention(), MEASURED_CONTENTION], ids=["none", "known"])
def test_at_least_as_good_as_the_placement_by_hand(
    orin: PlanConfig,
    phases: str,
    contention: Contention,
    rates: tuple[float, ...],
    counts: tuple[int, ...],
) -> None:
    """At every load: as few frames dropped, and none late where none is late by hand."""
    orin = dataclasses.replace(orin, contention=contention)
    loads = [orin.with_rates(rate / 30.0) for rate in rates]
    loads += [orin.with_cameras(count) for count in counts]
    better = Counter()
    for load in loads:
        for policy, saved in frames_saved(load, phases).items():
            better[policy] += saved > len(load.cameras)
    assert min(better["balanced"], better["dynamic"]) >= 1, "by hand, time is left unused somewhere"


@pytest.mark.parametrize("phases", ["at once", "staggered"])
def test_at_least_as_good_where_calls_overlap(orin: PlanConfig, phases: str) -> None:
    copies = {Device("gpu"): 0.0008, Device("dla", 0): 0.0005, Device("dla", 1): 0.0005}
    orin = dataclasses.replace(orin, copies=copies)
    loads = [orin.with_rates(rate / 30.0) for rate in (30, 43, 60, 120)]
    loads += [orin.with_cameras(count) for count in (3, 17)]
    for load in loads:
        frames_saved(load, phases)


def test_commands_output(
    orin_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("plan.png", "plan.json", "figures.json")]
    arguments = ["plan", str(orin_file), "--duration", "10", "--no-search"]
    arguments += ["--gantt", str(files[0]), "--trace", str(files[1]), "--json", str(files[2])]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "placed by hand" in output and "balanced" in output and "dynamic" in output
    assert files[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    events = json.loads(files[1].read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} >= {
        "gpu",
        "dla0",
        "dla1",
        "front_near",
    }
    figures = json.loads(files[2].read_text())["policies"]
    assert figures["balanced"]["dropped"] == 0
    assert figures["balanced"]["cameras"]["front_near"]["bound"] == pytest.approx(0.02338)
    assert figures["dynamic"]["cameras"]["front_near"]["bound"] is None


def test_exit_status_says_that_frames_drop(orin: PlanConfig, tmp_path: Path) -> None:
    values = {
        "devices": {"dla0": {"m": 20.0}},
        "cameras": {"a": {"rate": 30}, "b": {"rate": 30}},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    arguments = ["plan", str(path), "--policy", "balanced", "--duration", "5"]
    assert main([*arguments, "--no-search"]) == 1
    assert main([*arguments, "--gantt", "plan.bmp"]) == 2
    assert main([*arguments, "--window", "nan"]) == 2
    assert main([*arguments, "--seed", "-1"]) == 2
    assert main(["plan", str(tmp_path / "none.yaml")]) == 2


def minimal() -> dict[str, Any]:
    return {
        "devices": {"gpu": {"m": 4.0}, "dla0": {"m": 10.0}},
        "cameras": {"a": {"rate": 30}},
    }


def test_forms_of_latencies(tmp_path: Path) -> None:
    times = [{"computeMs": 4.0, "latencyMs": 5.0}, {"computeMs": 6.0, "latencyMs": 7.0}]
    (tmp_path / "times.json").write_text(json.dumps(times))
    (tmp_path / "list.json").write_text("[1.0, 3.0]")
    values = minimal()
    values["devices"] = {
        "gpu": {
            "m": [2.0, 4.0, 6.0],
            "batched": {"batch": {1: 1.82, 2: 2.91, 4: 4.99}},
            "file": {"file": "times.json"},
            "field": {"file": "times.json", "field": "latencyMs"},
            "list": {"file": "list.json"},
        }
    }
    values["camera_defaults"] = {"model": "m"}
    models = PlanConfig.from_dict(values, folder=tmp_path).devices[Device("gpu")]
    milliseconds = {name: round(model.mean * 1e3, 6) for name, model in models.items()}
    assert milliseconds == {"m": 4.0, "batched": 1.82, "file": 5.0, "field": 6.0, "list": 2.0}
    assert models["m"].worst == pytest.approx(0.006)
    import numpy as np

    rng = np.random.default_rng(0)
    batched = [models["batched"].sample(rng, n) * 1e3 for n in (1, 2, 3, 4, 6)]
    assert batched == pytest.approx([1.82, 2.91, 3.95, 4.99, 7.07])
    # A size that no float holds.
    assert BatchLatency({1: 1.0, 2**53 + 1: 2.0}).sample(rng, 1) == 1.0


@pytest.mark.slow
def test_calls_that_overlap_make_room() -> None:
    """2.28 ms a frame, 0.64 of them copying: fourteen cameras at 30 Hz, or twenty."""
    values = {"devices": {"gpu": {"m": 2.28}}, "cameras": {"a": {"rate": 30, "deadline": 66}}}
    counts = []
    for copies in ({}, {"gpu": 0.64}):
        config = PlanConfig.from_dict({**values, "copies": copies})
        counts.append(largest_number_of_cameras(config, "balanced"))
        plan = plan_policy(config.with_cameras(counts[-1]), "balanced", duration=5.0)
        assert math.isnan(max(plan.worst_case.values())) == bool(copies)
    assert counts == [14, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": {}}, "0 cameras"),
        ({"cameras": {"a": {}}}, "without a rate"),
        ({"cameras": {"a": {"rate": 30, "colour": 1}}}, "colour"),
        ({"cameras": {"a": {"rate": 30, "model": "x"}}}, "model 'x'"),
        ({"cameras": {"a": {"rate": 30, "placed_by_hand": "dla1"}}}, "placed_by_hand"),
        ({"cameras": {"a": {"rate": 0.0}}}, "rate"),
        ({"cameras": {"a": {"rate": 30, "jitter": 20}}}, "jitter = 20 ms of .*half a period, 16.6"),
        ({"devices": {"tpu": {"m": 1.0}}}, "tpu"),
        (
            {"devices": {"gpu": {"m": -1.0}}},
            r"-0\.001 s, expected more than 0\); expected milliseconds",
        ),
        ({"devices": {"gpu": {"m": {"file": "no.json"}}}}, "no.json"),
        ({"devices": {"gpu": {"m": {"batch": {2: 1.0}}}}}, "batch 1"),
        ({"contention": "some"}, "contention"),
        ({"contention": "{gpu: 2}"}, "gpu'; expected one of gpu_with_dla"),
        ({"contention": {"gpu_with_dla": 0.5}}, "gpu_with_dla.*at least 1"),
        ({"contention": {"gpu_with_dla": math.inf}}, "at least 1"),
        ({"contention": "{gpu_with_dla: "}, "contention = .*expected none, measured"),
        ({"speed": 1}, "speed"),
        ({"cameras": {"a": {"rate": 30, "priority": "high"}}}, "`priority` = 'high'"),
        (
            {"cameras": {"a": {"rate": 30, "allow_model_change": "no"}}},
            "allow_model_change.*true or false",
        ),
        ({"cameras": {"a": {"rate": 30, "phase": -5}}}, "`phase` = -5 of camera a.*at least 0 ms"),
        ({"cameras": {"a": {"rate": 30, "phase": math.nan}}}, "`phase` = nan of camera a"),
        ({"copies": {"gpu": -5}}, "`copies.gpu` = -5.*at least 0 ms"),
        ({"gpu_share": {"dla0": math.nan}}, "`gpu_share.dla0` = nan"),
        ({"gpu_share": {"dla0": -1.0}}, "`gpu_share.dla0` = -1.0"),
        ({"gpu_share": {"dla1": 1.0}}, "gpu_share: device 'dla1'.*expected one of dla0"),
        ({"gpu_share": {"gpu": 1.0}}, "gpu_share: device 'gpu'"),
        ({"max_batch": 0}, "`max_batch` = 0"),
        ({"max_batch": 2.7}, r"`max_batch` = 2\.7"),
        ({"max_batch": math.inf}, "`max_batch` = inf"),
        ({"devices": {"gpu": {"m": 4.0}, "dla1": {}}}, r"devices\.dla1 without a model"),
        ({"devices": {"gpu": {"m": {"batch": {0: 1.0, 1: 4.0}}}}}, "batch size 0"),
        ({"devices": {"gpu": {"m": [1.0, math.inf]}}}, "a latency of inf s"),
        ({"contention": {1: 2.0, "gpu": 1.0}}, "option '1'; expected one of gpu_with_dla"),
        ({"devices": {"gpu": {"m": 10**400}}}, "int too large"),
        ({"devices": {"gpu": {"m": [10**400]}}}, "int too large"),
        ({"devices": {"gpu": {"m": {"batch": {1: 10**400}}}}}, "int too large"),
        ({"cameras": {"a": {"rate": 10**400}}}, "`rate` = 1000"),
        ({"contention": {"gpu_with_dla": 10**400}}, "`gpu_with_dla` = 1000"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PlanConfig.from_dict({**minimal(), **change})


def test_policies_to_compare(orin: PlanConfig) -> None:
    assert policies_of(orin) == [BY_HAND, "balanced", "dynamic"]
    assert policies_of(PlanConfig.from_dict(minimal())) == ["static", "balanced", "dynamic"]
    assert policies_of(orin, ["dynamic"]) == ["dynamic"]


def test_long_runs_count_exactly(orin: PlanConfig) -> None:
    """Times are multiples of the period: nothing drifts apart in 28,800 frames."""
    plan = plan_policy(orin, BY_HAND, duration=120.0)
    assert plan.result.received == plan.result.processed == 8 * 30 * 120
    assert plan.result.latency_max == pytest.approx(0.02338)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"cameras": {"front": {"rate": "x"}}},
            "`rate` = 'x' of camera front.*set `rate` of camera",
        ),
        ({"cameras": {"front": {"rate": 10, "jitter": []}}}, "`jitter` = .* of camera front"),
        ({"cameras": {"front": {"rate": 10, "device": "npu"}}}, "'npu' of camera front"),
        ({"cameras": {"front": {"rate": 10, "resolution": 3}}}, "`resolution` = 3 of camera front"),
        ({"devices": {"npu": {"s": 4.0}}}, "'npu' in devices of the plan.*write one of these in"),
        ({"devices": {"gpu": {"s": ["x"]}}}, r"devices\.gpu\.s = .*write devices\.gpu\.s in one"),
        ({"copies": {"gpu": "x"}}, "`copies.gpu` = 'x'"),
        ({"colour": 1}, "remove colour"),
    ],
)
def test_errors_name_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PlanConfig.from_dict({**minimal(), **change})


def test_a_plan_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"plan\.yaml \('utf-8'.*give its path"):
        PlanConfig.load(path)


@pytest.mark.parametrize("queue_depth", [1, 100])
def test_the_load_asked_does_not_depend_on_the_backlog(queue_depth: int) -> None:
    """Three cameras at 30 Hz and 20 ms ask for 180 % however long the queues take to drain."""
    cameras = {name: {"rate": 30, "queue_depth": queue_depth} for name in "abc"}
    config = PlanConfig.from_dict({"devices": {"gpu": {"m": 20.0}}, "cameras": cameras})
    plan = plan_policy(config, "static", duration=3.0)
    assert plan.loads[Device("gpu")] == pytest.approx(1.8)


def test_a_camera_of_hardly_any_rate_has_no_bound() -> None:
    values = {**minimal(), "cameras": {"a": {"rate": 30, "max_rate": 5e-324}, "b": {"rate": 30}}}
    plan = plan_policy(PlanConfig.from_dict(values), "static", duration=0.5)
    assert plan.worst_case["a"] == math.inf


def test_frames_over_the_rate_limit_are_no_failure(tmp_path: Path) -> None:
    values = {
        "devices": {"gpu": {"m": 5.0}},
        "cameras": {"a": {"rate": 30, "max_rate": 10}, "b": {"rate": 30}},
    }
    plan = plan_policy(PlanConfig.from_dict(values), "static", duration=3.0)
    assert plan.result.fits
    assert plan.result.dropped == 0
    received, processed = plan.result.received, plan.result.processed
    assert plan.result.refused == received - processed > 55
    assert plan.loads[Device("gpu")] == pytest.approx((10 + 30) * 0.005)
    assert largest_number_of_cameras(PlanConfig.from_dict(values), "static") >= 2
    path, figures = tmp_path / "plan.yaml", tmp_path / "figures.json"
    path.write_text(yaml.safe_dump(values))
    arguments = ["plan", str(path), "--policy", "static", "--no-search", "--duration", "3"]
    assert main([*arguments, "--json", str(figures)]) == 0
    camera = json.loads(figures.read_text())["policies"]["static"]["cameras"]["a"]
    assert (camera["dropped"], camera["refused"]) == (0, plan.result.refused)


def test_all_times_of_a_camera_shrink_with_its_period() -> None:
    times = {"phase": 10, "jitter": 2, "deadline": 30, "stale_after": 40, "max_rate": 20}
    config = PlanConfig.from_dict({**minimal(), "cameras": {"a": {"rate": 30, **times}}})
    (camera,) = config.with_rates(2.0).cameras
    assert (camera.rate, camera.config.max_rate) == (60.0, 40.0)
    seconds = [camera.phase, camera.jitter, camera.config.deadline, camera.config.stale_after]
    assert seconds == pytest.approx([0.005, 0.001, 0.015, 0.020])


def test_repeated_cameras_get_names_that_are_not_in_use() -> None:
    cameras = {"front": {"rate": 30}, "front_2": {"rate": 30}}
    config = PlanConfig.from_dict({**minimal(), "cameras": cameras}).with_cameras(7)
    names = [camera.name for camera in config.cameras]
    assert len(set(names)) == 7
    assert names[:3] == ["front", "front_2", "front_3"]


SHARED = {
    "queueing on the DLA": {
        "devices": {"gpu": {"m": 45.0}, "dla0": {"h": 60.0, "m": 5.0}},
        "cameras": {
            "g": {"model": "m", "device": "gpu", "rate": 3.0, "phase": 59.9},
            "h": {"model": "h", "device": "dla0", "rate": 5.0, "priority": 1},
            **{n: {"model": "m", "device": "dla0", "rate": 10.0} for n in ("a1", "a2", "a3")},
        },
    },
    "contention": {
        "devices": {"gpu": {"m": 20.0}, "dla0": {"m": 80.0}},
        "contention": {"gpu_with_dla": 1.31},
        "cameras": {
            "g": {"device": "gpu", "rate": 3.0},
            "a": {"device": "dla0", "rate": 3.0, "phase": 0.01},
        },
    },
}


@pytest.mark.parametrize("case", SHARED)
def test_the_bound_counts_what_frames_of_a_dla_take_of_the_gpu(case: str) -> None:
    config = PlanConfig.from_dict({**SHARED[case], "gpu_share": {"dla0": 10.0}})
    plan = plan_policy(config, "static", duration=3.0)
    for name, bound in plan.worst_case.items():
        assert plan.result.latencies[name].max() <= bound + 1e-9, name


def test_no_bound_on_the_gpu_without_one_for_the_frames_that_share_it() -> None:
    cameras = {
        "g": {"device": "gpu", "rate": 10},
        "a": {"device": "dla0", "rate": 30},
        "b": {"device": "dla0", "rate": 30},
    }
    values = {
        "devices": {"gpu": {"m": 4.0}, "dla0": {"m": 20.0}},
        "cameras": cameras,
        "gpu_share": {"dla0": 1.0},
    }
    bounds = plan_policy(PlanConfig.from_dict(values), "static", duration=0.5).worst_case
    assert bounds["g"] == bounds["a"] == math.inf
    values["copies"] = {"dla0": 1.0}
    bounds = plan_policy(PlanConfig.from_dict(values), "static", duration=0.5).worst_case
    assert math.isnan(bounds["g"])


def sized(**cameras: dict[str, Any]) -> PlanConfig:
    return PlanConfig.from_dict(
        {
            "devices": {"gpu": {"m": 10.0, "m@320x544": 9.0}, "dla0": {"m": [20.0, 30.0]}},
            "sizes": {"m": "416x416"},
            "camera_defaults": {"model": "m", "rate": 10},
            "cameras": cameras,
        }
    )


def test_one_model_is_planned_at_the_sizes_of_the_cameras() -> None:
    config = sized(
        wide={"input_size": "auto", "resolution": [1920, 1080]},
        square={"input_size": "auto", "resolution": [900, 900]},
        large={"input_size": "832x416"},
        own={"input_size": "model"},
    )
    models = [camera.config.model for camera in config.cameras]
    assert models == ["m@320x544", "m", "m@832x416", "m"]
    gpu, dla = (config.devices[Device.parse(name)] for name in ("gpu", "dla0"))
    assert gpu["m@320x544"].mean == pytest.approx(9e-3), "a time of its own goes first"
    assert dla["m@320x544"].worst == pytest.approx(30e-3 * 320 * 544 / 416**2)
    assert (gpu["m@832x416"].mean, dla["m@832x416"].mean) == pytest.approx((20e-3, 50e-3))
    result = plan_policy(config, "balanced", duration=1.0).result
    assert result.fits


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"input_size": "auto"}, "input_size = auto of camera c without a resolution"),
        ({"input_size": "wide"}, "expected HxW, such as 320x544, or auto, or model"),
        (
            {"input_size": "auto", "resolution": [1920, 0]},
            r"`resolution` = \[1920, 0\].*at least 1",
        ),
        ({"input_size": "auto", "resolution": [-1, 1080]}, "at least 1"),
    ],
)
def test_sizes_that_cannot_be_planned(camera: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sized(c=camera)


def test_a_size_needs_the_models_own() -> None:
    values = {**minimal(), "cameras": {"a": {"rate": 30, "input_size": "320x544"}}}
    with pytest.raises(ConfigurationError, match=r"of unknown size.*write `sizes: \{"):
        PlanConfig.from_dict(values)
    with pytest.raises(ConfigurationError, match=r"size 'big' of m in `sizes`"):
        PlanConfig.from_dict({**values, "sizes": {"m": "big"}})
