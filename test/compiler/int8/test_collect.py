# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics are those of the tensors."""

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
