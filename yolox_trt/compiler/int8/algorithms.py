# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration algorithms: from a histogram of magnitudes to the range that INT8 covers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.compiler.int8.dynamic_ranges import INT8_MAX
from yolox_trt.compiler.int8.histogram import NUM_BINS, Histogram
from yolox_trt.core.errors import ConfigurationError

#: Codes of one sign, as TensorRT's published algorithm counts them.
_LEVELS = 128
_EPSILON = 1e-12


def max_range(histogram: Histogram) -> float:
    """Cover everything (TensorRT: IInt8MinMaxCalibrator)."""
    return histogram.amax


def percentile_range(histogram: Histogram, percentile: float = 99.9999) -> float:
    """Cover that share of the values, in percent, zeros counted in (as TensorRT's legacy quantile).

    Raises:
        ConfigurationError: percentile is not in (0, 100].
    """
    if not 0.0 < percentile <= 100.0:
        raise ConfigurationError(f"percentile {percentile}", expected="a number above 0, up to 100")
    total = histogram.zeros + int(histogram.counts.sum())
    if total == 0 or percentile == 100.0:
        return histogram.amax
    covered = histogram.zeros + np.cumsum(histogram.counts)
    index = int(np.searchsorted(covered, total * (percentile / 100.0)))
    return min(histogram.amax, (index + 1) * histogram.width)


def _resampled(histogram: Histogram) -> tuple[npt.NDArray[np.float64], float]:
    """Return NUM_BINS counts over 0..amax and their width, whatever the histogram has grown to.

    A bin that straddles a new edge is shared out in proportion.
    """
    edges = np.linspace(0.0, histogram.amax, NUM_BINS + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(histogram.counts, dtype=np.float64)])
    old_edges = np.arange(len(cumulative)) * histogram.width
    # The last bin reaches over amax: end it there, or its share would be lost.
    old_edges[old_edges > histogram.amax] = histogram.amax
    counts = np.diff(np.interp(edges, old_edges, cumulative))
    return counts, histogram.amax / NUM_BINS


def entropy_range(histogram: Histogram) -> float:
    """Least KL divergence between the values and their quantised form.

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), slides 30 and 36 to 38: 2048
    bins; for each i from 128 to 2048, the reference P is bins[:i] with all outliers added to its
    last bin; the candidate Q is bins[:i] (without the outliers) merged into 128 levels, each
    spread evenly over its non-empty bins; take the i with the least KL(P || Q). The range is
    (i + 0.5) bin widths. Zeros are left out, as TensorRT's implementation does with bin 0.
    EntropyCalibration2's differences are not published.
    """
    if histogram.width == 0.0:
        return histogram.amax
    counts, width = _resampled(histogram)
    ends = np.arange(_LEVELS, NUM_BINS + 1)  # every i at once, one a column
    # Bin j is in level j * 128 // i, so that level l begins with bin ceil(l * i / 128).
    edges = -(-np.arange(_LEVELS + 1)[:, None] * ends // _LEVELS)
    mass = np.diff(_sums(counts)[edges], axis=0)
    spread = mass / np.maximum(np.diff(_sums(counts > 0)[edges], axis=0), 1)
    inside = _sums(counts)[ends]
    outliers = np.maximum(counts.sum() - inside, 0.0)
    # Q's empty bins under P's mass count with a small epsilon.
    logs = np.log(np.maximum(spread / np.maximum(inside, 1e-300), _EPSILON))
    last = counts[ends - 1]
    last_log = np.where(last > 0, logs[-1], np.log(_EPSILON))
    # KL(P || Q) = sum(p log p) - sum(p log q), times the sum of P, but for what no i changes.
    divergences = _sums(_x_log_x(counts))[ends - 1] + _x_log_x(last + outliers)
    divergences -= (mass * logs).sum(0) + outliers * last_log
    best = ends[np.argmin(np.where(inside > 0, divergences, np.inf))]
    return min(histogram.amax, float(best + 0.5) * width)


def _sums(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values * np.log(np.where(values > 0, values, 1.0))


def mse_range(histogram: Histogram, candidates: int = 200) -> float:
    """Least mean squared error of quantise-dequantise, over `candidates` ranges up to amax."""
    if histogram.width == 0.0:
        return histogram.amax
    values, weights = histogram.centres, histogram.counts.astype(np.float64)
    used = weights > 0
    values, weights = values[used], weights[used]
    best_range, best_error = histogram.amax, np.inf
    for fraction in np.linspace(1.0, 1.0 / candidates, candidates):
        amax = histogram.amax * fraction
        scale = amax / INT8_MAX
        error = np.minimum(np.rint(values / scale), INT8_MAX) * scale - values
        total = float(np.sum(weights * error * error))
        if total < best_error:
            best_range, best_error = amax, total
    return best_range


#: Name -> algorithm with its default settings. "percentile" takes a number after a colon.
ALGORITHMS: dict[str, Callable[[Histogram], float]] = {
    "max": max_range,
    "entropy": entropy_range,
    "percentile": percentile_range,
    "mse": mse_range,
}


def to_number(text: str) -> float:
    """Return the number that a text is, NaN for other texts."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_algorithm(text: str, others: Sequence[str] = ()) -> Callable[[Histogram], float]:
    """Return the algorithm of a name such as max, entropy, mse, percentile, percentile:99.99.

    Args:
        text: the name.
        others: names that the caller takes besides, for the error.

    Raises:
        ConfigurationError: unknown name, or a number where none belongs.
    """
    name, _, argument = text.partition(":")
    if name == "percentile" and argument:
        percentile = to_number(argument)
        percentile_range(Histogram(), percentile)  # refuses a bad number now, not mid-way
        return lambda histogram: percentile_range(histogram, percentile)
    if name not in ALGORITHMS or argument:
        known = (*others, *ALGORITHMS, "percentile:NUMBER")
        raise ConfigurationError.unknown("calibration algorithm", text, known)
    return ALGORITHMS[name]
