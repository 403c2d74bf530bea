# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Run-length encoding of masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from yolox_trt.core.detections import Detections
from yolox_trt.core.mask import Mask


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 21)])
def test_what_is_encoded_is_decoded(size: tuple[int, int]) -> None:
    classes = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    mask = Mask.encode(classes)
    np.testing.assert_array_equal(mask.decode(), classes)
    assert mask.lengths.sum() == classes.size
    assert (mask.values[1:] != mask.values[:-1]).all()


def test_runs_go_on_in_the_next_row() -> None:
    mask = Mask.encode(np.array([[1, 1, 2], [2, 2, 0]], np.uint8))
    assert mask.values.tolist() == [1, 2, 0]
    assert mask.lengths.tolist() == [2, 3, 1]
    assert (mask.values.dtype, mask.lengths.dtype) == (np.uint8, np.int32)


def test_a_selection_of_detections_keeps_the_mask() -> None:
    mask = Mask.encode(np.zeros((2, 2), np.uint8))
    found = Detections(np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, np.int32))
    whole = replace(found, mask=mask)
    assert whole[1:].mask is mask
    assert found[1:].mask is None
