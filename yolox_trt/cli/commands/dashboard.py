# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt dashboard`."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.ros.dashboard.options import DashboardOptions


@dataclass(frozen=True, kw_only=True)
class Dashboard(
    DashboardOptions, Command, name="dashboard", needs=("rclpy", "vision_msgs", "aiohttp")
):
    """Show all cameras, devices and faults in the browser, live.

    The page subscribes to images only while somebody looks. It is served to this computer alone,
    unless --host says otherwise: then its address holds a token.

    Examples:
        yolox_trt dashboard
        yolox_trt dashboard --bag drive/
        yolox_trt dashboard --host 0.0.0.0
    """

    def run(self, output: Output) -> int:
        from yolox_trt.ros.dashboard.session import run_dashboard

        return run_dashboard(self, say=output.print)
