# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The program `multi_camera` with engines that fail: each SIGUSR1 commands the next fault.

Its parameter `engine` must be simulated. `yolox_trt soak --ros` starts it.
"""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from yolox_trt.core.device import Device
from yolox_trt.core.memory import trim_heap
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import BACKENDS
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.simulated import Fault, FaultInjector
from yolox_trt.evaluation.bench.soak import DEVICES, FAULTS, faulty_detector, steady_memory
from yolox_trt.ros.nodes.multi_camera import main as multi_camera

#: Length of a hang, in seconds: longer than the watchdog that the soak sets.
HANG = 3.0


def _give_back() -> None:
    """Hand freed memory back all the time, so that what is resident is what is in use."""
    while True:
        time.sleep(1.0)
        trim_heap()


def main() -> int:
    """Run the process; return the exit status."""
    steady_memory()
    injectors = {device: FaultInjector() for device in DEVICES}
    turns: Iterator[tuple[Fault, Device]] = itertools.cycle(itertools.product(FAULTS, DEVICES))

    def make(options: DetectorOptions, device: Device) -> Detector:
        return faulty_detector(device, Path(str(options.model)), injectors[device])

    def command(number: int, frame: FrameType | None) -> None:
        fault, device = next(turns)
        count = 3 if fault is Fault.OUT_OF_MEMORY else 1
        injectors[device].inject(fault, count=count, seconds=HANG)

    for device in DEVICES:
        BACKENDS["simulated", device.kind] = make
    signal.signal(signal.SIGUSR1, command)
    threading.Thread(target=_give_back, name="give memory back", daemon=True).start()
    return multi_camera()


if __name__ == "__main__":
    sys.exit(main())
