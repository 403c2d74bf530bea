# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Contention: how devices of one chip slow each other down, and what that does to calls."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.core.option import OptionGroup, from_plain, option

#: Seconds of work that count as none: rounding.
_NOTHING = 1e-12


@dataclass(frozen=True)
class Contention(OptionGroup):
    """Factors on the devices' times: they share one memory.

    Attributes:
        none: whether nothing slows anything down.
    """

    gpu_with_dla: float = option(1.0, minimum=1.0, help="On a GPU's time while a DLA works.")
    dla_with_gpu: float = option(1.0, minimum=1.0, help="On a DLA's time while a GPU works.")
    dla_with_dla: float = option(1.0, minimum=1.0, help="On a DLA's time beside the other DLA.")
    none: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        none = self.gpu_with_dla == self.dla_with_gpu == self.dla_with_dla == 1.0
        object.__setattr__(self, "none", none)

    @classmethod
    def parse(cls, value: Any) -> Contention:
        """Read "none", "measured", or factors: a mapping, or text such as "{gpu_with_dla: 1.31}".

        Raises:
            ConfigurationError: anything else.
        """
        if value in (None, "none", False):
            return cls()
        if value == "measured":
            return MEASURED_CONTENTION
        factors = value
        if isinstance(value, str) and value.startswith("{"):
            pairs = (part.partition(":") for part in value.strip("{} ").split(","))
            with contextlib.suppress(ValueError):  # refused below
                factors = {name.strip(" '\""): float(number) for name, _, number in pairs}
        if isinstance(factors, Mapping):
            return from_plain(cls, factors)
        raise ConfigurationError(
            f"contention = {clean_text(str(value), LIMITS.name_characters)}",
            expected="none, measured, or factors such as {gpu_with_dla: 1.31, dla_with_gpu: 1.24, "
            "dla_with_dla: 1.0}",
            fix="set `contention`",
        )

    def slowdown(self, device: Device, busy: Iterable[Device]) -> float:
        """Return the factor on a device's time while others work.

        Args:
            device: the device.
            busy: devices that work (itself may be among them).
        """
        kinds = {other.kind for other in busy if other != device}
        if device.kind == "gpu":
            return self.gpu_with_dla if "dla" in kinds else 1.0
        if device.kind == "dla":
            factor = self.dla_with_gpu if "gpu" in kinds else 1.0
            return factor * (self.dla_with_dla if "dla" in kinds else 1.0)
        return 1.0


#: What a user of NVIDIA's measured with two networks on an Orin's GPU and DLA at once: the GPU's
#: call went from 45 to 59 ms, the DLA's from 17 to 21 ms (github.com/NVIDIA/TensorRT issue 2745).
MEASURED_CONTENTION = Contention(gpu_with_dla=59.0 / 45.0, dla_with_gpu=21.0 / 17.0)


def contended_loads(demand: Mapping[Device, float], contention: Contention) -> dict[Device, float]:
    """Return the share of time that each device is busy, slowed by the others.

    All devices begin together, as cameras that are triggered together let them: their work then
    overlaps as much as it can.

    Args:
        demand: device -> load if it worked alone.
        contention: factors.

    Returns:
        Device -> its load; above 1, 1 + the share of work that stays undone, as if alone.
    """
    if contention.none:
        return dict(demand)
    queues = {device: [work] for device, work in demand.items() if work > 0.0}
    ends = {device: end for device, _, end in finish_times(queues, contention, until=1.0)}
    return dict.fromkeys(demand, 0.0) | ends


def finish_times(
    queues: Mapping[Device, Sequence[float]], contention: Contention, until: float = math.inf
) -> Iterator[tuple[Device, int, float]]:
    """Yield the ends of calls, in their order, if all devices begin now and never pause.

    Args:
        queues: device -> seconds of its calls, as if alone, in their order.
        contention: factors.
        until: seconds after which all stop. What each device then works on comes last, with `until`
            + what is left of it, as if alone.

    Yields:
        Device, index of the call in its queue, and seconds from now to its end.
    """
    left = {device: queue[0] for device, queue in queues.items() if queue}
    index = dict.fromkeys(left, 0)
    factors = {device: contention.slowdown(device, left) for device in left}
    now = 0.0
    while left and now < until:
        step = until - now
        for device, work in left.items():
            step = min(step, work * factors[device])
        now += step
        ended = False
        for device, factor in factors.items():
            left[device] -= step / factor
            if left[device] > _NOTHING:
                continue
            yield device, index[device], now
            index[device] += 1
            if index[device] < len(queues[device]):
                left[device] = queues[device][index[device]]
            else:
                del left[device]
                ended = True
        if ended:
            factors = {device: contention.slowdown(device, left) for device in left}
    for device, work in left.items():
        yield device, index[device], now + work
