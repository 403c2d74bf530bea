# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""All checks, by area."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from yolox_trt.core.check import Check, Status, run
from yolox_trt.core.device import Device
from yolox_trt.core.optional import INSTALL_COMMANDS, is_installed
from yolox_trt.doctor import devices, dla, machine

#: Name, function that looks, and what it must find, where the status alone says too little.
Look = tuple[str, Callable[[], Iterable[Check]]] | tuple[str, Callable[[], Iterable[Check]], str]


def examine(wanted: Sequence[Device] = (), seconds: float = 2.0) -> Iterator[tuple[str, Check]]:
    """Look at everything; what fails is a finding, and the rest goes on.

    Args:
        wanted: devices on which the default model is run.
        seconds: how long cameras are listened to.

    Yields:
        An area, and a check that belongs to it; areas come one after the other.
    """
    areas: dict[str, Sequence[Look]] = {
        "machine": [
            ("software", machine.python),
            ("model", machine.model),
            ("cache", machine.caches),
            ("limits", machine.limits),
            ("clock", machine.clock),
        ],
        "devices": [
            ("GPU", devices.driver),
            ("CUDA", partial(_optional, "CUDA", ("cupy",), devices.cuda)),
            (
                "TensorRT",
                partial(_optional, "TensorRT", ("tensorrt", "tensorrt_rtx"), devices.tensorrt),
            ),
            ("cuDLA", devices.cudla),
            (
                "ONNX Runtime",
                partial(_optional, "ONNX Runtime", ("onnxruntime",), devices.onnxruntime),
            ),
            *(
                (f"model on {device}", partial(devices.trial, device))
                for device in wanted
                if device.kind != "dla"
            ),
        ],
        **{str(device): dla.looks(device) for device in wanted if device.kind == "dla"},
        "ROS": [("ROS", partial(_optional, "ROS", ("rclpy",), partial(_ros, seconds)))],
    }
    for area, looks in areas.items():
        for name, look, *must in looks:
            for check in run(name, look):
                yield area, replace(check, must=must[0]) if must else check


def _optional(
    name: str, modules: Sequence[str], look: Callable[[], Iterable[Check]]
) -> Iterator[Check]:
    """Look, or note that none of the packages is installed."""
    if any(map(is_installed, modules)):
        yield from look()
    else:
        yield Check(name, Status.NOTE, "not installed", INSTALL_COMMANDS[modules[0]])


def _ros(seconds: float) -> Iterator[Check]:
    from yolox_trt.ros.tools.doctor import middleware, topics

    yield from middleware()
    yield from topics(seconds)
