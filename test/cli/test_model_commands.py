# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`optimize`, `dla-check`, `inspect` as a user calls them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from support.command_line import call
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.dla import check
from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.input_size import best_size
from yolox_trt.engines.engine_file import open_model
from yolox_trt.graph.spec import read_spec


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    path = tmp_path / "stock.onnx"
    onnx.save(build_yolox(num_classes=5), str(path))
    return path


def test_check_optimize_check(stock, tmp_path, capsys) -> None:
    assert call("dla-check", stock) == 1
    printed = capsys.readouterr().out
    assert "focus-to-conv" in printed and "15 nodes fall back" in printed
    out = tmp_path / "dla.onnx"
    report = tmp_path / "report.json"
    assert call("optimize", stock, "--target", "dla", "-o", out, "--json", report) == 0
    assert "max |after - before|" in capsys.readouterr().out
    values = json.loads(report.read_text())
    assert values["difference"] < 1e-4 and values["after"]["gpu_nodes"] == 0
    assert call("dla-check", out) == 0
    assert "run on the DLA" in capsys.readouterr().out


def test_check_writes_json_and_svg(stock, tmp_path) -> None:
    assert call("dla-check", stock, "--json", tmp_path / "r.json", "--svg", tmp_path / "r.svg") == 1
    assert json.loads((tmp_path / "r.json").read_text())["tensorrt"] == "8.6"
    assert (tmp_path / "r.svg").read_text().startswith("<svg")


def test_check_lists_every_node(stock, capsys) -> None:
    call("dla-check", stock, "--all", "--tensorrt", "10.3", "--precision", "fp16")
    assert capsys.readouterr().out.count("Conv_") >= 59


def test_optimize_leaves_status_1_where_something_falls_back(stock, tmp_path) -> None:
    out = tmp_path / "out.onnx"
    options = ["--target", "dla", "--skip", "spp-to-chain", "-o", out, "--no-verify"]
    assert call("optimize", stock, *options) == 1
    assert [n.op for n in check(out).fallback_nodes] == ["MaxPool", "MaxPool"]


