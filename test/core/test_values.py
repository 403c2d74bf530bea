# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Devices, options, labels, model descriptions, errors: what they accept, and what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from yolox_trt.core import (
    ConfigurationError,
    Detections,
    Device,
    HeadLayout,
    HeadLevel,
    HeadTensor,
    MissingDependencyError,
    ModelError,
    ModelSpec,
    PostprocessOptions,
    Preprocessing,
)
from yolox_trt.core.errors import FILE_ERRORS
from yolox_trt.core.labels import (
    COCO_CATEGORY_IDS,
    COCO_CLASSES,
    default_class_names,
    load_class_names,
)
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS, parse_preprocessing
from yolox_trt.core.optional import require


@pytest.mark.parametrize("name", ["gpu", "gpu:1", "dla0", "dla1", "cpu"])
def test_device_names_go_there_and_back(name: str) -> None:
    device = Device.parse(f" {name.upper()} ")
    assert str(device) == name
    assert device.is_cuda == (name != "cpu")


@pytest.mark.parametrize("name", ["", "gpu1", "dla", "cpu:0", "cuda", "gpu:x"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="device"):
        Device.parse(name)


def test_options() -> None:
    options = PostprocessOptions(score_threshold=0.4, class_thresholds={2: 0.9})
    np.testing.assert_allclose(options.threshold_array(4), [0.4, 0.4, 0.9, 0.4])
    with pytest.raises(ConfigurationError, match="class 2"):
        options.threshold_array(2)
    for bad in (
        {"score_threshold": -0.1},
        {"nms_threshold": 1.5},
        {"score_threshold": float("nan")},
        {"class_thresholds": {0: 2.0}},
        {"max_detections": 0},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(bad)).split("[")[0]):
            PostprocessOptions(**bad)  # type: ignore[arg-type]


def test_detections() -> None:
    found = Detections(
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([1, 2, 3], np.int32),
    )
    assert found[np.array([2, 0])].class_ids.tolist() == [3, 1]
    assert len(found[found.scores > 0.75]) == 2
    assert len(Detections.empty()) == 0
    with pytest.raises(ValueError, match="expected"):
        Detections(np.zeros((2, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int32))


def test_labels(tmp_path: Path) -> None:
    assert len(COCO_CLASSES) == len(COCO_CATEGORY_IDS) == 80
    assert dict(zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True))["toothbrush"] == 90
    assert (COCO_CLASSES[11], COCO_CATEGORY_IDS[11]) == ("stop sign", 13)
    assert default_class_names(80) == COCO_CLASSES
    assert default_class_names(3) == ()
    path = tmp_path / "labels.txt"
    path.write_text("\ufeffcar\n person \n\n", encoding="utf-8")
    assert load_class_names(path) == ("car", "person")
    with pytest.raises(ConfigurationError, match=r"2 names.*expected 3"):
        load_class_names(path, 3)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_class_names(tmp_path / "missing.txt")
    path.write_text("\n \n")
    with pytest.raises(ConfigurationError, match=r"0 names in label file"):
        load_class_names(path)


def test_preprocessing() -> None:
    legacy = PREPROCESSING_PRESETS["rgb_imagenet"]
    assert Preprocessing.from_json(legacy.to_json()) == legacy
    multiplier, offset = legacy.factors
    for c, value in enumerate((0.0, 114.0, 255.0)):
        expected = (value / 255 - legacy.mean[c]) / legacy.std[c]
        assert value * multiplier[c] + offset[c] == pytest.approx(expected)
    assert Preprocessing().is_identity and not legacy.is_identity
    for bad in (
        {"color_order": "yuv"},
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, math.nan, 1.0)},
        {"scale": math.nan},
        {"scale": "x"},
        {"pad": 300},
        {"pad": 1.5},
        {"mean": (1.0,)},
        {"resize": "crop"},
    ):
        with pytest.raises(ModelError, match="preprocessing"):
            Preprocessing(**bad)  # type: ignore[arg-type]
    for text in ("[]", "{", '{"colour": "bgr"}', '{"mean": 3}', '{"scale": "x"}'):
        with pytest.raises(ModelError, match="metadata"):
            Preprocessing.from_json(text)


