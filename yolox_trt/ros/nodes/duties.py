# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Duties: which cameras this computer serves, where another one stands in for it.

Each computer runs a node with the same cameras. A camera has a primary and a standby, by the names
of computers, and the parameter `enabled` of the camera's node follows from what this class decides:

    primary  serves it unless the standby lives and says that it does
    standby  serves it while the primary is silent

A computer that comes back is seen by the standby, which ends the camera's subscription and then
says so; only then does the primary begin. So no image has two results, but while a network that was
cut grows together: until the two have seen one another, both serve, and each is right.

It holds no clock and no ROS: ros.nodes.takeover gives it both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Duty:
    """Whose camera it is.

    Attributes:
        primary: computer that serves it as long as it lives.
        standby: computer that stands in for that one; "" for none.
    """

    primary: str
    standby: str = ""


@dataclass
class _Peer:
    heard: float
    serving: frozenset[str] = frozenset()


@dataclass
class Duties:
    """Decides for one computer.

    Args:
        computer: its name.
        silence: seconds without a heartbeat after which a computer is taken for dead.
        began: time at which the heartbeats were first listened to.

    Attributes:
        duties: camera -> whose it is.
        serving: cameras that this computer serves now.
    """

    computer: str
    silence: float
    began: float
    duties: dict[str, Duty] = field(default_factory=dict)
    serving: set[str] = field(default_factory=set)
    _peers: dict[str, _Peer] = field(default_factory=dict)
    _released: dict[str, float] = field(default_factory=dict)

    @property
    def heartbeat(self) -> str:
        """Text of the heartbeat: this computer's cameras, those of which images are in work too."""
        return " ".join(sorted({*self.serving, *self._released}))

    @property
    def others(self) -> set[str]:
        """Names of the computers that this one listens to."""
        names = {name for duty in self.duties.values() for name in (duty.primary, duty.standby)}
        return names - {self.computer, ""}

    def hear(self, computer: str, text: str, now: float) -> None:
        """Take a heartbeat."""
        self._peers[computer] = _Peer(now, frozenset(text.split()))

    def lose(self, computer: str) -> None:
        """Take note that a computer's node is gone, as the middleware says."""
        self._peers.pop(computer, None)

    def lives(self, computer: str, now: float) -> bool:
        """Tell whether a computer has been heard lately."""
        peer = self._peers.get(computer)
        return peer is not None and now - peer.heard <= self.silence

    def decide(self, now: float) -> Mapping[str, bool]:
        """Return the cameras that begin (True) or end (False) to be served by this computer."""
        self._released = {
            camera: time for camera, time in self._released.items() if now - time < self.silence / 2
        }
        changes = {}
        for camera, duty in self.duties.items():
            wanted = self._wanted(camera, duty, now)
            if wanted != (camera in self.serving):
                changes[camera] = wanted
                if wanted:
                    self.serving.add(camera)
                else:
                    self.serving.remove(camera)
                    self._released[camera] = now
        self.serving &= self.duties.keys()
        return changes

    def _wanted(self, camera: str, duty: Duty, now: float) -> bool:
        if self.computer == duty.primary:
            other = duty.standby
            if not self.lives(other, now):
                # At the start nobody has been heard yet: the standby may be serving.
                return not other or camera in self.serving or now - self.began > self.silence
            return camera not in self._peers[other].serving
        if self.computer == duty.standby:
            return not self.lives(duty.primary, now) and now - self.began > self.silence
        return False
