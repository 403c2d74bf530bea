# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed goes back at moments that the program chooses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from yolox_trt.core.memory import keep_for_good, return_freed_memory, trim_heap


class Circle:
    """Refers to itself, as the nodes and values of a model's graph do to one another."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what a test calls collects."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_circles_are_collected() -> None:
    circle = weakref.ref(Circle())
    trim_heap()
    assert circle() is not None
    return_freed_memory()
    assert circle() is None


@pytest.mark.usefixtures("no_collector")
def test_what_is_kept_for_good_is_looked_at_no_more() -> None:
    kept, lost = Circle(), weakref.ref(Circle())
    keep_for_good()
    assert lost() is None, "it is collected first"
    count = gc.get_freeze_count()
    assert count > 10_000
    seen = weakref.ref(kept)
    del kept
    return_freed_memory()
    assert seen() is not None
    assert gc.get_freeze_count() == count


def test_free_pages_go_back() -> None:
    """Pages between blocks that live on are handed back, which free() alone does not do."""
    process = psutil.Process()
    # 64 KiB is below malloc's threshold for mappings of their own, and whole pages.
    blocks = [np.ones(1 << 16, np.uint8) for _ in range(1024)]
    kept = blocks[::16]
    full = process.memory_info().rss
    del blocks
    trim_heap()
    assert full - process.memory_info().rss > 32 << 20
    assert len(kept) == 64
