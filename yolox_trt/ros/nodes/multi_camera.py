# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The process `multi_camera`: one executor node and a node for each camera."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.memory import apply_malloc_settings, keep_for_good
from yolox_trt.core.optional import missing_requirement, require
from yolox_trt.ros.error_text import error_text
from yolox_trt.ros.middleware import transport_warning

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from yolox_trt.ros.nodes.executor_node import ExecutorNode

#: Longest time until the loop sees a signal, in seconds.
POLL = 0.1

#: Faults in a row by what is gone already, from which on they are told.
GONE_IN_A_ROW = 20

#: Exit status of a start that failed on a parameter, a model or a device.
EXIT_REFUSED = 2


class _StopSignals:
    """Ctrl-C, SIGTERM and a closed terminal end the loop between two callbacks, not within one.

    rclpy's own handlers shut the context down at once, and results that are still on their way
    could not be published. SIGINT is taken even where the process was started with it ignored (a
    job in the background of a script is); SIGHUP is not (`nohup`).
    """

    def __init__(self) -> None:
        self.received = 0
        #: Called in the signal handler: what rclpy's thread is in the middle of may take minutes.
        self.on_signal: Callable[[], object] = lambda: None
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.on_signal()
        # A second signal ends the process at once.
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def main(args: Sequence[str] | None = None) -> int:
    """Run the process until Ctrl-C, SIGTERM or the lifecycle transition `shutdown`.

    Args:
        args: command line without the program's name; sys.argv[1:] by default. ROS arguments
            follow `--ros-args`.

    Returns:
        0 after a clean end, 1 if a thread had to be left behind, 2 if the start was refused.
    """
    malloc_set = apply_malloc_settings()
    try:
        require("rclpy", purpose="the ROS nodes")
        require("vision_msgs", purpose="~/detections")
        return _run(args, malloc_set)
    except YoloxTrtError as error:
        refusal = error
    except ModuleNotFoundError as error:
        missing = missing_requirement(error)
        if missing is None:
            raise
        refusal = missing
    print(f"multi_camera: {error_text(refusal)}", file=sys.stderr)
    return EXIT_REFUSED


def _run(args: Sequence[str] | None, malloc_set: bool) -> int:
    """Run the nodes; raises what the start fails with, or a device, after all has been closed."""
    signals = _StopSignals()
    import rclpy

    from yolox_trt.ros.nodes.executor_node import ExecutorNode
    from yolox_trt.ros.rclpy_versions import create_spinner, init_rclpy

    try:
        no_log = init_rclpy(args)
    except Exception as error:  # RCLError and its kin: which one differs between distributions
        signals.restore()
        fix = "the arguments after --ros-args, or the file that they name"
        raise YoloxTrtError(" ".join(str(error).split()), fix=fix) from error
    spinner = create_spinner()
    # A collection after an engine's restart stops every camera: 20 ms then, 80 without this.
    keep_for_good()
    node: ExecutorNode | None = None
    ended = True
    try:
        node = ExecutorNode(spinner)
        # The transition `configure` waits for engines that are built, and so does a signal's end.
        signals.on_signal = node.cancel_builds
        for warning in filter(None, (no_log, transport_warning())):
            node.get_logger().warning(warning)
        if not malloc_set:
            node.get_logger().warning(
                "this C library has no mallopt: large images cost more to receive"
            )
        _spin(spinner, node, signals)
        # A signal ends a build, which fails with it: that is no failed start.
        if node.failure is not None and not signals.received:
            raise node.failure
    finally:
        if node is not None:
            ended = node.close()
        spinner.shutdown()
        rclpy.try_shutdown()
        signals.restore()
    return 0 if ended else 1


def _spin(spinner: Executor, node: ExecutorNode, signals: _StopSignals) -> None:
    """Call what is due, until a signal, a failure or a shutdown."""
    import rclpy
    from rclpy.exceptions import InvalidHandle

    logger, gone = node.get_logger(), 0
    while rclpy.ok() and not (signals.received or node.failure or node.ended):
        try:
            spinner.spin_once(timeout_sec=POLL)
            node.run_pending()
            gone = 0
        except YoloxTrtError:
            raise
        except Exception as error:
            # A fault in one callback must not take the other cameras along. A request to a
            # camera's parameters that was queued when the camera was removed is none: nobody
            # waits for the response. What does not end is something else.
            is_gone = isinstance(error, InvalidHandle | ReferenceError)
            gone += is_gone
            if is_gone and gone <= GONE_IN_A_ROW:
                logger.debug(traceback.format_exc())
            else:
                logger.error(traceback.format_exc(), throttle_duration_sec=1.0)


if __name__ == "__main__":
    sys.exit(main())
