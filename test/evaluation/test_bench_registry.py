# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks are found without being imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from yolox_trt.cli.main import main
from yolox_trt.evaluation import bench


def test_finds_modules_by_their_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "some_thing.py").write_text(
        'import no_such_library\nSUMMARY: str = "measures something"\n'
    )
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(bench, "_REGISTERED", {})
    bench.register("other", "another.room", "measures more")
    assert bench.find() == {
        "other": ("another.room", "measures more"),
        "some-thing": ("yolox_trt.evaluation.bench.some_thing", "measures something"),
    }


def test_every_benchmark_has_its_parts() -> None:
    assert "cpu" in bench.find()
    for module, _ in bench.find().values():
        assert module not in sys.modules or hasattr(sys.modules[module], "run")


def test_options_reach_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "cpu", "--help"])
    assert stop.value.code == 0
    assert "--source" in capsys.readouterr().out


def test_without_a_name_all_run_and_one_that_cannot_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench_a.py").write_text(
        "from yolox_trt.core.errors import DeviceError\n"
        "def add_arguments(parser): parser.add_argument('--n', type=int, default=3)\n"
        "def run(args): raise DeviceError('no GPU')\n"
    )
    (tmp_path / "bench_b.py").write_text(
        "def add_arguments(parser): parser.add_argument('--n', type=int, default=3)\n"
        "def run(args): print('table', args.n)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = {"a": ("bench_a", "first"), "b": ("bench_b", "second")}
    monkeypatch.setattr(bench, "find", lambda: entries)
    assert main(["bench"]) == 0
    text = capsys.readouterr().out
    assert "not run: no GPU" in text
    assert "table 3" in text
    assert main(["bench", "b", "--n", "5"]) == 0
    assert "table 5" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["executor", "cameras"])
def test_a_time_without_a_frame_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--rate", "0.5", "--seconds", "0.5"]) == 2
    assert "raise --seconds to 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option"), [("executor", ["--seconds", "inf"]), ("kernels", ["--encodings", "foo"])]
)
def test_wrong_values_are_refused(
    name: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", name, *option])
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_to_join_raw_levels_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model has raw levels, those of the demo have one tensor."""
    pytest.importorskip("skimage")
    pytest.importorskip("onnxruntime")
    cpu = importlib.import_module("yolox_trt.evaluation.bench.cpu")
    joined = []
    single = cpu._single_tensor
    monkeypatch.setattr(cpu, "_single_tensor", lambda *a: joined.append(1) or single(*a))
    monkeypatch.setattr(
        cpu,
        "_alternate",
        lambda demo, own, seconds, before: (before(), demo(), own(), (1.0, 1.0))[3],
    )
    assert main(["bench", "cpu", "--size", "64", "96", "--threads", "1"]) == 0
    assert len(joined) == 1


@pytest.mark.parametrize(("name", "option"), [("executor", "--devices"), ("cameras", "--device")])
def test_a_wrong_device_names_the_option(
    name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", name, option, "npu"]) == 2
    assert f"set `{option}` to one of these" in capsys.readouterr().err
