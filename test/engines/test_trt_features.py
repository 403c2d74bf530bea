# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The table of features against the names that each version's own API has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.fake_tensorrt import VERSIONS, FakeTensorRT, load_table

from yolox_trt.core.errors import EngineError
from yolox_trt.engines.trt_api import TensorRTApi
from yolox_trt.engines.trt_features import FEATURES, TENSORRT, TENSORRT_RTX, Version

#: Versions shown in docs/tensorrt.md: (column title, version, flavour).
DOCUMENTED_VERSIONS: tuple[tuple[str, Version, str], ...] = (
    ("8.5", (8, 5, 3), TENSORRT),
    ("8.6", (8, 6, 1), TENSORRT),
    ("10.3", (10, 3, 0), TENSORRT),
    ("10.13", (10, 13, 0), TENSORRT),
    ("11.4.0", (11, 4, 0), TENSORRT),
    ("11.4.1", (11, 4, 1), TENSORRT),
    ("RTX 1.7", (1, 7, 1), TENSORRT_RTX),
)

#: Features whose names are there although the version cannot do it: DLA enumerations are in every
#: header, and TensorRT-RTX keeps names that do nothing.
NAMES_WITHOUT_THE_FEATURE = {
    "10.13": {"dla", "gpu_fallback", "dla_standalone", "dla_pools", "dla_int8_qdq"},
    "11.4": {"dla", "gpu_fallback", "dla_standalone", "dla_pools", "dla_int8_qdq"},
    "rtx-1.7": {
        "dla",
        "gpu_fallback",
        "dla_standalone",
        "dla_pools",
        "dla_int8_qdq",
        "timing_cache",
        "hardware_compatible",
        "version_compatible",  # builds end with: cannot load libnvinfer_lean.so.1
        "io_types",  # the names are there, but types of a typed network are the graph's
    },
    # What a layer takes is not in its name.
    # Nor is how many contexts a profile serves.
    "8.5": {"dla_int8_qdq", "qdq_int8_weights", "profile_sharing"},
    "8.6": {"dla_int8_qdq", "qdq_int8_weights"},
    "10.3": {"dla_int8_qdq"},
}
# ITensor.dtype and allowed_formats stay in 11.x too.
NAMES_WITHOUT_THE_FEATURE["11.4"].add("io_types")


def has_names(table: str, names: list[str]) -> bool:
    classes = load_table(table)["classes"]
    return all(
        attribute in classes.get(owner, ())
        for owner, _, attribute in (name.partition(".") for name in names)
    )


@pytest.mark.parametrize("table", VERSIONS)
@pytest.mark.parametrize("feature", FEATURES)
def test_table_agrees_with_each_versions_names(table: str, feature: str) -> None:
    entry = FEATURES[feature]
    version = tuple(int(n) for n in VERSIONS[table].split("."))
    covered = entry.covers(version, TENSORRT_RTX if table.startswith("rtx") else "tensorrt")
    exception = feature in NAMES_WITHOUT_THE_FEATURE.get(table, ())
    assert has_names(table, entry.names.split()) == (covered or exception)
    assert not (covered and exception)


@pytest.mark.parametrize("table", VERSIONS)
def test_api_tells_what_a_version_has(table: str) -> None:
    api = TensorRTApi(FakeTensorRT(table).module)
    for name, entry in FEATURES.items():
        assert api.has(name) == entry.covers(api.version, api.flavour)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_that_is_not_everywhere_says_why_and_what_instead(feature: str) -> None:
    entry = FEATURES[feature]
    if not all(entry.covers(version, flavour) for _, version, flavour in DOCUMENTED_VERSIONS):
        assert entry.reason
        assert entry.instead


def test_require_names_reason_and_way_round() -> None:
    api = TensorRTApi(FakeTensorRT("11.4").module)
    with pytest.raises(EngineError, match=r"calibration_cache: TensorRT 11\.4.*removed in 11\.0"):
        api.require("int8_calibration", option="calibration_cache")
    try:
        api.require("int8_calibration", option="calibration_cache")
    except EngineError as error:
        assert "yolox_trt quantize" in error.fix


def test_dla_comes_back_with_11_4_1() -> None:
    assert not TensorRTApi(FakeTensorRT("11.4").module).has("dla")
    assert TensorRTApi(FakeTensorRT("11.4", version="11.4.1.2").module).has("dla")
    assert TensorRTApi(FakeTensorRT("10.3").module).has("dla")
    assert not TensorRTApi(FakeTensorRT("10.13").module).has("dla")


def test_tables_agree_with_installed_descriptions(tmp_path: Path) -> None:
    """The wheels that describe other versions, where they are installed for the tests."""
    from support.trt_api import extract

    found = 0
    site = [Path(folder) for folder in sys.path if (Path(folder) / "tensorrt_bindings").is_dir()]
    for folder in site:
        stubs = folder / "tensorrt_bindings" / "tensorrt.pyi"
        if stubs.is_file() and list(folder.glob("tensorrt_stubs-10.13*")):
            found += 1
            classes = extract.from_stubs(stubs)
            for name, members in load_table("10.13")["classes"].items():
                assert set(members) == {m for m in classes[name] if not m.startswith("_")}
        for library in (folder / "tensorrt_bindings").glob("tensorrt*.so"):
            if not list(folder.glob("tensorrt_cu*_bindings-11.4*")):
                continue
            found += 1
            strings = library.read_bytes()
            for feature in ("IBuilderConfig", "IExecutionContext", "ICudaEngine", "BuilderFlag"):
                for member in load_table("11.4")["classes"][feature]:
                    if member not in ("name", "value"):  # pybind11's own
                        assert member.encode() + b"\0" in strings, f"{feature}.{member}"
            assert b"set_dynamic_range" not in strings
            assert b"IInt8EntropyCalibrator2" not in strings
    if not found:
        pytest.skip("neither tensorrt-stubs 10.13 nor tensorrt-cu13-bindings 11.4 is installed")


def test_rtx_table_agrees_with_the_installed_module() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    if not module.__version__.startswith("1.7."):
        pytest.skip(f"the table is of 1.7, installed is {module.__version__}")
    for name, members in load_table("rtx-1.7")["classes"].items():
        assert set(members) == {m for m in dir(getattr(module, name)) if not m.startswith("_")}


def markdown_table() -> str:
    """Return the table of docs/tensorrt.md."""
    titles = [title for title, _, _ in DOCUMENTED_VERSIONS]
    lines = [
        "| feature | " + " | ".join(titles) + " | where it is missing |",
        "|---|" + "---|" * (len(titles) + 1),
    ]
    for feature in FEATURES.values():
        cells = [
            "yes" if feature.covers(version, flavour) else "no"
            for _, version, flavour in DOCUMENTED_VERSIONS
        ]
        missing = f"{feature.reason}; {feature.instead}" if "no" in cells else ""
        lines.append(f"| {feature.title} | " + " | ".join(cells) + f" | {missing} |")
    return "\n".join(lines) + "\n"


def test_docs_have_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "tensorrt.md"
    assert markdown_table().strip() in page.read_text()
