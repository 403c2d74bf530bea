# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Start multi_camera for one camera, without a parameter file.

ros2 launch yolox_trt single_camera.launch.py image_topic:=/camera/image_raw model:=yolox_s.onnx
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction

from launch import LaunchDescription
from yolox_trt.ros.nodes.parameters import CAMERA_OPTIONS
from yolox_trt.ros.tools.launch_actions import declared, multi_camera, text_values

#: Parameters of the camera that are arguments.
PARAMETERS = ("image_topic", "transport", "score_threshold", "nms_threshold")


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "camera", default_value="camera", description="Name of the camera node."
            ),
            *(
                DeclareLaunchArgument(
                    name,
                    default_value="",
                    description=f"{CAMERA_OPTIONS[name].help} Empty: as in the parameter file, or "
                    f"{CAMERA_OPTIONS[name].default}.",
                )
                for name in PARAMETERS
            ),
            *declared("cameras", "devices_of", config=""),
            OpaqueFunction(function=start),
        ]
    )


def start(context):
    values = text_values(context)
    camera = values["camera"]
    of_camera = {f"{camera}.{name}": values[name] for name in PARAMETERS if values[name]}
    return multi_camera(context, {**of_camera, **values, "cameras": camera})
