# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Entries of /diagnostics as multi_camera publishes them."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue


def entry(name: str, level: bytes, message: str, topic: str = "", **values: object) -> Any:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(
        name=name, level=level, message=message, hardware_id=topic, values=pairs
    )


OK, ERROR = DiagnosticStatus.OK, DiagnosticStatus.ERROR
STATUSES = [
    entry("multi_camera: executor", OK, "running"),
    entry(
        "multi_camera: stream front",
        OK,
        "running",
        "/front/image_raw",
        processed_rate_hz="9.5",
        latency_p99_ms="nan",
        dropped="3",
        dropped_stale="3",
        dropped_rate="0",
        device="gpu",
    ),
    entry("multi_camera: device gpu", OK, "in service", load="0.25", status="in_service"),
]
