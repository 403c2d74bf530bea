# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""yolox_trt.Detector, and every example in Python of the documents."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from support.frames import random_frame
from support.timing import ever_within
from support.web import Server
from support.yolox_graphs import build_yolox

import yolox_trt
from yolox_trt.core.errors import ConfigurationError, EngineError, FrameError
from yolox_trt.core.limits import LIMITS
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.model_zoo import MODELS, ZooFile, ZooModel

ROOT = Path(__file__).resolve().parents[2]
#: Page -> its examples, which are run one after the other.
EXAMPLES = {
    page: re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    for page in ("docs/python.md", "docs/tracking.md", "README.md")
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(build_yolox(num_classes=5, metadata=True), path)
    return path


@pytest.fixture(scope="module")
def detector(model: Path) -> yolox_trt.Detector:
    return yolox_trt.Detector(model, device="cpu", score=0.05, threads=1)


def picture(seed: int = 0) -> np.ndarray:
    return np.array(random_frame("bgr8", 96, 144, seed=seed, smooth=True).rows)


def seconds_of_import(module: str) -> float:
    program = (
        f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_masks(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "masks.onnx"
    onnx.save(build_yolox(num_classes=5, segmentation="argmax", mask_classes=4), path)
    image = np.array(random_frame("bgr8", 70, 110, smooth=True).rows)
    with yolox_trt.Detector(path, device="cpu", masks=True, threads=1) as detector:
        result = detector(image)
    assert result.mask is not None
    assert (result.mask.shape, result.mask.dtype) == ((70, 110), np.uint8)
    assert len(np.unique(result.mask)) > 1 and result.mask.max() < 4
    assert (result.plot() != image).any(2).mean() > 0.9
    with yolox_trt.Detector(path, device="cpu", threads=1) as detector:
        assert detector(image).mask is None
    with pytest.raises(ConfigurationError, match="without a segmentation head"):
        yolox_trt.Detector(model, device="cpu", masks=True, threads=1)


def test_the_package_alone_is_imported_at_once() -> None:
    assert ever_within(0.2, lambda: seconds_of_import("yolox_trt"))
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        yolox_trt.Detektor  # noqa: B018
    assert "Detector" in dir(yolox_trt)


def test_a_path_an_array_and_a_mirrored_array_are_one_image(
    detector: yolox_trt.Detector, tmp_path: Path
) -> None:
    pixels = picture()
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    wanted = detector(tmp_path / "a.png")
    assert len(wanted) > 3
    for image, how in (
        (pixels, {}),
        (pixels[..., ::-1], {"rgb": True}),
        (np.dstack([pixels, pixels[..., :1]]), {}),
        (np.ascontiguousarray(pixels[..., ::-1]), {"rgb": True}),
    ):
        np.testing.assert_array_equal(detector(image, **how).boxes, wanted.boxes)
    assert [box.xyxy for box in wanted] == [tuple(box) for box in wanted.boxes.tolist()]
    assert set(wanted.speed) == {"preprocess", "inference", "postprocess"}


def test_pil_images_and_tensors(detector: yolox_trt.Detector) -> None:
    image, torch = pytest.importorskip("PIL.Image"), pytest.importorskip("torch")
    pixels = picture()
    wanted = detector(pixels)
    np.testing.assert_array_equal(detector(image.fromarray(pixels[..., ::-1])).boxes, wanted.boxes)
    np.testing.assert_array_equal(detector(torch.from_numpy(pixels)).boxes, wanted.boxes)
    with pytest.raises(FrameError, match=r"Tensor of shape \(3, 96, 144\), float32"):
        detector(torch.from_numpy(pixels).permute(2, 0, 1).float())


def test_a_list_keeps_its_order(detector: yolox_trt.Detector, tmp_path: Path) -> None:
    for seed in range(3):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), picture(seed))
    sources = [picture(2), tmp_path / "0.png", str(tmp_path / "[12].png"), picture(0)]
    results = detector(sources)
    assert [result.number for result in results] == [1, 2, 3, 4, 5]
    for result, seed in zip(results, (2, 0, 1, 2, 0), strict=True):
        np.testing.assert_array_equal(result.image, picture(seed))
    assert list(map(repr, detector(sources, stream=True))) == list(map(repr, results))
    assert len(detector([picture()])) == 1  # a list of one is a list


def test_only_the_classes_that_are_asked_for(detector: yolox_trt.Detector, model: Path) -> None:
    every = detector(picture())
    assert set(every.names) > {"class2", "class3"}
    for classes, names in (
        (["class2", 3], {"class2", "class3"}),
        ("class2", {"class2"}),
        (0, {"class0"}),
        (np.array([0, 3]), {"class0", "class3"}),
    ):
        with yolox_trt.Detector(model, device="cpu", score=0.05, classes=classes) as some:
            assert set(some(picture()).names) == names & set(every.names)


def test_every_source_has_tracks_of_its_own(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("edgefirst.tracker", reason="pip install edgefirst-tracker")
    for folder in ("a", "b"):
        for number in range(3):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), picture())
    how = {"score": 0.05, "track_score": 0.05, "tracking": "bytetrack"}
    with yolox_trt.Detector(model, device="cpu", **how) as tracking:
        one, two, three = tracking(str(tmp_path / "a"))
        assert not one.ids.any() and {box.id for box in one} == {None}
        assert sorted(two.ids) == list(range(1, len(two) + 1))
        assert two.ids.tolist() == three.ids.tolist() == [box.id for box in three]
        assert two.to_coco()[0]["track_id"] == two[0].id
        again = tracking(str(tmp_path / "b"))  # nothing is left of the call before
        assert [result.ids.tolist() for result in again] == [
            r.ids.tolist() for r in (one, two, three)
        ]


