# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt soak --ros`: faults of everything around multi_camera, and of its engines.

Four cameras, two with raw and two with compressed images, publish to the real process with two
ingest processes; its engines are those of `yolox_trt soak`. One fault follows another.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.shipped_files import default_model
from yolox_trt.evaluation.bench.soak import ARENAS, DEVICES, SoakReport, check_lengths
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.ros.rclpy_versions import create_spinner
from yolox_trt.ros.tools.child_process import ChildProcess, ChildProcesses
from yolox_trt.ros.tools.session import ResultListener, private_domain, ros_node

NODE = "multi_camera"
#: Longest times in seconds: of a start, of a service's answer, until all cameras give results again
#: (Fast DDS may send to a process that was killed for the 20 s of its lease), and of the end.
START_TIMEOUT, ANSWER_TIMEOUT, RECOVERY, END = 120.0, 30.0, 30.0, 20.0
#: Seconds between two messages on /clock.
TICK = 0.02
#: Seconds of the clocks' jumps, and of simulated time at the start.
HOUR, START = 3600.0, 100_000.0


class RosSoak(ResultListener):
    """Cameras, faults and measurements; the process that is soaked is started by `run`.

    Args:
        seconds: length of the soak.
        warm_up: seconds at the start that do not count for memory, less than `seconds`.
        fault_period: seconds from one fault to the next.
        rate: frames a second of each camera.
        progress: called about once a second with the seconds that have passed and what was done.
        process: the process.
    """

    def __init__(
        self,
        *,
        seconds: float,
        warm_up: float,
        fault_period: float,
        rate: float,
        progress: Callable[[float, str], None] | None,
        process: ChildProcess,
    ) -> None:
        self.names = camera_names()
        super().__init__(self.names, self._on_result)
        self.report = SoakReport(seconds=seconds)
        self._warm_up = warm_up
        self._fault_period = fault_period
        self._rate = rate
        self._progress = progress
        self._process = process
        self._watched = psutil.Process(process.pid)
        self._spinner: Any = None
        self._sampling = False
        self._samples: list[tuple[float, float, float, float]] = []
        self._results = dict.fromkeys(self.names, 0)
        self._last_result = dict.fromkeys(self.names, 0.0)
        self._diagnosed = 0.0
        self.messages: dict[str, str] = {}
        #: Cameras whose images do not come, or come with one stamp; seconds that a clock is ahead.
        self._silent: set[str] = set()
        self._frozen: dict[str, float] = {}
        self._ahead: dict[str, float] = dict.fromkeys([*self.names, "/clock"], 0.0)
        quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._outputs = {
            name: self.create_publisher(CompressedImage, f"/{name}/image_raw/compressed", quality)
            if is_compressed(name)
            else self.create_publisher(Image, f"/{name}/image_raw", quality)
            for name in self.names
        }
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10)
        noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        self._picture = cv2.resize(noise, (640, 480))
        self._pixels = self._picture.tobytes()
        self._jpeg = cv2.imencode(".jpg", self._picture)[1].tobytes()

        self._due = self._clock_due = self._sample_due = self._began = time.monotonic()
        self._turns = itertools.cycle(self.names)

    # The load ----------------------------------------------------------------------------------

    def run(self, spinner: Any) -> SoakReport:
        """Let images and faults come until the time is over; return what was found."""
        self._spinner = spinner
        if not self._wait(START_TIMEOUT, lambda: all(self._results.values())):
            raise YoloxTrtError(f"no results of all cameras in {START_TIMEOUT:g} s")
        self._began = time.monotonic()
        self._sampling = True
        last = self._began + self.report.seconds - END
        for fault in itertools.cycle(self._faults()):
            begin = time.monotonic()
            if begin + self._fault_period > last:
                break
            name = fault.__name__.removeprefix("_fault_").replace("_", " ")
            self.report.faults[name] = self.report.faults.get(name, 0) + 1
            fault()
            done = time.monotonic()
            recovered = self._wait(RECOVERY, lambda: min(self._last_result.values()) > done)  # noqa: B023
            if not recovered:
                silent = [each for each in self.names if self._last_result[each] <= done]
                said = "; ".join(f"{each}: {self.messages.get(each)}" for each in silent)
                self._problem(f"no result for {RECOVERY:g} s after: {name} ({said})")
            self._wait(begin + self._fault_period - time.monotonic())
        self._wait(last - time.monotonic())
        self._sampling = False
        return self._end()

    def _wait(self, seconds: float, done: Callable[[], object] = lambda: False) -> bool:
        """Let images come for some time, or until `done()`; return whether it was done."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if done():
                return True
            if now >= self._clock_due:
                self._clock_due = now + TICK
                self._clock_publisher.publish(Clock(clock=self._stamp("/clock")))
            if now >= self._due:
                # After a break the images that were due meanwhile are left out.
                self._due = max(self._due, now - 0.1) + 1.0 / (self._rate * len(self.names))
                self._send(next(self._turns))
            if self._sampling and now >= self._sample_due:
                self._sample_due = now + 1.0
                self._sample(now - self._began)
            self._spinner.spin_once(timeout_sec=max(0.0, min(self._due, self._clock_due) - now))
        return bool(done())

    def _stamp(self, name: str) -> Time:
        """Return the time of a camera's clock, or of /clock."""
        now = self._frozen.get(name) or START + time.monotonic() + self._ahead["/clock"]
        seconds, rest = divmod(now + self._ahead.get(name, 0.0) * (name != "/clock"), 1.0)
        return Time(sec=int(seconds), nanosec=int(rest * 1e9))

    def _message(self, name: str) -> Any:
        if is_compressed(name):
            message: Any = CompressedImage(format="jpeg", data=self._jpeg)
        else:
            height, width = self._picture.shape[:2]
            message = Image(height=height, width=width, encoding="bgr8", step=3 * width)
            message.data = self._pixels
        message.header.stamp, message.header.frame_id = self._stamp(name), name
        return message

    def _send(self, name: str, **changes: Any) -> None:
        """Send an image, or what has become of it by changes of its attributes."""
        if name in self._silent:
            return
        message = self._message(name)
        for attribute, value in changes.items():
            setattr(message, attribute, value)
        self._outputs[name].publish(message)

    # What comes back ---------------------------------------------------------------------------

    def _on_result(self, name: str, message: Any) -> None:
        self._results[name] += 1
        self._last_result[name] = time.monotonic()

    def _on_diagnostics(self, message: Any) -> None:
        super()._on_diagnostics(message)
        for status in message.status:
            self.messages[status.name.rpartition(" ")[2]] = status.message
        for name in self.names:
            self._counters(name)
        self._diagnosed = time.monotonic()

    def _counter(self, name: str, key: str) -> int:
        return int(self.diagnostics.get(f"stream {name}", {}).get(key, 0))

    def _counters(self, name: str) -> tuple[int, int, int, int]:
        """Return received, processed, dropped and in flight of /diagnostics, which must add up."""
        names = ("received", "processed", "dropped", "in_flight")
        received, *rest = (self._counter(name, each) for each in names)
        if received != sum(rest):
            self._problem(
                f"{name}: received {received}, but {dict(zip(names[1:], rest, strict=True))}"
            )
        return (received, *rest)  # type: ignore[return-value]

    def _problem(self, text: str) -> None:
        self.report.problems.append(f"at {time.monotonic() - self._began:.0f} s: {text}")

    def _at_rest(self) -> bool:
        """Whether the last /diagnostics tells of every result, and of nothing that goes on."""
        return self.diagnostics.get("executor", {}).get("state") == "running" and all(
            self._counter(name, "in_flight") == 0
            and self._results[name] <= self._counter(name, "published")
            for name in self.names
        )

    def _sample(self, now: float) -> None:
        self._process.check_alive()
        with self._watched.oneshot():
            memory = self._watched.memory_info()
            # Without the segments of Fast DDS and the rings, whose size is fixed: their pages count
            # from when they are used for the first time.
            own = memory.rss - memory.shared
            self._samples.append((now, own, self._watched.num_fds(), self._watched.num_threads()))
        if self._progress is not None:
            faults = sum(self.report.faults.values())
            self._progress(now, f"{sum(self._results.values())} results, {faults} faults")

    def _end(self) -> SoakReport:
        """Let everything come to rest, end the process, and return what was found."""
        report, values = self.report, self.diagnostics
        done = time.monotonic()
        self._wait(END / 2, lambda: min(self._last_result.values()) > done + 1.0)
        self._silent = set(self.names)
        silent = time.monotonic()
        self._wait(RECOVERY, lambda: self._diagnosed > silent + END / 4 and self._at_rest())
        totals = np.array([self._counters(name) for name in self.names])
        report.received, report.processed, _, in_flight = totals.sum(axis=0).tolist()
        streams = [values.get(f"stream {name}", {}) for name in self.names]
        devices = [values.get(f"device {device}", {}) for device in DEVICES]
        report.dropped = {
            each.value: sum(int(s.get(f"dropped_{each.value}", 0)) for s in streams)
            for each in DropReason
        }
        report.errors, report.restarts, report.late_results = (
            sum(int(device.get(key, 0)) for device in devices)
            for key in ("errors", "restarts", "late_results")
        )
        if in_flight:
            self._problem(f"{in_flight} images are still in flight")
        if (state := values.get("executor", {}).get("state")) != "running":
            self._problem(f"the executor is {state}")
        for name in self.names:
            if self._results[name] > (published := self._counter(name, "published")):
                self._problem(f"{name}: {self._results[name]} results, {published} published")
        if status := self._process.stop(END):
            self._problem(f"{NODE} ended with status {status}")
        if "Traceback" in (output := self._process.output):
            self._problem(f"a traceback in the log: {output[output.index('Traceback') :][:500]}")
        report.judge(self._samples, self._warm_up)
        return report

    # Faults ------------------------------------------------------------------------------------

    def _faults(self) -> list[Callable[[], None]]:
        """Return the faults below, and one of an engine before each."""
        others = [getattr(self, name) for name in vars(RosSoak) if name.startswith("_fault_")]
        others.remove(self._fault_engine)
        return [fault for other in others for fault in (self._fault_engine, other)]

    def _fault_engine(self) -> None:
        self._process.send_signal(signal.SIGUSR1)
        self._wait(2.0)

    # In their order. Timelines and the cleanup come in the warm-up of half an hour, because they
    # take memory for good the first time: matplotlib 40 MB, and a second configure 4 MB of holes
    # beside what lives on (the next ones less than 1).

    def _fault_timelines(self) -> None:
        for _ in range(5):
            self._call(Trigger, f"{NODE}/timeline", Trigger.Request())
        if self.report.faults["timelines"] == 1:  # however late it came in a short soak
            self._warm_up = max(self._warm_up, time.monotonic() - self._began)

    def _fault_images_that_are_none(self) -> None:
        for changes in (
            {"step": 0}, {"step": 1}, {"height": 2**31}, {"width": 2**32 - 1}, {"data": b""},
            {"encoding": "x" * 1_000_000}, {"encoding": "bgr8\n\x1b[31m"}, {"encoding": "16UC7"},
            {"height": 20_000, "width": 20_000, "step": 60_000},
        ):  # fmt: skip
            self._send("raw0", **changes)
            self._wait(0.2)

    def _fault_huge_headers(self) -> None:
        for name in self.names:
            for length in (300, 70_000, 300_000, 2_000_000):
                message = self._message(name)
                message.header.frame_id = "\x1b[31m" * (length // 5)
                self._outputs[name].publish(message)
                self._wait(0.2)

    def _fault_cleaned_up(self) -> None:
        self._transitions(
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
        )

    def _fault_damaged_jpegs(self) -> None:
        jpeg = bytearray(self._jpeg)
        size = jpeg.index(b"\xff\xc0") + 5
        jpeg[size : size + 4] = (32_000).to_bytes(2, "big") * 2
        half = self._jpeg[: len(self._jpeg) // 2]
        for data in (b"", b"text", half, bytes(jpeg), self._jpeg[::-1], half + os.urandom(1000)):
            self._send("jpeg0", data=data)
            self._wait(0.2)

    def _ingest(self) -> psutil.Process:
        if not self._wait(RECOVERY, self._watched.children):
            raise YoloxTrtError(
                f"no ingest process in {RECOVERY:g} s", fix=f"see {self._process.log}"
            )
        processes = self._watched.children()
        return processes[sum(self.report.faults.values()) % len(processes)]

    def _fault_killed_ingest(self) -> None:
        self._ingest().kill()

    def _fault_stopped_ingest(self) -> None:
        process = self._ingest()
        process.suspend()
        self._wait(8.0)
        with contextlib.suppress(psutil.NoSuchProcess):  # it was replaced
            process.resume()

    def _fault_stopped_process(self) -> None:
        self._watched.suspend()
        self._wait(4.0)
        self._watched.resume()

    def _fault_silent_camera(self) -> None:
        self._silent.add("raw1")
        self._wait(4.0)
        self._silent.clear()

    def _fault_frozen_camera(self) -> None:
        stamp = self._stamp("jpeg1")
        self._frozen["jpeg1"] = stamp.sec + stamp.nanosec * 1e-9
        self._wait(4.0)
        self._frozen.clear()

    def _fault_simulated_time_jumps(self) -> None:
        for jump in (HOUR, -2.0 * HOUR, -3.0 * START, 3.0 * START + HOUR):
            self._ahead["/clock"] += jump
            self._wait(2.0)

    def _fault_a_cameras_clock_jumps(self) -> None:
        for ahead in (HOUR, -HOUR, 0.0):
            self._ahead["raw0"] = ahead
            self._wait(2.0)

    def _fault_burst(self) -> None:
        for _ in range(100):
            self._send("raw1")

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service of the node; return its answer, None if none came."""
        client = self.create_client(kind, f"/{service}")
        try:
            self._wait(ANSWER_TIMEOUT, client.service_is_ready)
            future = client.call_async(request)
            if self._wait(ANSWER_TIMEOUT, future.done):
                return future.result()
            self._problem(f"no answer of {service} in {ANSWER_TIMEOUT:g} s")
            return None
        finally:
            self.destroy_client(client)

    def _set(self, node: str, name: str, value: Any, *, taken: bool = True) -> None:
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        answer = self._call(SetParameters, f"{node}/set_parameters", request)
        if answer is not None and answer.results[0].successful is not taken:
            self._problem(f"{node} {name}={value!r:.50}: {answer.results[0].reason or 'taken'}")

    def _fault_parameters(self) -> None:
        for name, value, back in (
            ("score_threshold", 0.9, 0.3), ("max_rate", 2.0, 0.0), ("queue_depth", 8, 1),
            ("stale_after", 0.05, 0.5), ("roi", [0, 0, 320, 240], [0, 0, 0, 0]),
            ("enabled", False, True), ("device", "gpu", "auto"),
        ):  # fmt: skip
            self._set("raw1", name, value)
            self._set("raw1", name, back)
        for node, name, wrong in (
            ("raw1", "score_threshold", 7.0), ("raw1", "device", "dla1"),
            ("raw1", "class_thresholds", ["person:" + "9" * 100_000]),
            (NODE, "contention", "[" * 100_000), (NODE, "cameras", ["x" * 300]),
        ):  # fmt: skip
            self._set(node, name, wrong, taken=False)

    def _fault_cameras_go_and_come(self) -> None:
        self._set(NODE, "cameras", self.names[:-1])
        self._wait(2.0)
        self._set(NODE, "cameras", self.names)
        # Those of a camera that was removed are gone with it.
        self._results[self.names[-1]] = 0

    def _transitions(self, *transitions: int) -> None:
        for each in transitions:
            request = ChangeState.Request(transition=Transition(id=each))
            answer = self._call(ChangeState, f"{NODE}/change_state", request)
            if answer is not None and not answer.success:
                self._problem(f"transition {each} failed")

    def _fault_deactivated(self) -> None:
        off, on = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE
        self._transitions(off, on, off, on)


def camera_names() -> list[str]:
    """Return the names of the cameras."""
    return ["raw0", "raw1", "jpeg0", "jpeg1"]


def is_compressed(name: str) -> bool:
    """Whether a camera sends compressed images."""
    return name.startswith("jpeg")


def soak(
    *,
    seconds: float,
    warm_up: float,
    fault_period: float,
    rate: float = 10.0,
    model: Path | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> SoakReport:
    """Start the process, and soak it; see RosSoak.

    Raises:
        ConfigurationError: a length that does not fit.
        YoloxTrtError: the process did not start, or ended.
    """
    check_lengths(seconds - END, warm_up, fault_period=fault_period, rate=rate)
    # multi_camera itself takes two arenas, unless the environment says otherwise.
    os.environ.update(private_domain(os.environ), MALLOC_ARENA_MAX=str(ARENAS))
    names = camera_names()
    homes = dict(zip(names, [*map(str, DEVICES), "auto"], strict=True))
    with tempfile.TemporaryDirectory(prefix="yolox_trt_soak_") as folder:
        sections: dict[str, dict[str, Any]] = {
            "/**": {"use_sim_time": True, "on_demand": False, "stale_after": 0.5},
            NODE: {
                "cameras": names,
                "model": str(model or default_model()),
                "devices": [str(device) for device in DEVICES],
                "engine": "simulated",
                "placement": "static",
                "max_batch": 4,
                "watchdog": 1.0,
                "ingest_processes": 2,
                "timeline_folder": folder,
            },
            **{
                name: {
                    "device": homes[name],
                    "transport": "compressed" if is_compressed(name) else "raw",
                }
                for name in names
            },
        }
        with ExitStack() as stack:
            processes = stack.enter_context(ChildProcesses(Path(folder)))
            process = processes.start_multi_camera(
                sections, START_TIMEOUT, module="yolox_trt.ros.tools.soak_process"
            )
            node, spinner = stack.enter_context(
                ros_node(
                    lambda: RosSoak(
                        seconds=seconds,
                        warm_up=warm_up,
                        fault_period=fault_period,
                        rate=rate,
                        progress=progress,
                        process=process,
                    ),
                    make_executor=create_spinner,
                )
            )
            return node.run(spinner)
