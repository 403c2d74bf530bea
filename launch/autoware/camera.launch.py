# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""One camera of Autoware's; yolox.launch.xml and the others include this file."""

from launch.actions import OpaqueFunction

from launch import LaunchDescription
from yolox_trt.ros.tools.autoware_launch import add_camera


def generate_launch_description():
    return LaunchDescription([OpaqueFunction(function=add_camera)])