def test_preprocessing_is_written_in_one_word() -> None:
    for preset, expected in PREPROCESSING_PRESETS.items():
        assert parse_preprocessing(preset) == expected
    found = parse_preprocessing(
        "bgr, order=rgb,scale=1/255,mean=.5,std=0.1:1:1,pad=0,resize=centre"
    )
    assert found == Preprocessing(
        "rgb", 1 / 255, (0.5, 0.5, 0.5), (0.1, 1.0, 1.0), pad=0, resize="centre"
    )
    assert Preprocessing.from_json(found.to_json()) == found
    for bad in ("grey", "bgr,crop=1", "bgr,std=0", "bgr,scale=1/0", "bgr,mean=1:2", "rgb,pad=x"):
        with pytest.raises(ConfigurationError, match=r"(preprocessing|'\w+=|'\w+,).*expected"):
            parse_preprocessing(bad)


def test_model_spec_goes_through_json() -> None:
    spec = ModelSpec(
        input_name="images",
        input_height=64,
        input_width=96,
        batch=None,
        num_classes=2,
        head=HeadLayout.RAW_LEVELS,
        output_names=("a", "b", "c"),
        levels=(HeadLevel(8, 8, 12, HeadTensor("a"), HeadTensor("b"), HeadTensor("c", 5)),),
        sigmoid=False,
        preprocessing=PREPROCESSING_PRESETS["rgb_imagenet"],
        class_names=("car", "person"),
    )
    values = json.loads(json.dumps(spec.to_dict()))
    assert ModelSpec.from_dict(values) == spec
    assert (spec.num_anchors, spec.strides) == (96, (8,))
    assert (spec.class_name(1), spec.class_name(7)) == ("person", "7")
    with pytest.raises(ModelError, match="cannot be read"):
        ModelSpec.from_dict({k: v for k, v in values.items() if k != "levels"})
    with pytest.raises(ModelError, match="cannot be read"):
        ModelSpec.from_dict(values | {"colour": 1})
    level = values["levels"][0]
    for change in (
        *({"input_height": wrong} for wrong in ("64", -1, 2**64, True, None, 64.0)),
        *({"batch": []}, {"sigmoid": 1}, {"input_name": None}, {"output_names": [1]}),
        {"levels": [level | {"stride": "8"}]},
        {"levels": [level | {"box": "a"}]},
        {"levels": [level | {"box": {"name": "a", "channel": None}}]},
    ):
        with pytest.raises(ModelError, match="cannot be read"):
            ModelSpec.from_dict(values | change)


def test_errors_name_what_was_found_expected_and_mends() -> None:
    error = ConfigurationError("a", expected="b", fix="c")
    assert str(error) == "a; expected b; fix: c"
    assert (error.found, error.expected, error.fix) == ("a", "b", "c")
    assert isinstance(error, ValueError)


def test_an_unknown_name_is_answered_with_those_known_and_the_closest() -> None:
    names = [f"name{k}" for k in range(14)]
    error = ModelError.unknown("layer", "nam13", names, fix="see the list")
    assert str(error).startswith("layer 'nam13'; expected one of name0, name1, ")
    assert str(error).endswith(" name11 and 2 more; fix: did you mean name13? see the list")
    assert str(ModelError.unknown("layer", "x", ["a"])) == "layer 'x'; expected one of a"


def test_what_a_file_raises_becomes_an_error_with_its_reason(tmp_path: Path) -> None:
    def read(text: str) -> None:
        path = tmp_path / "file.json"
        if text:
            path.write_text(text)
        with ConfigurationError.instead_of(FILE_ERRORS, "a file", expected="JSON", fix="mend it"):
            json.loads(path.read_text())["key"]

    for text, reason in (("", "No such file or directory"), ("{}", "no 'key'"), ("[]", "list")):
        with pytest.raises(ConfigurationError, match=rf"^a file \(.*{reason}.*\); expected JSON"):
            read(text)
    own = ModelError("its own")  # an error of the package stays as it is
    with pytest.raises(ModelError) as caught, ConfigurationError.instead_of(Exception, "a file"):
        raise own
    assert caught.value is own


def test_optional_packages() -> None:
    assert require("json") is json
    with pytest.raises(MissingDependencyError, match=r"for drawing.*pip install no_such_package"):
        require("no_such_package.sub", purpose="drawing")


def test_a_module_that_lacks_another_names_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_another.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match="fix: pip install no_such_package"):
        require("needs_another")
