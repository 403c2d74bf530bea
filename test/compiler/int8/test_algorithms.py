# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration algorithms against plain definitions on the values themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolox_trt.compiler.int8.algorithms import (
    entropy_range,
    max_range,
    mse_range,
    parse_algorithm,
    percentile_range,
)
from yolox_trt.compiler.int8.histogram import MAX_BINS, NUM_BINS, Histogram
from yolox_trt.core.errors import ConfigurationError


def histogram_of(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch.astype(np.float32))
    return histogram


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_growing_histogram_loses_no_value_and_keeps_places(scales: list[float], seed: int):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(size=500).astype(np.float32) * np.float32(s) for s in scales]
    batches[0][:10] = 0.0
    histogram = histogram_of(*batches)
    values = np.concatenate(batches)
    assert histogram.zeros + histogram.counts.sum() == values.size
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert len(histogram.counts) <= MAX_BINS
    assert histogram.amax == np.abs(values).max()
    # Counts up to any edge agree with the values to within one bin on either side.
    magnitudes = np.abs(values[values != 0])
    for edge in (len(histogram.counts) // 3, len(histogram.counts) // 2):
        below = histogram.counts[:edge].sum()
        assert np.count_nonzero(magnitudes < (edge - 1) * histogram.width) <= below
        assert below <= np.count_nonzero(magnitudes <= (edge + 1) * histogram.width)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_histograms_of_parts_merge_into_that_of_the_whole_in_any_order(scales: list[float], random):
    rng = np.random.default_rng(random.getrandbits(32))
    batches = [rng.normal(size=300).astype(np.float32) * np.float32(s) for s in scales]
    batches.append(np.zeros(5, np.float32))
    whole = histogram_of(*batches)
    random.shuffle(batches)
    merged = histogram_of(*batches[:2])
    for cut in range(2, len(batches), 2):
        merged.merge(histogram_of(*batches[cut : cut + 2]))
    assert merged.counts.tolist() == whole.counts.tolist()
    assert (merged.width, merged.zeros) == (whole.width, whole.zeros)
    assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        histogram_of(np.array([1.0, np.nan]))


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 99.99])
def test_percentile_is_numpys_within_a_bin(percentile: float):
    values = np.random.default_rng(0).laplace(size=200_000)
    histogram = histogram_of(*np.split(values, 10))
    expected = np.percentile(np.abs(values), percentile)
    assert percentile_range(histogram, percentile) == pytest.approx(
        expected, abs=2 * histogram.width
    )


def test_mse_is_the_best_of_all_ranges_on_the_values_themselves():
    values = np.random.default_rng(1).standard_t(3, size=100_000).astype(np.float32)
    histogram = histogram_of(values)

    def error(amax: float) -> float:
        scale = amax / 127
        return float(np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2))

    best = min(error(f * histogram.amax) for f in np.linspace(0.005, 1, 200))
    assert error(mse_range(histogram)) <= best * 1.02


def entropy_by_definition(magnitudes: np.ndarray) -> float:
    """The published pseudo-code, loop by loop, on 2048 bins of the values themselves."""
    amax = magnitudes.max()
    bins = np.histogram(magnitudes, NUM_BINS, (0.0, amax))[0].astype(np.float64)
    divergences = {}
    for i in range(128, NUM_BINS + 1):
        reference = bins[:i].copy()
        reference[i - 1] += bins[i:].sum()
        candidate = np.zeros(i)
        levels = np.arange(i) * 128 // i
        for level in range(128):
            members = np.flatnonzero(levels == level)
            filled = members[bins[members] > 0]
            if len(filled):
                candidate[filled] = bins[members].sum() / len(filled)
        p, q = reference / reference.sum(), candidate / candidate.sum()
        used = p > 0
        divergences[i] = np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12)))
    best = min(divergences, key=lambda i: divergences[i])
    return min(amax, (best + 0.5) * amax / NUM_BINS)


def test_entropy_is_the_published_algorithm():
    values = np.random.default_rng(2).laplace(size=20_000)
    values[:3] = 60.0  # outliers that max would cover and entropy gives up
    histogram = histogram_of(values)
    assert entropy_range(histogram) == pytest.approx(
        entropy_by_definition(np.abs(values)), abs=4 * histogram.width
    )
    assert entropy_range(histogram) < 0.5 * max_range(histogram)


def test_all_zero_tensors_have_a_range_of_zero():
    histogram = histogram_of(np.zeros(10))
    assert [parse_algorithm(a)(histogram) for a in ("max", "entropy", "mse", "percentile")] == [
        0
    ] * 4


@pytest.mark.parametrize("text", ["minmax", "percentile:abc", "percentile:0", "max:3"])
def test_unknown_algorithms_are_refused(text: str):
    with pytest.raises(ConfigurationError, match="expected"):
        parse_algorithm(text)
