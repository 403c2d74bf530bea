# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A progress bar with the time left, on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from yolox_trt.cli.output import Output
from yolox_trt.core.progress import Progress, no_progress


@contextlib.contextmanager
def shown(show: bool) -> Iterator[Progress]:
    """Give what shows a progress bar for each phase, on stderr; nothing if not `show`."""
    if not show:
        yield no_progress
        return
    with Output().progress() as update:
        yield update
