# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks are found without being imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from yolox_trt.cli import main
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
