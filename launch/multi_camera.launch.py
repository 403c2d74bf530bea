# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Start multi_camera with the settings for large images.

    ros2 launch yolox_trt multi_camera.launch.py config:=cameras.yaml model:=yolox_s.onnx
    ros2 launch yolox_trt multi_camera.launch.py cameras:=front,rear front.score_threshold:=0.5

An argument <camera>.<parameter>:=<value> goes before the YAML file for this one camera, and
multi_camera.<parameter>:=<value> for the node that owns the devices.
"""

from launch.actions import OpaqueFunction

from launch import LaunchDescription
from yolox_trt.ros.tools.launch_actions import declared, multi_camera


def generate_launch_description():
    return LaunchDescription([*declared(), OpaqueFunction(function=multi_camera)])
