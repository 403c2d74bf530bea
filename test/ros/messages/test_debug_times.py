# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The times that Autoware's node publishes of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("autoware_internal_debug_msgs.msg", reason="run `make venv AUTOWARE=1`")

from yolox_trt.ros.messages.debug_times import DebugTimes


def test_times_in_milliseconds() -> None:
    sent: list[tuple[str, float]] = []
    stamps: list[Any] = []

    def publisher(kind: Any, topic: str) -> Any:
        assert kind.__name__ == "Float64Stamped"

        def publish(message: Any) -> None:
            sent.append((topic, message.data))
            stamps.append((message.stamp.sec, message.stamp.nanosec))

        return SimpleNamespace(publish=publish)

    times = DebugTimes(publisher, lambda: 5_000_000_007)
    times.publish(stamp_ns=4_990_000_007, received_ns=100_000_000, done_ns=103_500_000)
    times.publish(stamp_ns=4_980_000_007, received_ns=200_000_000, done_ns=204_000_000)
    names = [f"~/debug/{name}_ms" for name in ("cyclic_time", "processing_time")]
    names.append("~/debug/pipeline_latency_ms")
    assert [topic for topic, _ in sent] == names * 2
    assert [value for _, value in sent] == pytest.approx([0.0, 3.5, 10.0, 100.5, 4.0, 20.0])
    assert set(stamps) == {(5, 7)}
