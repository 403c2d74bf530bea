# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The model of a cluster: each limit by hand, and where it changes."""

from __future__ import annotations

import pytest

from yolox_trt.batch.scale import ScaleOptions, rates

MACHINE = {"cores": 10, "decode_ms": 5.0, "detect_ms": 15.0, "frame_kb": 100.0}


def test_cores_that_do_both_set_the_rate_until_the_storage_does() -> None:
    options = ScaleOptions(
        **MACHINE, machines=[1, 10, 100], storage=8.0, result_kb=0.0, write_us=1.0
    )
    one, ten, hundred = rates(options)
    assert (one.frames, one.limit) == (pytest.approx(500.0), "decode and detect")
    assert (ten.frames, ten.efficiency) == (pytest.approx(5000.0), pytest.approx(1.0))
    # 8 Gbit/s are 1e9 bytes a second, 10,000 frames of 100 kB.
    assert (hundred.frames, hundred.limit) == (pytest.approx(10_000.0), "read")
    assert hundred.efficiency == pytest.approx(0.2)


def test_pixels_that_go_to_another_machine_load_its_network_twice() -> None:
    options = ScaleOptions(
        **MACHINE, machines=[1, 2], gpus=1, store_kb=7400.0, link=1.0, result_kb=0.0
    )
    one, two = rates(options)
    assert (one.frames, one.limit) == (pytest.approx(1 / 0.015), "detect")
    assert (two.frames, two.limit) == (pytest.approx(2 * 1.25e8 / (100e3 + 14_800e3)), "network")


def test_a_writer_that_is_slow_sets_the_rate_of_any_cluster() -> None:
    options = ScaleOptions(**MACHINE, machines=[1000], write_us=100.0, storage=1e6)
    (found,) = rates(options)
    assert (found.frames, found.limit) == (pytest.approx(10_000.0), "write")
