# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The commands `bench NAME`: their options, their tables, and all of them one after the other."""

from __future__ import annotations

import json

import pytest
from support.command_line import call

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands import bench
from yolox_trt.cli.main import main
from yolox_trt.core.errors import DeviceError
from yolox_trt.evaluation.bench import cpu, executor
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.options import CpuOptions


@pytest.mark.parametrize("command", bench.BENCHMARKS, ids=lambda command: command.name)
def test_help_needs_no_optional_package(
    command: type[Command], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.name.split(), "--help"])
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out


def measured(options: CpuOptions, on_progress: object) -> Report:
    table = Table.of({"stage": "{stage}", "ms": "{ms:.1f}"}, [{"stage": "nothing", "ms": 0.25}])
    return Report({"seconds": options.seconds}, [table], ["a machine"])


def test_all_run_and_one_that_cannot_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: object, on_progress: object) -> Report:
        raise DeviceError("no GPU")

    two = [next(b for b in bench.BENCHMARKS if b.name == f"bench {n}") for n in ("executor", "cpu")]
    monkeypatch.setattr(bench, "BENCHMARKS", two)
    monkeypatch.setattr(executor, "measure", refuse)
    monkeypatch.setattr(cpu, "measure", measured)
    assert main(["bench", "all"]) == 0
    text = capsys.readouterr().out
    assert "not run: no GPU" in text
    assert text.index("bench executor") < text.index("bench cpu") < text.index("nothing  0.2")
    assert main(["bench", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bench cpu": {"seconds": 3.0}}


def test_options_reach_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "measure", measured)
    assert call("bench", "cpu", "--seconds", "5", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"seconds": 5.0}


@pytest.mark.parametrize("name", ["executor", "cameras"])
def test_a_time_without_a_frame_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--rate", "0.5", "--seconds", "0.5"]) == 2
    assert "raise --seconds to 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("executor", ["--seconds", "inf"]),
        ("executor", ["--device", "npu"]),
        ("cameras", ["--device", "npu"]),
        ("kernels", ["--encoding", "foo"]),
        ("pipeline", ["--batch", "0"]),
        ("cpu", ["--size", "64"]),
    ],
)
def test_wrong_values_name_their_option(
    name: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", name, *option]) == 2
    assert f"fix: set {option[0]}" in capsys.readouterr().err
