# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Start multi_camera with the settings for large images.

    ros2 launch yolox_trt multi_camera.launch.py config:=cameras.yaml model:=yolox_s.onnx
    ros2 launch yolox_trt multi_camera.launch.py cameras:=front,rear front.score_threshold:=0.5

An argument <camera>.<parameter>:=<value> goes before the YAML file for this one camera, and
multi_camera.<parameter>:=<value> for the node that owns the devices.
"""

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from yolox_trt.core.shipped_files import shared_folder
from yolox_trt.ros.middleware import transport_settings
from yolox_trt.ros.tools.launch_arguments import parameter_files


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "config",
                default_value=str(shared_folder("config") / "multi_camera.yaml"),
                description="YAML file with the parameters of all nodes",
            ),
            DeclareLaunchArgument(
                "model", default_value="", description="ONNX or engine file; empty: as in the file"
            ),
            DeclareLaunchArgument(
                "cameras",
                default_value="",
                description="names of the cameras, front,rear,...; empty: as in the file",
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="namespace of all nodes"
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="debug, info, warn or error"
            ),
            DeclareLaunchArgument(
                "large_images",
                default_value="true",
                choices=["true", "false"],
                description="whether Fast DDS and malloc are set up for large images",
            ),
            OpaqueFunction(function=start_process),
        ]
    )


def start_process(context):
    given = dict(context.launch_configurations)
    files, reports = parameter_files(given)
    environment = {}
    if LaunchConfiguration("large_images").perform(context) == "true":
        environment = transport_settings()
    return [
        *(LogInfo(msg=line) for line in reports),
        # No name: it would rename every node of the process.
        Node(
            package="yolox_trt",
            executable="multi_camera",
            namespace=given["namespace"],
            parameters=files,
            arguments=["--ros-args", "--log-level", given["log_level"]],
            additional_env=environment,
            output="screen",
            emulate_tty=True,
        ),
    ]
