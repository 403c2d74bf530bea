# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detect in a bag as if it were driven now: bag, multi_camera, and a recorder if asked for.

    ros2 launch yolox_trt replay.launch.py bag:=drive/ config:=cameras.yaml record:=drive_detections

The nodes take their time from the bag. When it is over everything ends.
"""

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch_ros.actions import Node

from launch import LaunchDescription
from yolox_trt.ros.middleware import transport_settings
from yolox_trt.ros.tools.launch_actions import declared, multi_camera, text_values

ARGUMENTS = {
    "bag": (None, "Folder, .mcap or .db3 file."),
    "speed": ("1.0", "Times the recorded speed."),
    "loop": ("1", "Rounds; 0 for as many as there are until Ctrl-C."),
    "wait": ("120", "Seconds that the cameras get to subscribe; engines may have to be built."),
    "record": ("", "Folder of a new bag with the topics of record_topics; empty for none."),
    "record_topics": ("(.*/detections|.*/objects|/clock)", "Regular expression of topics."),
}
#: Seconds between the last image and the end, for its result.
LINGER = 2.0


def generate_launch_description():
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            *declared("container", "respawn", use_sim_time="true"),
            OpaqueFunction(function=start),
        ]
    )


def start(context):
    values = text_values(context)
    player = Node(
        package="yolox_trt",
        executable="yolox_trt",
        arguments=[
            *("replay", values["bag"], "--clock", "--speed", values["speed"]),
            *("--loop", values["loop"], "--wait", values["wait"]),
        ],
        additional_env=transport_settings(),
        output="screen",
    )
    end = TimerAction(period=LINGER, actions=[Shutdown(reason="the bag is over")])
    # The player waits for the cameras. A camera on demand waits for the recorder, so that it misses
    # nothing; without one it waits for nobody.
    on_demand = {"on_demand": bool(values["record"])}
    actions = [*multi_camera(context, sections={"/**": on_demand}), player]
    if values["record"]:
        topics = ["-e", values["record_topics"]]
        command = ["ros2", "bag", "record", "-o", values["record"], *topics]
        actions.insert(0, ExecuteProcess(cmd=command, output="screen"))
    return [*actions, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end]))]