def test_a_zone_beside_the_images_is_told_once(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zones = {"include_zones": ["900,0 990,0 990,90"]}
    with yolox_trt.Detector(model, device="cpu", score=0.05, **zones) as detector:
        assert [len(result) for result in detector([picture(0), picture(1)])] == [0, 0]
    assert caplog.text.count("beside the image; expected pixels of the 144x96 image") == 1


def test_threads_share_a_detector(detector: yolox_trt.Detector) -> None:
    wanted = [detector(picture(seed)).boxes for seed in range(4)]
    found: dict[int, Any] = {}

    def work(seed: int) -> None:
        found[seed] = [detector(picture(seed)).boxes for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, boxes in found.items():
        for each in boxes:
            np.testing.assert_array_equal(each, wanted[seed])
    assert len(found) == 4


def test_a_long_list_lets_images_go(
    detector: yolox_trt.Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(LIMITS), "held_bytes", 2 * picture().size)
    assert len(detector([picture()] * 3)[2].plot()) == 96  # the caller holds those himself
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture())
    results = detector(tmp_path)
    assert results[1].plot().shape == (96, 144, 3)
    assert len(results[2]) > 0
    with pytest.raises(ConfigurationError, match=r"image 3 .*stream=True"):
        results[2].plot()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"\(8, 8, 3\), float32; expected .*uint8; fix: .*255"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\), uint8; .*channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\(2, 8, 8, 3\).*list\(images\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (object(), r"object of shape \(\), object"),
    ],
)
def test_a_wrong_array_is_told_by_shape_and_type(
    detector: yolox_trt.Detector, image: Any, message: str
) -> None:
    with pytest.raises(FrameError, match=message):
        detector(image)


def test_wrong_arguments() -> None:
    for arguments, message in (
        ({"model": "yolox-nanno"}, "did you mean yolox-nano"),
        ({"model": "nonsense"}, "expected one of yolox-nano"),
        ({"score": 2.0}, "`score` = 2"),
        ({"scores": 0.5}, "option 'scores'; .*did you mean"),
        ({"score_threshold": 0.5}, "option 'score_threshold'; expected one of score, nms"),
        ({"device": "npu"}, "npu"),
        ({"classes": ["persn"]}, "did you mean person"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            yolox_trt.Detector(**{"device": "cpu", **arguments})


def test_the_stages_of_a_gpu_are_measured_on_demand(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(options: DetectorOptions) -> None:
        asked.append(options.cuda)
        raise EngineError("no GPU")

    monkeypatch.setattr("yolox_trt.api.detector.create_detector", refuse)
    for how in ({}, {"profile": True}):
        with pytest.raises(EngineError, match="no GPU"):
            yolox_trt.Detector(model, **how)
    assert asked == [{}, {"profile": True}]


def test_a_model_by_its_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOX_TRT_CACHE", str(tmp_path))
    with Server() as server:
        server.files["/net.onnx"] = ("application/octet-stream", model.read_bytes())
        names = [f"kind{number}" for number in range(5)]
        server.files["/names.txt"] = ("text/plain", "\n".join(names).encode())
        onnx_file, labels = (
            ZooFile(f"{server.address}/{name}") for name in ("net.onnx", "names.txt")
        )
        zoo = ZooModel("yolox-local", "", onnx_file, labels)
        monkeypatch.setitem(MODELS, zoo.name, zoo)
        with yolox_trt.Detector("yolox_local", device="cpu", score=0.05) as detector:
            assert detector.names == tuple(names)
            assert set(detector(picture()).names) <= set(names)
    with yolox_trt.Detector("yolox-local", device="cpu"):  # no server: it is in the cache
        pass


def test_a_closed_detector_says_so(model: Path) -> None:
    with yolox_trt.Detector(model, device="cpu") as detector:
        detector(picture())
    with pytest.raises(EngineError, match="closed"):
        detector(picture())


def test_the_examples_of_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = Path(pytest.importorskip("skimage").__file__).parent / "data"
    monkeypatch.chdir(tmp_path)
    Path("photographs").mkdir()
    shutil.copy(photographs / "chelsea.png", "photographs")
    street = cv2.imread(str(photographs / "coffee.png"))
    cv2.imwrite("street.jpg", street)
    cv2.imwrite("photo.jpg", street)
    video = cv2.VideoWriter("drive.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (600, 400))
    for _ in range(3):
        video.write(street)
    video.release()
    names: dict[str, Any] = {}
    with Server() as server:
        for page, example in [(name, each) for name in EXAMPLES for each in EXAMPLES[name]]:
            example = example.replace("rtsp://192.168.0.10/stream", server.camera(street))
            for package in ("pandas", "supervision"):
                if f"to_{package}" in example:
                    try:
                        __import__(package)
                    except ImportError:
                        example = ""
            exec(compile(example, page, "exec"), names)
    text = capsys.readouterr().out
    assert "cup 0." in text
    assert "<Result street.jpg: " in text
    assert "did you mean yolox-nano?" in text
    assert "(3, 480, 640), float32" in text
    assert Path("out/street.jpg").is_file() and Path("out/0.jpg").is_file()
    assert names["result"]._repr_jpeg_()[:2] == b"\xff\xd8"
    assert len(EXAMPLES["docs/python.md"]) > 10
