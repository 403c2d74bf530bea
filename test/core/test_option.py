# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import (
    Kind,
    OptionGroup,
    again,
    from_plain,
    nested,
    nested_of,
    option,
    options_of,
    parse_path,
)


@dataclass(frozen=True, kw_only=True)
class Settings(OptionGroup):
    model: str = option(help="Model file.")
    rate: float = option(0.0, minimum=0.0, maximum=100.0, unit="Hz", help="Images a second.")
    factor: float = option(2.0, above=0.0, help="A factor.")
    depth: int = option(1, minimum=1, help="Queue.")
    policy: str = option("static", choices=("static", "dynamic"), help="Placement.")
    names: tuple[str, ...] = option(["front"], help="Cameras.")
    parts: tuple[str, ...] = option(["door"], choices=("door", "wheel"), help="Parts.")
    device: Device | None = option(
        None, kind=Kind.STRING, parse=Device.parse, flag="--device", help="Where it runs."
    )


def test_an_option_knows_its_name_and_the_kind_of_its_default() -> None:
    declared = options_of(Settings)
    assert list(declared) == [
        "model",
        "rate",
        "factor",
        "depth",
        "policy",
        "names",
        "parts",
        "device",
    ]
    kinds = [entry.kind for entry in declared.values()]
    assert kinds[1:6] == [Kind.DOUBLE, Kind.DOUBLE, Kind.INTEGER, Kind.STRING, Kind.STRING_ARRAY]
    assert declared["model"].required and not declared["rate"].required
    assert declared["rate"] is options_of(Settings)["rate"]


def test_plain_values_become_typed_ones() -> None:
    settings = from_plain(Settings, {"model": "m.onnx", "rate": 3, "device": "dla1"})
    assert settings == Settings(model="m.onnx", rate=3.0, device=Device.parse("dla1"))
    assert isinstance(settings.rate, float)
    assert settings.names == ("front",)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", -1.0, "0 to 100 Hz"),
        ("rate", float("nan"), "a number"),
        ("rate", 10**400, "a number"),
        ("factor", 0.0, "above 0"),
        ("depth", 0, "at least 1"),
        ("depth", True, "a whole number"),
        ("depth", 1.5, "a whole number"),
        ("policy", "best", "static or dynamic"),
        ("names", "front", "a list of texts"),
        ("names", [1], "a list of texts"),
        ("parts", ["wheel", "tree"], "door or wheel"),
        ("device", "tpu", "dla0"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(
    name: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options_of(Settings)[name].plain(value)
    assert expected in caught.value.expected
    assert caught.value.fix == f"set `{name}`"


def test_a_struct_made_in_python_is_checked_too() -> None:
    with pytest.raises(ConfigurationError, match=r"`rate` = 101"):
        Settings(model="m", rate=101.0)


def test_names_that_are_no_texts_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="option '1'"):
        from_plain(Settings, {"model": "m.onnx", 1: 2, "depht": 3, None: 4})  # type: ignore[dict-item]


def test_each_front_end_names_the_option_in_its_own_words() -> None:
    with pytest.raises(ConfigurationError) as caught:
        options_of(Settings)["device"].plain("tpu")
    text = caught.value.text(lambda entry: entry.flag or f"the parameter `{entry.name}`")
    assert text.endswith("fix: set --device")


@dataclass(frozen=True, kw_only=True)
class Job:
    settings: Settings = nested(Settings, without=("names",), model="own.onnx", rate=5.0)


def test_nested_options_have_the_defaults_that_the_field_gives() -> None:
    assert Job().settings == Settings(model="own.onnx", rate=5.0)
    assert nested_of(Job)["settings"].type is Settings
    assert nested_of(Job)["settings"].without == ("names",)
    assert options_of(Job) == {}


@dataclass(frozen=True, kw_only=True)
class Other:
    rate: float = again(options_of(Settings)["rate"], default=7.0, flag="--hz")


def test_an_option_is_declared_again_with_what_differs() -> None:
    first, second = options_of(Settings)["rate"], options_of(Other)["rate"]
    assert Other().rate == 7.0
    assert (second.flag, second.help, second.maximum) == ("--hz", first.help, first.maximum)
    with pytest.raises(ConfigurationError, match=first.range_text):
        second.plain(101.0)


def test_a_name_that_the_system_does_not_look_at_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for text in ("x" * 300, "a\0b", "~nobody_of_that_name/x"):
        with pytest.raises(ConfigurationError, match=r"expected a file's name; ~ is the home"):
            parse_path(text)
    try:
        assert not parse_path(str(loop)).exists()  # Python from 3.13 on
    except ConfigurationError as error:
        assert "loop" in str(error)
    assert parse_path(str(tmp_path / "new")) == tmp_path / "new"
