# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt batch` as it is typed: evaluate, calibrate, regress's and Ray's refusals."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from support.frames import random_frame

from yolox_trt.batch.regression import RegressJob
from yolox_trt.cli.main import main
from yolox_trt.ros.tools.options import RegressOptions


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two COCO sets of three pictures each."""
    folders = []
    for name in ("day", "night"):
        folder = tmp_path_factory.mktemp("sets") / name
        (folder / "images").mkdir(parents=True)
        images, annotations = [], []
        for number in range(3):
            file = f"{10 * len(folders) + number}.png"
            picture = random_frame("bgr8", 48, 64, seed=number + len(folders), smooth=True)
            cv2.imwrite(str(folder / "images" / file), picture.rows)
            images.append({"id": 7 + number, "file_name": file, "height": 48, "width": 64})
            box = {"image_id": 7 + number, "category_id": 1 + number, "bbox": [4, 4, 40, 30]}
            annotations.append({"id": number + 1, **box})
        categories = [{"id": 1 + k, "name": f"class{k}"} for k in range(5)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "instances_all.json").write_text(json.dumps(document))
        folders.append(folder)
    return folders


CPU = ("--device", "cpu", "--threads", "1")


def test_evaluate_gives_the_figures_of_evaluate(
    sets: list[Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--coco", str(sets[0]), "--coco", str(sets[1]), *CPU, "-o", str(tmp_path / "out")]
    assert main(["batch", "evaluate", str(model), *words, "--part-frames", "2", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert [Path(each["coco"]).name for each in scores] == ["day", "night"]
    for score in scores:
        assert main(["evaluate", str(model), "--coco", score["coco"], *CPU, "--json"]) == 0
        single = json.loads(capsys.readouterr().out)
        assert score["metrics"] == single["metrics"]
        assert score["images"] == single["images"] == 3


@pytest.mark.slow
def test_calibrate_gives_the_ranges_of_calibrate(
    sets: list[Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = tmp_path / "all.txt"
    every.write_text("\n".join(str(f) for s in sets for f in sorted((s / "images").iterdir())))
    algorithm = ("--algorithm", "percentile:99.9", "--threads", "1")
    ranges, single = tmp_path / "ranges.json", tmp_path / "single.json"
    words = ["--images", str(every), *algorithm, "--ranges", str(ranges), "--part-frames", "1"]
    assert main(["batch", "calibrate", str(model), *words, "-o", str(tmp_path / "out")]) == 0
    words = ["--images", str(every), *algorithm, "--ranges", str(single)]
    assert main(["calibrate", str(model), *words]) == 0
    assert json.loads(ranges.read_text()) == json.loads(single.read_text())
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 6
    # Another algorithm runs no image again.
    capsys.readouterr()
    words = ["--images", str(every), "--algorithm", "max", "--ranges", str(ranges)]
    words += ["--part-frames", "1", "--threads", "1"]
    assert main(["batch", "calibrate", str(model), *words, "-o", str(tmp_path / "out")]) == 0
    assert "6 of 6 parts are done, 6 by earlier runs" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["96x128", "auto", "auto:64x48"])
def test_calibrate_at_another_size_gives_the_ranges_of_calibrate(
    size: str, drives: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for file in (drives / "pictures").iterdir():  # upright, unlike the model's input
        upright = cv2.rotate(255 - cv2.imread(str(file)), cv2.ROTATE_90_CLOCKWISE)
        cv2.imwrite(str(tmp_path / "images" / file.name), upright)
    words = ["--images", str(tmp_path / "images"), "--algorithm", "percentile:99"]
    words += ["--threads", "1"]
    found = {}
    for name, command, more in (
        ("single", ["calibrate"], []),
        ("parts", ["batch", "calibrate"], ["-o", str(tmp_path / "out"), "--part-frames", "2"]),
        ("own", ["calibrate"], []),
    ):
        file = tmp_path / f"{name}.json"
        sized = [] if name == "own" else ["--input-size", size]
        assert main([*command, str(model), *words, *sized, "--ranges", str(file), *more]) == 0
        found[name] = json.loads(file.read_text())
    assert found["parts"] == found["single"] != found["own"]
    # The statistics of one size are not those of another.
    capsys.readouterr()
    words += ["--ranges", str(tmp_path / "again.json"), "-o", str(tmp_path / "out")]
    words += ["--part-frames", "2", "--input-size", "model"]
    assert main(["batch", "calibrate", str(model), *words]) == 2
    assert "input_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["detect", "nowhere", "-o", "OUT"], "source '{cwd}/nowhere', which does not exist"),
        (["detect", "SET", "-o", "memory://x", "--format", "mcap"], "leave --format mcap out"),
        (["detect", "SET", "-o", "OUT", "--format", "csv"], "expected parquet, mcap or coco"),
        (["calibrate", "MODEL", "--images", "SET", "-o", "OUT"], "give --cache or --ranges"),
        (["regress", "SET", "--expect", "OUT", "-o", "OUT"], "expected bags on a disk of this"),
        (["scale", "--decode-ms", "0"], "--decode-ms = 0"),
    ],
)
def test_wrong_words_are_told_before_the_work(
    words: list[str],
    text: str,
    sets: list[Path],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "regress":
        pytest.importorskip("vision_msgs", reason="ROS 2 is not installed: run `make venv`")
    names = {"SET": str(sets[0]), "MODEL": str(model), "OUT": str(tmp_path / "out")}
    assert main(["batch", *(names.get(word, word) for word in words)]) == 2
    assert text.format(cwd=Path.cwd()) in capsys.readouterr().err
    assert not (tmp_path / "out" / "parts").exists()


def test_scale_prints_what_sets_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "scale", "--machines", "1", "--machines", "1000"]) == 0
    assert "set by" in capsys.readouterr().out


def test_a_regression_depends_on_the_files_that_its_configuration_names(tmp_path: Path) -> None:
    """A model that is replaced under its name is not done already."""
    model, config = tmp_path / "model.onnx", tmp_path / "cameras.yaml"
    model.write_bytes(b"one")
    config.write_text(f"front:\n  ros__parameters: {{model: {model}, class_names: [a, b]}}\n")
    jobs = [
        RegressJob(RegressOptions(bag=tmp_path, config=config)),
        RegressJob(RegressOptions(bag=tmp_path, arguments=(f"front.model:={model}",))),
    ]
    before = [job.description() for job in jobs]
    assert [job.description() for job in jobs] == before
    model.write_bytes(b"two")
    for job, old in zip(jobs, before, strict=True):
        assert job.description() != old
