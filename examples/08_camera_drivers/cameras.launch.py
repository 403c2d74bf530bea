# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Two USB cameras and multi_camera, all with the Fast DDS profile for large images.

ros2 launch ./cameras.launch.py driver:=usb_cam front:=/dev/video0 rear:=/dev/video2
"""

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchDescription
from yolox_trt.core.shipped_files import shared_folder
from yolox_trt.ros.middleware import transport_settings

CAMERAS = ("front", "rear")
#: Package -> its program, and its parameters for a device of 1280x720.
DRIVERS = {
    "usb_cam": (
        "usb_cam_node_exe",
        lambda device: {"video_device": device, "image_width": 1280, "image_height": 720},
    ),
    "v4l2_camera": (
        "v4l2_camera_node",
        lambda device: {"video_device": device, "image_size": [1280, 720]},
    ),
}


def generate_launch_description():
    detector = shared_folder("launch") / "multi_camera.launch.py"
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "driver",
                default_value="v4l2_camera",
                choices=list(DRIVERS),
                description="package of the camera driver",
            ),
            *(
                DeclareLaunchArgument(
                    name, default_value=f"/dev/video{2 * index}", description=f"{name} camera"
                )
                for index, name in enumerate(CAMERAS)
            ),
            # A publisher writes into its own shared-memory segment: the drivers need the profile.
            *(SetEnvironmentVariable(*setting) for setting in transport_settings().items()),
            OpaqueFunction(function=drivers),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(detector)),
                launch_arguments={"config": "", "cameras": ",".join(CAMERAS)}.items(),
            ),
        ]
    )


def drivers(context):
    package = context.launch_configurations["driver"]
    program, parameters = DRIVERS[package]
    return [
        Node(
            package=package,
            executable=program,
            name=f"{name}_driver",
            parameters=[
                parameters(context.launch_configurations[name]) | {"frame_id": f"{name}_optical"}
            ],
            # Where the camera node of this name expects its images.
            remappings=[("image_raw", f"/{name}/image_raw")],
            output="screen",
        )
        for name in CAMERAS
    ]
