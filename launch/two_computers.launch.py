# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Start multi_camera on one of two computers that stand in for one another.

    ros2 launch yolox_trt two_computers.launch.py computer:=orin_a config:=vehicle.yaml
    ros2 launch yolox_trt two_computers.launch.py computer:=orin_b config:=vehicle.yaml

Both have the same parameter file, in which each camera has a `primary` and a `standby`. The nodes
are in the namespace of their computer; the outputs are /<camera>/detections and so on, whichever
computer serves the camera.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction

from launch import LaunchDescription
from yolox_trt.ros.tools.launch_actions import declared, one_of_two_computers


def generate_launch_description():
    name = DeclareLaunchArgument("computer", description="Name of this computer.")
    return LaunchDescription(
        [name, *declared("namespace"), OpaqueFunction(function=one_of_two_computers)]
    )