def test_optimize_options(stock, tmp_path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("car\ntruck\nbus\nbicycle\npedestrian\n")
    out = tmp_path / "out.onnx"
    status = call(
        "optimize", stock, "-o", out, "--batch", 2, "--input-size", "96x64", "--labels", labels,
        "--preprocessing", "rgb", "--uint8-input", "--sigmoid", "keep",
    )  # fmt: skip
    assert status == 0
    spec = read_spec(out)
    assert (spec.batch, spec.input_height, spec.input_width) == (2, 96, 64)
    assert spec.class_names[0] == "car" and spec.sigmoid and spec.input_dtype == "uint8"
    assert spec.preprocessing.color_order == "bgr"


def test_the_size_that_fits_a_camera(stock, tmp_path) -> None:
    size, out, report = ("--input-size", "auto:1920x1080"), tmp_path / "o.onnx", tmp_path / "r.json"
    assert best_size((64, 96), (1920, 1080)) == (96, 64)
    assert call("optimize", stock, *size, "--no-verify", "-o", out) == 0
    assert read_spec(out).input_size == (96, 64)
    assert call("inspect", stock, *size, "--json", report) == 0
    assert json.loads(report.read_text())["input_shape"] == [1, 3, 96, 64]
    assert call("dla-check", stock, *size, "--json", report) == 1
    first = next(n for n in json.loads(report.read_text())["nodes"] if n["op"] == "Conv")
    assert first["shape"][2:] == [48, 32]
    with pytest.raises(ConfigurationError, match=r"auto without images.*auto:1080x1920"):
        call("dla-check", stock, "--input-size", "auto")


def test_nms_on_and_off(stock, tmp_path) -> None:
    with_nms, without = tmp_path / "nms.onnx", tmp_path / "plain.onnx"
    arguments = ["--head", "efficient-nms", "--max-detections", 20, "--score", 0.1]
    assert call("optimize", stock, "-o", with_nms, *arguments) == 0
    assert read_spec(with_nms).head.value == "efficient_nms"
    assert call("optimize", with_nms, "-o", without) == 0
    assert read_spec(without).head.value == "raw_levels"


def test_merge(stock, tmp_path) -> None:
    other, out = tmp_path / "other.onnx", tmp_path / "out.onnx"
    onnx.save(build_yolox(num_classes=2), str(other))
    assert call("optimize", stock, "--merge", f"lights={other}", "-o", out) == 0
    names = [o.name for o in onnx.load(str(out)).graph.output]
    assert names[0] == "main/reg_8" and "lights/cls_32" in names and len(names) == 18


def test_list_of_passes(capsys) -> None:
    assert call("optimize", "--list-passes") == 0
    printed = capsys.readouterr().out
    assert "focus-to-conv" in printed and "uint8-input" in printed


def test_missing_arguments_name_the_command() -> None:
    with pytest.raises(ConfigurationError, match="optimize MODEL"):
        call("optimize")


def test_inspect(stock, tmp_path, capsys) -> None:
    out = tmp_path / "i.json"
    assert (
        call("inspect", stock, "--hardware", "orin-dla", "--time", 5, "--layers", "--json", out)
        == 0
    )
    printed = capsys.readouterr().out
    assert "Efficiency" in printed and "SiLU" in printed and "YOLOX-S-plus-opt" in printed
    assert json.loads(out.read_text())["time_ms"] == 5.0


def test_inspect_tells_an_activation_of_unknown_size(tmp_path, capsys) -> None:
    """What an operator of another library makes has no size, and what follows from it neither."""
    model = build_yolox()
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    model.graph.node.append(onnx.helper.make_node("Own", ["images"], ["own"], domain="own"))
    model.graph.node.append(onnx.helper.make_node("Relu", ["own"], ["more"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", 1, None))
    onnx.save(model, tmp_path / "own.onnx")
    assert call("inspect", tmp_path / "own.onnx") == 1
    assert "1 ReLU (0.00 M elements)" in capsys.readouterr().out


def test_inspect_leaves_status_1_for_what_the_parser_does_not_take(tmp_path, capsys) -> None:
    path = tmp_path / "nms.onnx"
    onnx.save(build_yolox(head="efficient_nms"), str(path))
    assert call("inspect", path, "--tensorrt", "11.4") == 1
    assert "cut-head" in capsys.readouterr().out


def test_names_that_look_like_markup(tmp_path, capsys) -> None:
    model = build_yolox()
    for node in model.graph.node:
        node.name = f"[red]{node.name}[/bold]"
    path = tmp_path / "odd.onnx"
    onnx.save(model, str(path))
    out = tmp_path / "out.onnx"
    assert call("dla-check", path) == 1
    assert call("optimize", path, "--target", "dla", "-o", out, "--no-verify") == 0
    assert call("inspect", path) == 0
    assert "[red]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "option", "suffix"),
    [
        ("optimize", "-o", ".onnx"),
        ("optimize", "--json", ".json"),
        ("dla-check", "--svg", ".svg"),
        ("inspect", "--json", ".json"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_first(
    stock: Path, tmp_path: Path, command: str, option: str, suffix: str
) -> None:
    extra = ["-o", tmp_path / "x.onnx"] if option == "--json" and command == "optimize" else []
    (folder := tmp_path / f"folder{suffix}").mkdir()
    for path, message in ((stock / f"file{suffix}", "cannot be written"), (folder, "is a folder")):
        with pytest.raises(ConfigurationError, match=message):
            call(command, stock, *extra, option, path)
    assert not (tmp_path / "x.onnx").exists()


def test_a_built_engine_is_told_from_a_broken_download(tmp_path) -> None:
    for name, data in (("x.engine", b"any"), ("named_wrongly.onnx", b"ftrt\x00\x01")):
        path = tmp_path / name
        path.write_bytes(data)
        for read in (lambda p: call("inspect", p), open_model):
            with pytest.raises(ModelError, match=r"built TensorRT engine.*yolox_trt detect"):
                read(path)


def test_the_remedy_for_another_size_works(stock, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"expected 64x96.*multiples of 32"):
        read_spec(stock, input_size=(100, 96))
    with pytest.raises(ModelError) as caught:
        read_spec(stock, input_size=(96, 64))
    command = re.search(r"\(yolox_trt (.*)\)", caught.value.fix).group(1).split()
    out = tmp_path / "out.onnx"
    assert call(*({"MODEL": stock, "OUT": out}.get(word, word) for word in command)) == 0
    spec = read_spec(out, input_size=(96, 64))
    assert (spec.input_height, spec.input_width) == (96, 64)


def test_missing_folders_are_made(stock, tmp_path) -> None:
    call("dla-check", stock, "--json", tmp_path / "new" / "folder" / "r.json")
    assert json.loads((tmp_path / "new" / "folder" / "r.json").read_text())["tensorrt"] == "8.6"


def test_nothing_is_printed_before_an_error(tmp_path, capsys) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        call("optimize", path, "-o", tmp_path / "out.onnx")
    assert capsys.readouterr() == ("", "")
