# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The commands calibrate, quantize and translate, on files, from images to files and back."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from support.bags import write_bag
from support.command_line import call as run
from support.yolox_graphs import build_yolox

from yolox_trt.cli.main import main
from yolox_trt.compiler.int8.calibration_cache import read_cache
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.translate import remove_qdq
from yolox_trt.core.errors import FrameError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8")
    onnx.save(build_yolox(depth=0, width=0.125), str(path / "model.onnx"))
    (path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        image = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (160, 120))
        cv2.imwrite(str(path / "images" / f"{number}.png"), image)
    return path


def test_from_images_to_qdq_to_cache_and_back(folder: Path, capsys: pytest.CaptureFixture[str]):
    qdq, plain = folder / "qdq.onnx", folder / "float.onnx"
    cache, precisions, report = folder / "a.cache", folder / "p.json", folder / "q.json"
    status = run(
        "quantize", folder / "model.onnx", "--images", folder, "-o", qdq, "--threads", 1,
        "--algorithm", "max", "--keep-fp16", "auto:12", "--json", report,
    )  # fmt: skip
    assert status == 0
    quantized = json.loads(report.read_text())
    assert len(quantized["kept"]) == 12 and len(quantized["sensitivities"]) > 12
    assert run(
        "translate", qdq, "-o", plain, "--cache", cache, "--precisions", precisions
    ) == 0  # fmt: skip
    assert set(json.loads(precisions.read_text())) == set(quantized["kept"])
    again = folder / "again.onnx"
    assert run(
        "quantize", plain, "--from-ranges", cache, "--keep-fp16", precisions, "-o", again
    ) == 0  # fmt: skip
    implicit = read_cache(cache)
    assert run("translate", again, "-o", plain, "--cache", folder / "b.cache") == 0
    assert read_cache(folder / "b.cache") == implicit
    printed = capsys.readouterr().out
    assert "kept in floating point" in printed and " and 2 more (--json has all)" in printed


