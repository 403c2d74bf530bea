# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What a subscription's loss events count."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from yolox_trt.ros.subscription_events import lost_images


@pytest.mark.parametrize(("change", "lost"), [(1, 1), (7, 7), (0, 0), (-3, 0), (2**31 - 1, 0)])
def test_counts_that_no_image_belongs_to_are_left_out(change: int, lost: int) -> None:
    assert lost_images(SimpleNamespace(total_count_change=change)) == lost
