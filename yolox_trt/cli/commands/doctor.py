# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.device import Device
from yolox_trt.core.option import Kind, option


def _devices(names: Sequence[str]) -> tuple[Device, ...]:
    return tuple(map(Device.parse, names))


@dataclass(frozen=True, kw_only=True)
class Doctor(Command, name="doctor", has_json=True):
    """Look at what is installed, and name the command that mends what is not.

    The machine, its model and caches, the GPU and the DLA, what runs networks, ROS and its
    middleware, and the cameras that publish. The exit status is 1 if something does not work;
    what is merely absent is a note.

    Examples:
        yolox_trt doctor
        yolox_trt doctor --device dla0
    """

    devices: Sequence[Device] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=_devices,
        flag="--device",
        metavar="DEVICE",
        help="Run the default model there, and compare its detections with the CPU's. A DLA core "
        "is checked in ten steps, from its device node to each of its engines.",
    )
    seconds: float = option(
        2.0, above=0.0, maximum=60.0, unit="s", help="How long cameras are listened to."
    )

    def run(self, output: Output) -> int:
        from yolox_trt.doctor import Status, examine

        colours = {Status.PASS: "green", Status.NOTE: "yellow", Status.FAIL: "red"}
        last, document, failed = "", [], 0
        for area, check in examine(self.devices, self.seconds):
            if area != last:
                output.print(("\n" if last else "") + area)
            last = area
            failed += check.status is Status.FAIL
            output.item(check.status.value, f"{check.name}: {check.found}", colours[check.status])
            if check.must:
                output.item("", f"must say: {check.must}")
            if check.fix:
                output.item("", f"-> {check.fix}")
            document.append({"area": area, **asdict(check), "status": check.status.value})
        output.print(
            f"\n{failed} of {len(document)} do not work"
            if failed
            else "\nready; what a note names only some uses need"
        )
        output.json(document)
        return 1 if failed else 0
