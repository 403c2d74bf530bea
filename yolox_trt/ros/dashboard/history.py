# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""History: what /diagnostics told in the last minutes, and the faults in it."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from diagnostic_msgs.msg import DiagnosticStatus

from yolox_trt.core.limits import LIMITS, clean_text
from yolox_trt.executor.outcomes import DropReason
from yolox_trt.ros.tools.launch_arguments import EXECUTOR_NODE

#: Samples that are kept: ten minutes, one a second at most.
_SAMPLES, _PERIOD = 600, 0.9
_FAULTS = 200
#: Cameras, and devices, that are shown, and nodes that are listened to.
_MOST = 64
#: Characters of a message, which ten minutes of samples repeat.
_TEXT = 500
#: A multi_camera is gone when three of its messages are due, and so many seconds have passed.
_MISSED, _GONE_AFTER = 3.0, 5.0
#: Key of an entry -> name in a sample.
_STREAM = {
    "processed_rate_hz": "rate",
    "latency_p50_ms": "p50",
    "latency_p99_ms": "p99",
    "dropped": "dropped",
    "lost_in_middleware": "lost",
    "late": "late",
}

#: What an entry is of -> its level and message.
_Levels: TypeAlias = dict[str, tuple[int, str]]


@dataclass
class _Node:
    """What one multi_camera told last."""

    told_at: float
    gone_after: float = _GONE_AFTER
    executor: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    topics: dict[str, tuple[str, str]] = field(default_factory=dict)
    levels: _Levels = field(default_factory=dict)


class History:
    """Takes the entries of one multi_camera or of several.

    Cameras and devices are called by their names; those of a node in a namespace, or of one that is
    not called multi_camera, have that in front (car/front).

    Args:
        clock: time.monotonic.

    Attributes:
        samples: the last ten minutes, of all nodes together: {"time", "executor" (the worst one),
            "streams": {camera: {...}}, "devices": {...}, "faults": those that are new}.
        faults: what went wrong, the newest last: {"time", "what", "level", "text"}.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.samples: deque[dict[str, Any]] = deque(maxlen=_SAMPLES)
        self.faults: deque[dict[str, Any]] = deque(maxlen=_FAULTS)
        self._clock = clock
        self._kept_at = -_PERIOD
        self._nodes: dict[str, _Node] = {}
        self._new_faults: list[dict[str, Any]] = []

    @property
    def topics(self) -> dict[str, tuple[str, str]]:
        """Camera -> (its node's name with the namespace, its image topic), of those that live."""
        every = (node.topics.items() for node in self._nodes.values())
        return dict(itertools.islice(itertools.chain.from_iterable(every), _MOST))

    def add(self, statuses: Iterable[DiagnosticStatus]) -> dict[str, Any] | None:
        """Take one message in.

        Returns:
            The sample; None where no entry is of a multi_camera.
        """
        own: dict[str, dict[str, DiagnosticStatus]] = defaultdict(dict)
        for status in statuses:
            # Both are kept as they are; no name and no topic of ROS 2 is longer.
            if max(len(status.name), len(status.hardware_id)) > LIMITS.name_characters:
                continue
            name, _, what = status.name.partition(": ")
            own[name][what] = status
        now, found = self._clock(), False
        for name, entries in own.items():
            # Only a multi_camera has this one, and it tells of all that it has in one message.
            if "executor" in entries and (name in self._nodes or len(self._nodes) < _MOST):
                self._take(name, entries, now)
                found = True
        return self._sample(now) if found else None

    def forget_gone(self) -> dict[str, Any] | None:
        """Forget nodes that tell nothing any more.

        Returns:
            The sample without them; None where all go on.
        """
        now = self._clock()
        gone = [name for name, each in self._nodes.items() if now - each.told_at > each.gone_after]
        for name in gone:
            node = self._nodes.pop(name)
            text = f"nothing on /diagnostics for {now - node.told_at:.0f} s"
            self._note(node.levels, node.levels, clean_text(name, LIMITS.name_characters), 2, text)
        return self._sample(now) if gone else None

    def _take(self, name: str, entries: Mapping[str, DiagnosticStatus], now: float) -> None:
        last = self._nodes.get(name)
        node = self._nodes[name] = _Node(now)
        if last is not None:
            node.gone_after = max(_GONE_AFTER, _MISSED * (now - last.told_at))
        before = last.levels if last is not None else {}
        namespace, _, base = name.rpartition("/")
        place = namespace if base == EXECUTOR_NODE else name
        for what, status in itertools.islice(entries.items(), 2 * _MOST + 1):
            kind, _, own_name = what.partition(" ")
            entry: dict[str, Any] = {
                "level": int.from_bytes(status.level, "little"),
                "message": clean_text(status.message, _TEXT),
            }
            values = {item.key: item.value for item in status.values}
            if kind == "stream" and own_name:
                path = f"{namespace}/{own_name}".lstrip("/")
                shown = clean_text(path, LIMITS.name_characters)
                node.topics[shown] = (f"/{path}", status.hardware_id)
                node.streams[shown] = entry | _stream(values)
            elif kind == "device" and own_name:
                shown = clean_text(f"{place}/{own_name}".lstrip("/"), LIMITS.name_characters)
                load, state = _number(values.get("load")), clean_text(values.get("status", ""))
                node.devices[shown] = entry | {"load": load, "status": state}
            elif what == "executor":
                shown = clean_text(place, LIMITS.name_characters)
                told = f"{shown}: {entry['message']}" if place else entry["message"]
                node.executor = entry | {"message": told}
            else:
                continue
            called = f"{kind} {shown}".rstrip()
            self._note(before, node.levels, called, entry["level"], entry["message"])

    def _sample(self, now: float) -> dict[str, Any]:
        nodes = self._nodes.values()
        silent = {"level": 2, "message": "no multi_camera tells anything any more"}
        faults, self._new_faults = self._new_faults, []
        sample = {
            "time": time.time(),
            "executor": max((n.executor for n in nodes), key=lambda e: e["level"], default=silent),
            "streams": _together(node.streams for node in nodes),
            "devices": _together(node.devices for node in nodes),
            "faults": faults,
        }
        if now - self._kept_at >= _PERIOD:
            self._kept_at = now
            self.samples.append(sample)
        return sample

    def _note(self, last: _Levels, levels: _Levels, what: str, level: int, text: str) -> None:
        """Keep what has become worse, and that it is well again."""
        before, told = last.get(what, (0, ""))
        if level != before or (level > 0 and text != told):
            fault = {"time": time.time(), "what": what, "level": level, "text": text}
            self.faults.append(fault)
            self._new_faults.append(fault)
        levels[what] = (level, text)


def _together(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries of all nodes, _MOST at most."""
    items = itertools.chain.from_iterable(part.items() for part in parts)
    return dict(itertools.islice(items, _MOST))


def _stream(values: Mapping[str, str]) -> dict[str, Any]:
    drops = {each.value: _number(values.get(f"dropped_{each.value}")) for each in DropReason}
    return {
        **{to: _number(values.get(key)) for key, to in _STREAM.items()},
        "device": clean_text(values.get("device", ""), LIMITS.name_characters),
        "drops": {reason: int(count) for reason, count in drops.items() if count},
    }


def _number(text: str | None) -> float | None:
    """Return a value; None where it is none, as JSON knows no NaN."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if value - value == 0.0 else None
