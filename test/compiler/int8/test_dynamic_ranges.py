# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Scales survive every file form to the bit; broken files are refused with a reason."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolox_trt.compiler.int8.calibration_cache import (
    CacheOptions,
    read_cache,
    version_number,
    write_cache,
)
from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.core.errors import ConfigurationError

names = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1
).filter(lambda text: text.splitlines() == [text])
scales = st.floats(2.0**-120, 2.0**100, width=32, exclude_min=True)


@given(st.dictionaries(names, scales))
def test_cache_and_json_give_back_the_same_bits(tmp_path_factory: pytest.TempPathFactory, values):
    folder = tmp_path_factory.mktemp("ranges")
    ranges = DynamicRanges({name: np.float32(v) for name, v in values.items()}, "max")
    write_cache(folder / "cache", ranges)
    assert read_cache(folder / "cache") == ranges
    ranges.save_json(folder / "ranges.json")
    assert DynamicRanges.load_json(folder / "ranges.json") == ranges


def test_cache_is_the_text_that_tensorrt_writes(tmp_path: Path):
    scale = struct.unpack(">f", bytes.fromhex("3c00f9f4"))[0]
    ranges = DynamicRanges({"images": np.float32(scale)})
    write_cache(tmp_path / "c", ranges, CacheOptions(tensorrt="8.6.0"))
    assert (tmp_path / "c").read_text() == "TRT-8600-EntropyCalibration2\nimages: 3c00f9f4\n"


@pytest.mark.parametrize(
    ("version", "number"),
    [("8.5.2", 8502), ("8.6.1.6", 8601), ("10.3", 100300), ("10.13.2", 101302)],
)
def test_header_number_is_nv_tensorrt_version(version: str, number: int):
    assert version_number(version) == number


def test_a_version_without_calibration_is_refused_with_the_way_round():
    with pytest.raises(ConfigurationError, match="quantize MODEL -o FILE"):
        version_number("11.0.0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "images: 3c00f9f4\n",
        "TRT-8601-EntropyCalibration2\nimages 3c00f9f4\n",
        "TRT-8601-EntropyCalibration2\nimages: 3c00f9\n",
        "TRT-8601-EntropyCalibration2\nimages: bc00f9f4\n",
        "TRT-8601-EntropyCalibration2\nimages: 7fc00000\n",
    ],
)
def test_a_broken_cache_is_refused(tmp_path: Path, text: str):
    (tmp_path / "c").write_text(text)
    with pytest.raises(ConfigurationError):
        read_cache(tmp_path / "c")


@pytest.mark.parametrize("zero", ["0", "00000000"])
def test_a_tensor_that_was_always_zero_keeps_the_others(tmp_path: Path, zero: str):
    (tmp_path / "c").write_text(f"TRT-8601-EntropyCalibration2\ndead: {zero}\nimages: 3c00f9f4\n")
    ranges = read_cache(tmp_path / "c")
    assert ranges.amax("images") == pytest.approx(1.0, rel=0.01)
    assert 0 < ranges.amax("dead") < 1e-5


def test_a_cache_may_be_read_by_others(tmp_path: Path):
    """Builds often run as another user, in a container."""
    write_cache(tmp_path / "c", DynamicRanges.from_amax({"images": 255.0}))
    assert (tmp_path / "c").stat().st_mode & 0o044 == 0o044


def test_a_hand_written_range_file_is_enough(tmp_path: Path):
    (tmp_path / "r.json").write_text('{"ranges": {"images": 255}}')
    assert DynamicRanges.load_json(tmp_path / "r.json").amax("images") == pytest.approx(255)


@pytest.mark.parametrize(
    "text",
    [
        '{"ranges": {"images": NaN}}',
        '{"ranges": {"images": 1e999}}',
        '{"ranges": {"images": -1.0}}',
        '{"ranges": {}, "scales": {"images": "nan"}}',
        '{"ranges": {}, "scales": {"images": "0x0p0"}}',
        '{"ranges": {}, "scales": {"images": "0x1p-1074"}}',
        '{"ranges": ' + "[" * 100_000,
    ],
)
def test_ranges_that_are_no_ranges_are_refused(tmp_path: Path, text: str):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"cannot be read .*largest magnitude"):
        DynamicRanges.load_json(tmp_path / "r.json")
