# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics are those of the tensors."""

import numpy as np
import pytest
from support.int8_graphs import SILU, images, run

from yolox_trt.compiler.int8.collect import collect_statistics
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