def test_a_model_is_quantised_at_the_size_that_fits_the_images(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "q.onnx"
    cv2.imwrite(str(tmp_path / "tall.png"), np.zeros((160, 60, 3), np.uint8))
    words = ["--algorithm", "max", "--threads", 1, "-o", out]
    for size, expected in (("auto", (96, 64)), ("auto:60x400", (32, 192)), ("model", (64, 96))):
        images = ("--images", tmp_path, "--input-size", size)
        assert run("quantize", folder / "model.onnx", *images, *words) == 0
        assert read_spec(out).input_size == expected


def test_calibrate_writes_cache_and_json_of_every_tensor(folder: Path):
    cache, ranges = folder / "c.cache", folder / "c.json"
    status = run(
        "calibrate", folder / "model.onnx", "--images", folder / "images", "--limit", 2,
        "--cache", cache, "--ranges", ranges, "--tensorrt", "10.3.0", "--dla",
    )  # fmt: skip
    assert status == 0
    assert cache.read_text().startswith("TRT-100300-EntropyCalibration2\n")
    assert read_cache(cache) == DynamicRanges.load_json(ranges)
    graph = onnx.load(str(folder / "model.onnx")).graph
    assert {o for n in graph.node if n.op_type == "Conv" for o in n.output} <= set(
        read_cache(cache)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm", "max", "--cache", "x"], "no calibration image.*give --images"),
        (["--images", "nowhere", "--cache", "x"], "no file or folder.*give --images"),
        (["--algorithm", "fixed", "--cache", "x"], "bounded"),
        (["--images", ".", "--algorithm", "best", "--cache", "x"], "'best'.*set --algorithm"),
        (["--images", ".", "--cache", "x", "--tensorrt", "11.0"], "quantize MODEL -o"),
        (["--images", ".", "--cache", "x", "--calibrator", "mine"], "IInt8EntropyCalibrator2"),
        (["--images", "."], "no output file.*give --cache or --ranges"),
        (["--algorithm", "fixed", "--cache", "x", "--set", "a"], "'a'.*TENSOR=RANGE.*set --set"),
    ],
)
def test_what_cannot_work_is_refused(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["calibrate", str(folder / "model.onnx"), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--equalize", "7"], "--equalize = 7.*0 to 1.*set --equalize"),
        (["--equalize", "--algorithm", "fixed"], "leave out --equalize, or set --algorithm to"),
        (["--keep-fp16", "auto:many"], "'many' layers.*set --keep-fp16"),
        (["--keep-fp16", "a.json"], "a.json.*translate MODEL --precisions"),
        (["--placement", "some"], "--placement = 'some'.*conv_inputs or all"),
        (
            ["--from-ranges", "c", "--keep-fp16", "auto:3"],
            "--from-ranges with.*--images",
        ),
        (["--algorithm", "fixed", "--set", "nothing=3"], "bounded|no tensor 'nothing'"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["quantize", str(folder / "model.onnx"), "-o", "x.onnx", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_bag_calibrates_as_its_pictures_do(folder: Path, tmp_path: Path):
    for index, picture in enumerate(write_bag(tmp_path / "bag", count=3)):
        for camera in ("front", "rear"):  # the bag shows each picture on both topics
            cv2.imwrite(str(tmp_path / f"{index}_{camera}.png"), picture)
    for source, target in ((tmp_path / "bag", "bag.json"), (tmp_path, "folder.json")):
        status = main(
            [
                "calibrate", str(folder / "model.onnx"), "--images", str(source),
                "--ranges", str(tmp_path / target), "--threads", "1",
            ]
        )  # fmt: skip
        assert status == 0
    from_bag = DynamicRanges.load_json(tmp_path / "bag.json")
    assert from_bag == DynamicRanges.load_json(tmp_path / "folder.json")


def test_nothing_is_printed_before_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    arguments = ["quantize", folder / "model.onnx", "--images", tmp_path, "-o", tmp_path / "q.onnx"]
    with pytest.raises(FrameError, match=r"cannot be read.*expected a whole JPEG.*fix: "):
        run(*arguments)
    assert capsys.readouterr() == ("", "")


def test_the_preprocessing_of_a_model_without_metadata(folder: Path, tmp_path: Path) -> None:
    """YOLOX 0.1.0 takes normalised RGB; calibrated with 0..255 its INT8 form finds nothing."""
    images, qdq, ranges = folder / "images", tmp_path / "q.onnx", tmp_path / "r.json"
    for words in (["quantize", "-o", qdq], ["calibrate", "--ranges", ranges]):
        command, *output = words
        legacy = ("--images", images, "--algorithm", "max", "--preprocessing", "rgb_imagenet")
        assert run(command, folder / "model.onnx", *legacy, *output) == 0
    found = DynamicRanges.load_json(ranges)
    assert found.amax("images") < 2.7  # (1 - 0.406) / 0.225 at most, not 255
    graph = Graph.load(qdq)
    assert read_spec(graph).preprocessing == PREPROCESSING_PRESETS["rgb_imagenet"]
    assert remove_qdq(graph).ranges.items() <= found.items()


def test_a_quantised_model_is_warned_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, once = ("--images", folder / "images", "--limit", 1), tmp_path / "once.onnx"
    assert run("quantize", folder / "model.onnx", *images, "-o", once) == 0
    assert not caplog.messages
    assert run("calibrate", once, *images, "--ranges", tmp_path / "r.json") == 0
    assert "once.onnx is quantised already" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-fp16", "nobody"], "layer to keep in floating point 'nobody'.*--keep-fp16"),
        (["--set", "nobody=3"], "tensor, or pattern of tensors, 'nobody'.*--set"),
        (["--limit", "-3"], "--limit = -3.*at least 0"),
        (["-o", "/proc/q.onnx"], "'/proc/q.onnx' cannot be written"),
    ],
)
def test_options_are_checked_before_the_images_are_read(
    folder: Path, tmp_path: Path, words: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "broken.png").write_text("no picture")
    base = ["quantize", folder / "model.onnx", "--images", tmp_path, "-o", tmp_path / "q.onnx"]
    assert main([str(word) for word in (*base, *words)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_json_tells_what_was_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, qdq, cache = folder / "images", tmp_path / "q.onnx", tmp_path / "c.cache"

    def document(*words: object) -> dict[str, Any]:
        assert run(*words, "--json") == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    model = folder / "model.onnx"
    calibrated = document("calibrate", model, "--images", images, "--cache", cache)
    assert calibrated["cache"] == str(cache) and not calibrated["missing"]
    quantized = document("quantize", model, "--images", images, "--keep-fp16", "last", "-o", qdq)
    assert len(quantized["kept"]) == 9 and not quantized["sensitivities"]
    assert quantized["ranges"].items() <= calibrated["ranges"].items()
    back = document("translate", qdq, "-o", tmp_path / "f.onnx", "--cache", cache)
    assert back["precisions"] == dict.fromkeys(quantized["kept"], "fp16")
    assert set(back["explicit"]) == set(back["ranges"]) <= set(quantized["ranges"])
