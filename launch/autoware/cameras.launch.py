# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`image_number` cameras, for camera_2d_detector.launch.xml and multiple_yolox.launch.xml."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import AnyLaunchDescriptionSource

from launch import LaunchDescription
from yolox_trt.ros.tools.launch_actions import text_values


def generate_launch_description():
    return LaunchDescription([OpaqueFunction(function=cameras)])


def cameras(context):
    values = text_values(context)
    prefix = values["tensorrt_yolox_ns"]
    included = []
    for number in range(int(values["image_number"])):
        image, rois = values[f"image_raw{number}"], f"{prefix}rois{number}"
        given = {
            "yolox_node_name": f"tensorrt_yolox{number}",
            "input/image": image,
            "output/objects": rois,
            "output/mask": f"mask{number}",
        }
        included.append(include(Path(__file__).with_name("yolox.launch.xml"), given))
        if values["use_bytetrack"] == "true":
            bytetrack = Path(get_package_share_directory("autoware_bytetrack"))
            given = {
                "in_image": image,
                "detection_rect": rois,
                "tracked_rect": f"rois{number}",
                "enable_visualizer": values["enable_visualizer"],
                "camera_index": str(number),
            }
            included.append(include(bytetrack / "launch" / "bytetrack.launch.xml", given))
    return [GroupAction(included)]


def include(file, arguments):
    source = AnyLaunchDescriptionSource(str(file))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())
