# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The bridge to the ROS log; without ROS."""

from __future__ import annotations

import logging

import pytest

from yolox_trt.ros.nodes.log_bridge import LogBridge


class RosLogger:
    """Keeps what it is given; `gone` when the context of ROS is shut down."""

    def __init__(self) -> None:
        self.gone = False
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, severity: str):  # type: ignore[no-untyped-def]
        def log(text: str) -> None:
            if self.gone:
                raise RuntimeError("the context is not valid")
            self.lines.append((severity, text))

        return log


def test_a_ros_log_that_is_gone_costs_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Who logs may be the thread of a device."""
    ros = RosLogger()
    bridge, log = LogBridge(ros), logging.getLogger("yolox_trt.executor")
    try:
        log.warning("a line")
        ros.gone = True
        log.error("nobody reads it")
        ros.gone = False
        log.info("another")
    finally:
        bridge.close()
    assert ros.lines == [("warning", "a line"), ("info", "another")]
    assert "the context is not valid" in capsys.readouterr().err
