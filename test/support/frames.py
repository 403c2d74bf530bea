# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Random frames of every encoding, with row padding and Rois, for tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from yolox_trt.core import Frame, Roi
from yolox_trt.core.encodings import ENCODINGS


def random_frame(
    encoding: str,
    height: int,
    width: int,
    *,
    padding: int = 0,
    roi: Roi | None = None,
    seed: int = 0,
    smooth: bool = False,
) -> Frame:
    """Return a Frame of random bytes (or of a slow gradient with noise) with `padding` a row.

    The bytes behind the last row's pixels are left out, as some drivers do.
    """
    layout = ENCODINGS[encoding]
    rng = np.random.default_rng(seed)
    row_bytes = width * layout.bytes_per_pixel
    step = row_bytes + padding
    rows = int(height * layout.rows_per_height)
    data = rng.integers(0, 256, (rows, step), dtype=np.uint8)
    if smooth:
        ramp = np.add.outer(np.arange(rows) * 0.7, np.arange(step) * 0.3) % 200
        data = np.asarray(ramp + data % 16, np.uint8)
    flat = data.reshape(-1)[: (rows - 1) * step + row_bytes]
    return Frame.view(flat, height=height, width=width, encoding=encoding, step=step, roi=roi)


@st.composite
def frames(draw: st.DrawFn, max_size: int = 80, encodings: tuple[str, ...] = ()) -> Frame:
    """Frames of all encodings, sizes, row paddings and Rois."""
    encoding = draw(st.sampled_from(encodings or tuple(ENCODINGS)))
    layout = ENCODINGS[encoding]
    height = draw(st.integers(1, max_size))
    width = draw(st.integers(1, max_size))
    height += height % 2 if layout.even_height else 0
    width += width % 2 if layout.even_width else 0
    roi = None
    if draw(st.booleans()):
        x = draw(st.integers(0, width - 1))
        y = draw(st.integers(0, height - 1))
        roi = Roi(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    return random_frame(
        encoding,
        height,
        width,
        padding=draw(st.sampled_from([0, 1, 7, 64])),
        roi=roi,
        seed=draw(st.integers(0, 2**16)),
        smooth=draw(st.booleans()),
    )
