# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""~/timeline (std_srvs/Trigger) writes what the executor has done in the last seconds."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.node import Node
from std_srvs.srv import Trigger

from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.option import parse_path
from yolox_trt.executor.inference_executor import InferenceExecutor
from yolox_trt.planning.gantt import dump_timeline
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.latest_worker import LatestWorker
from yolox_trt.ros.nodes.parameters import EXECUTOR_OPTIONS, ExecutorParameters

#: Free bytes that a trace and a picture of a full record may take.
ROOM = 64 << 20


def create_timeline_service(
    node: Node, state: Callable[[], tuple[ExecutorParameters, InferenceExecutor | None]]
) -> None:
    """Create the service: a trace and a picture are written in the background, one pair at a time.

    A full record takes seconds to write: long enough to lose images in rclpy's thread.

    Args:
        node: the executor's node.
        state: gives its parameters and its executor; None before it is configured.
    """
    busy = threading.Lock()
    # One thread for all of them: matplotlib opens its fonts anew in each, and keeps them open.
    writer = LatestWorker("timeline")

    def write(executor: InferenceExecutor, base: Path, seconds: float) -> None:
        try:
            for suffix in (".json", ".png"):
                path = base.with_suffix(suffix)
                dump_timeline(executor.timeline, path, seconds, devices=executor.devices)
                node.get_logger().info(f"{path} written")
        except Exception as error:  # the thread goes on
            node.get_logger().error(f"{path} could not be written: {error_text(error)}")
        finally:
            busy.release()

    def answer(request: Any, response: Any) -> Any:
        parameters, executor = state()
        if executor is None:
            response.message = "not configured; fix: ros2 lifecycle set the node to configure"
        elif not busy.acquire(blocking=False):
            response.message = "a timeline is being written; fix: call again when the log tells"
        else:
            try:
                folder = _folder(parameters.timeline_folder)
                base = folder / f"timeline_{time.strftime('%Y%m%d_%H%M%S')}"
                work = (executor, base, parameters.timeline_seconds)
                writer.offer("", write, *work)
            except Exception as error:
                busy.release()
                response.message = error_text(error)
            else:
                response.success = True
                response.message = f"{base}.json and {base.name}.png are being written"
        return response

    node.create_service(Trigger, "~/timeline", answer)


def _folder(name: str) -> Path:
    """Return the folder, made and with room; raises ConfigurationError if it cannot be written."""
    folder = parse_path(name or ".").resolve()
    fix = ("set ", EXECUTOR_OPTIONS["timeline_folder"], " to another folder, or make room")
    with ConfigurationError.instead_of(
        FILE_ERRORS, f"'{folder}' cannot be written", expected="a folder", fix=fix
    ):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission")
        free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise ConfigurationError(
            f"'{folder}' with {free >> 20} MB free", expected=f"{ROOM >> 20} MB at least", fix=fix
        )
    return folder
