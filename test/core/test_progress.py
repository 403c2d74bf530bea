# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Progress is told once an item is done, with the number of items where it is known."""

from __future__ import annotations

from yolox_trt.core.progress import track


def test_each_item_is_told_of_when_it_is_done() -> None:
    told: list[tuple[str, float, float | None]] = []

    def tell(what: str, done: float, total: float | None = None, note: str = "") -> None:
        told.append((what, done, total))

    items = track("count", ["a", "b"], tell)
    assert next(items) == "a" and told == []
    assert list(items) == ["b"]
    assert told == [("count", 1, 2), ("count", 2, 2)]
    assert list(track("stream", (n for n in range(1)), tell)) == [0]
    assert told[-1] == ("stream", 1, None)
