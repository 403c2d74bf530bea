# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics are those of the tensors."""

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.int8_graphs import SILU, images, run

from yolox_trt.compiler.int8.collect import Statistics, collect_statistics
from yolox_trt.core.errors import ConfigurationError


def test_statistics_are_those_of_the_tensors_themselves():
    value = SILU.nodes[20].outputs[0]
    tensors = [value.name, "images"]
    statistics = collect_statistics(SILU, images(SILU), tensors=tensors)
    extended = SILU.copy()
    extended.outputs = (*extended.outputs, extended.values()[value.name])
    values = np.concatenate([run(extended, image)[-1] for image in images(SILU)])
    assert statistics.images == 3
    assert statistics.histograms[tensors[0]].amax == pytest.approx(np.abs(values).max())
    np.testing.assert_allclose(
        statistics.channel_amax[tensors[0]], np.abs(values).max(axis=(2, 3)).mean(axis=0), rtol=1e-5
    )


def test_no_image_and_unknown_tensors_are_refused():
    with pytest.raises(ConfigurationError, match="no calibration image"):
        collect_statistics(SILU, [])
    with pytest.raises(ConfigurationError, match="nowhere"):
        collect_statistics(SILU, images(SILU), tensors=["nowhere"])


def test_statistics_of_parts_are_written_read_and_merged_into_those_of_all():
    every = [*images(SILU), *(0.3 * image for image in images(SILU))]
    whole = collect_statistics(SILU, every)
    merged = Statistics.from_bytes(collect_statistics(SILU, every[4:]).to_bytes())
    merged.merge(Statistics.from_bytes(collect_statistics(SILU, every[:4]).to_bytes()))
    assert merged.images == whole.images == 6
    assert merged.ranges("percentile:99.9").amaxes() == whole.ranges("percentile:99.9").amaxes()
    for name, amax in whole.channel_amax.items():
        np.testing.assert_allclose(merged.channel_amax[name], amax, rtol=1e-5)
    with pytest.raises(ConfigurationError, match="no statistics"):
        Statistics.from_bytes(b"PK broken")
    with pytest.raises(ConfigurationError, match="on one side alone"):
        merged.merge(Statistics())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scalars_1", lambda s: s * [np.nan, 1, 1, 1]),
        ("scalars_1", lambda s: s * [-1, 1, 1, 1]),
        ("scalars_1", lambda s: s * [1e-300, 1, 1, 1]),
        ("scalars_1", lambda s: s * [1, np.nan, 1, 1]),
        ("scalars_1", lambda s: s + np.array([0, 0.5, 0, 0])),
        ("scalars_1", lambda s: s + np.array([0, 1e300, 0, 0])),
        ("scalars_1", lambda s: s * [1, 1, 1, np.inf]),
        ("scalars_1", lambda s: s * [1, 1, np.nan, 1]),
        ("scalars_1", lambda s: s[:3]),
        ("counts_1", lambda c: np.ones(1 << 20, np.int64)),
        ("counts_1", lambda c: np.array(["a"])),
        ("counts_1", lambda c: c.reshape(1, -1)),
        ("counts_1", lambda c: c.astype(np.float64)),
        ("counts_1", lambda c: -c),
        ("counts_1", lambda c: c | (1 << 62)),
        ("channels_1", lambda c: c.astype(str)),
        ("channels_1", lambda c: c.reshape(1, -1)),
        ("channels_1", lambda c: c * np.float32(np.nan)),
        ("names", lambda n: np.arange(len(n))),
        ("images", lambda i: np.array(-1)),
        ("images", lambda i: np.array(0.5)),
        ("images", lambda i: np.array([1, 1])),
    ],
)
def test_statistics_that_nobody_has_collected_are_refused(
    name: str, change: Callable[[Any], Any]
) -> None:
    data = collect_statistics(SILU, images(SILU)).to_bytes()
    assert Statistics.from_bytes(data).to_bytes() == data
    arrays = dict(np.load(io.BytesIO(data)))
    file = io.BytesIO()
    np.savez_compressed(file, **{**arrays, name: change(arrays[name])})
    with pytest.raises(ConfigurationError, match="no statistics"):
        Statistics.from_bytes(file.getvalue())


def test_statistics_of_other_sizes_are_not_merged() -> None:
    one, other = (collect_statistics(SILU, images(SILU)) for _ in range(2))
    name = next(iter(other.channel_amax))
    other.channel_amax[name] = np.ones(99, np.float32)
    with pytest.raises(ConfigurationError, match=f"{name} with .* channels, and with 99"):
        one.merge(other)


def test_statistics_that_grow_when_they_are_read_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as entries:
        entries.writestr("names.npy", b"")
    # The number of bytes that the folder at the end of the file states.
    data, size = bytearray(file.getvalue()), struct.pack("<I", 1 << 31)
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = size
    with pytest.raises(ConfigurationError, match="2147483648 bytes, packed"):
        Statistics.from_bytes(bytes(data))
