# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt build`, with real builds by TensorRT-RTX."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.tensorrt_fixtures import pretend_gpu, save_model, small_model

from yolox_trt.cli import main as cli
from yolox_trt.engines.engine_file import read_engine

pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")


def run(*arguments: object) -> int:
    return cli.main(["build", *(str(a) for a in arguments), "--flavour", "tensorrt_rtx"])


def test_output_report_and_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = small_model(tmp_path, head="raw_levels"), tmp_path / "out" / "m.engine"
    report = tmp_path / "report.json"
    assert run(model, "-o", out, "--json", report, "--layers", "--precision", "fp16") == 0
    text = capsys.readouterr().out
    for words in ("yolox.onnx", "TensorRT-RTX", "Layers by device", "Build time", "Engine size"):
        assert words in text
    document = json.loads(report.read_text())
    assert document["precision"] == "fp16"
    assert document["fingerprint"]["flavour"] == "tensorrt_rtx"
    assert len(document["layers"]) > 20
    file = read_engine(out)
    assert file.spec.output_names[:3] == ("reg_8", "obj_8", "cls_8")
    assert len(file.data) == document["engine_bytes"]


def test_cache_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model(tmp_path)
    assert run(model, "--cache", tmp_path / "c") == 0
    assert "Engine built (not in the cache)" in capsys.readouterr().out
    assert run(model, "--cache", tmp_path / "c") == 0
    assert "Engine found in the cache" in capsys.readouterr().out
    assert run(model, "--cache", tmp_path / "c", "--precision", "fp32") == 0
    assert "Engine built (not in the cache)" in capsys.readouterr().out


def test_two_commands_at_once_build_once(tmp_path: Path) -> None:
    # Seconds of work, so that the two overlap.
    model = save_model(tmp_path, width=0.5, height=320, width_px=320)
    command = [sys.executable, "-m", "yolox_trt.cli", "build", model, "--cache", tmp_path / "c"]
    command += ["--flavour", "tensorrt_rtx"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    results = sorted(re.findall(r"^Engine (.*): /", out, re.MULTILINE) for out, _ in outputs)
    assert results == [["built (not in the cache)"], ["found in the cache"]]
    assert len(list((tmp_path / "c").glob("*.engine"))) == 1


def test_layer_info_needs_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, None)
    out, info = tmp_path / "m.engine", tmp_path / "layers.json"
    assert run(small_model(tmp_path), "-o", out, "--layer-info", info) == 2
    assert "cannot load on this machine" in capsys.readouterr().err
    assert not info.exists()
    assert read_engine(out).fingerprint.flavour == "tensorrt_rtx"  # built all the same


def test_list_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small_model(tmp_path), "--list-layers") == 0
    assert "Conv_" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "dla0"), "use --device gpu"),
        (("--precision", "int8"), "yolox_trt quantize"),
        (("--layer-precision", "conv"), "NAME:PRECISION"),
        (("--device", "npu"), "expected gpu"),
        (("--timing-cache", "t"), "no-ops"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(small_model(tmp_path), *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


def test_layer_precisions_from_a_file_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = small_model(tmp_path), tmp_path / "layers.json"
    path.write_text('{"Conv_0": "int8", "Conv_1": "fp16"}')
    arguments = (model, "-o", tmp_path / "m.engine", "--layer-precisions", path)
    assert run(*arguments) == 2  # TensorRT-RTX takes no precisions of layers
    assert "--layer-precision" in capsys.readouterr().err
    path.write_text("[]")
    assert run(*arguments) == 2
    assert "--layer-precisions" in (error := capsys.readouterr().err)
    assert "yolox_trt translate" in error


def test_help_needs_no_tensorrt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["build", "--help"])
    assert caught.value.code == 0
    assert "--no-gpu-fallback" in capsys.readouterr().out
