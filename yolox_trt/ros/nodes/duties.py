# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Duties: which cameras this computer serves, where another one stands in for it.

Each computer runs a node with the same cameras. A camera has a primary and a standby, by the names
of computers, and the parameter `enabled` of the camera's node follows from what this class decides:

    primary  serves it unless the standby lives and says that it does
    standby  serves it while the primary is silent, or lives without this camera

A computer is silent only as far as this one listened: a process that was stopped, or in a callback
that took long, has heard nothing and knows nothing. One that hung for longer than the silence was
dead to the others, so it begins as at its start.

A computer that comes back is seen by the standby, which ends the camera's subscription and then
says so; only then does the primary begin. So no image has two results, but while a network that was
cut grows together: until the two have seen one another, both serve, and each is right.

It holds no clock and no ROS: ros.nodes.takeover gives it both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: What the word of a heartbeat that states the silence begins with; no camera's name has a "=".
_SILENCE = "silence="


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
    serving: frozenset[str]
    cameras: frozenset[str]
    silence: float | None


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
    _decided: float | None = None
    _paused: float | None = None

    @property
    def heartbeat(self) -> str:
        """Text of the heartbeat: the silence, and the cameras that this computer has.

        Those that it does not serve, and of which no images are in work, have a "-" in front.
        """
        busy = {*self.serving, *self._released}
        idle = {f"-{camera}" for camera in self.duties if camera not in busy}
        return " ".join((f"{_SILENCE}{self.silence}", *sorted(busy), *sorted(idle)))

    @property
    def others(self) -> set[str]:
        """Names of the computers that this one listens to."""
        names = {name for duty in self.duties.values() for name in (duty.primary, duty.standby)}
        return names - {self.computer, ""}

    @property
    def other_silences(self) -> dict[str, float]:
        """Computers that take another one for dead after another time, and that time in seconds."""
        told = ((name, peer.silence) for name, peer in self._peers.items())
        return {name: each for name, each in told if each is not None and each != self.silence}

    @property
    def has_none(self) -> bool:
        """Whether cameras have a primary, and none of them is this computer's."""
        each = [{duty.primary, duty.standby} for duty in self.duties.values()]
        return bool(each) and not any(self.computer in names for names in each)

    def hear(self, computer: str, text: str, now: float) -> None:
        """Take a heartbeat."""
        words = frozenset(text.split())
        silence = next((each for each in words if each.startswith(_SILENCE)), None)
        words -= {silence}
        self._peers[computer] = _Peer(
            heard=now,
            serving=frozenset(each for each in words if not each.startswith("-")),
            cameras=frozenset(each.removeprefix("-") for each in words),
            silence=_seconds(silence),
        )

    def lose(self, computer: str, now: float) -> None:
        """Take note that a computer's node is gone, as the middleware says.

        After a pause of this process the middleware takes all others for dead, as it has not heard
        them either. Then only silence tells.
        """
        listened = self._decided is None or now - self._decided <= self.silence / 2
        if listened and (self._paused is None or now - self._paused > self.silence / 2):
            self._peers.pop(computer, None)

    def lives(self, computer: str, now: float) -> bool:
        """Tell whether a computer has been heard lately."""
        peer = self._peers.get(computer)
        return peer is not None and now - peer.heard <= self.silence

    def lacks(self, computer: str, camera: str) -> bool:
        """Tell whether a computer has been heard, and has no such camera."""
        return computer in self._peers and camera not in self._peers[computer].cameras

    def decide(self, now: float) -> Mapping[str, bool]:
        """Return the cameras that begin (True) or end (False) to be served by this computer."""
        self._released = {
            camera: time for camera, time in self._released.items() if now - time < self.silence / 2
        }
        before = set(self.serving)
        self._allow_for_pause(now)
        changes = {}
        for camera, duty in self.duties.items():
            wanted = self._wanted(camera, duty, now)
            if wanted != (camera in before):
                changes[camera] = wanted
                if wanted:
                    self.serving.add(camera)
                else:
                    self.serving.discard(camera)
                    self._released[camera] = now
            elif wanted:
                self.serving.add(camera)
        self.serving &= self.duties.keys()
        return changes

    def _allow_for_pause(self, now: float) -> None:
        """Count no time as silence in which this process did not listen."""
        # Heartbeats come four times in a silence: the last one is a quarter old at most.
        pause = 0.0 if self._decided is None else now - self._decided
        self._decided = now
        if pause <= self.silence / 2:
            return
        self._paused = now
        if pause > self.silence:
            self.began = now
            self.serving.clear()
            self._peers.clear()
        else:
            self.began += pause
            for peer in self._peers.values():
                # Some executors hand over what has come before they call the timer.
                peer.heard = min(peer.heard + pause, now)

    def _wanted(self, camera: str, duty: Duty, now: float) -> bool:
        if self.computer == duty.primary:
            other = duty.standby
            if not self.lives(other, now):
                # At the start nobody has been heard yet: the standby may be serving.
                return not other or camera in self.serving or now - self.began > self.silence
            return camera not in self._peers[other].serving
        if self.computer == duty.standby:
            away = not self.lives(duty.primary, now) or self.lacks(duty.primary, camera)
            return away and now - self.began > self.silence
        return False


def _seconds(word: str | None) -> float | None:
    """Return the silence that a word of a heartbeat states; None where it states none."""
    try:
        return None if word is None else float(word.removeprefix(_SILENCE))
    except ValueError:
        return None
