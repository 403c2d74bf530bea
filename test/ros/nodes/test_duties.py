# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Who serves a camera: each step of a failure, a cut and a return, in made-up time."""

from __future__ import annotations

from itertools import count

import pytest

from yolox_trt.ros.nodes.duties import Duties, Duty

SILENCE, STEP = 0.5, 0.05


class Vehicle:
    """Two computers, and a network that carries heartbeats to the next look, or not.

    Args:
        hears_first: whether the executor hands over what has come before it calls a timer.
    """

    def __init__(self, *, hears_first: bool = False) -> None:
        self.hears_first = hears_first
        self.now = 100.0
        self.linked = True
        self.computers: dict[str, Duties] = {}
        self.stopped: set[str] = set()
        self.waiting: dict[str, dict[str, str]] = {"a": {}, "b": {}}
        self.both = self.neither = 0
        for name in ("a", "b"):
            self.start(name)

    def start(self, name: str) -> None:
        self.computers[name] = Duties(name, SILENCE, self.now, {"front": Duty("a", "b")})

    def run(self, seconds: float) -> list[tuple[float, str]]:
        """Step on; return (seconds, computer) of each time that one begins to serve."""
        begin, begun = self.now, []
        for _ in range(round(seconds / STEP)):
            self.now += STEP
            running = {n: d for n, d in self.computers.items() if n not in self.stopped}
            for name, duties in running.items():
                heard, self.waiting[name] = self.waiting[name], {}
                if self.hears_first:
                    self.hand_over(duties, heard)
                changes = duties.decide(self.now)
                begun += [(self.now - begin, name)] * (changes.get("front") is True)
                if not self.hears_first:
                    self.hand_over(duties, heard)
                for other in self.computers.keys() - {name} if self.linked else ():
                    self.waiting[other][name] = duties.heartbeat
            serving = [duties for duties in running.values() if duties.serving]
            self.both += len(serving) == 2
            self.neither += not serving
        return begun

    def hand_over(self, duties: Duties, heard: dict[str, str]) -> None:
        for name, text in heard.items():
            duties.hear(name, text, self.now)

    def stop(self, name: str, seconds: float) -> None:
        """Let a process hang; what it is sent waits for it."""
        self.stopped.add(name)
        self.run(seconds)
        self.stopped.remove(name)

    @property
    def serving(self) -> set[str]:
        return {name for name, duties in self.computers.items() if duties.serving}


@pytest.fixture(params=[False, True], ids=["timers first", "messages first"])
def vehicle(request: pytest.FixtureRequest) -> Vehicle:
    vehicle = Vehicle(hears_first=request.param)
    vehicle.run(2.0)
    assert vehicle.serving == {"a"} and vehicle.both == 0
    vehicle.neither = 0
    return vehicle


def test_nothing_changes_while_both_live(vehicle: Vehicle) -> None:
    assert vehicle.run(30.0) == []
    assert vehicle.both == vehicle.neither == 0


def test_a_dead_primary_is_replaced_and_takes_back_its_camera(vehicle: Vehicle) -> None:
    del vehicle.computers["a"]
    ((seconds, name),) = vehicle.run(5.0)
    assert name == "b" and seconds <= SILENCE + 2 * STEP
    vehicle.start("a")
    ((seconds, name),) = vehicle.run(5.0)
    assert name == "a" and seconds <= SILENCE + 2 * STEP
    assert vehicle.serving == {"a"} and vehicle.both == 0


def test_a_node_that_ends_in_order_is_replaced_at_once(vehicle: Vehicle) -> None:
    del vehicle.computers["a"]
    vehicle.waiting["b"].clear()
    vehicle.computers["b"].lose("a", vehicle.now)
    assert vehicle.run(1.0)[0] == (pytest.approx(STEP), "b")


@pytest.mark.parametrize("seconds", [0.35, 0.5, 0.6, 1.6, 60.0])
def test_a_standby_that_hangs_does_not_begin(vehicle: Vehicle, seconds: float) -> None:
    vehicle.stop("b", seconds)
    # The middleware's lease has run out in the pause as well.
    vehicle.computers["b"].lose("a", vehicle.now + STEP)
    assert vehicle.run(5.0) == []
    assert vehicle.both == vehicle.neither == 0


def test_a_primary_that_dies_while_the_standby_hangs_is_replaced(vehicle: Vehicle) -> None:
    del vehicle.computers["a"]
    vehicle.stop("b", 1.6)
    ((seconds, name),) = vehicle.run(5.0)
    assert name == "b" and seconds <= SILENCE + 2 * STEP


def test_a_primary_that_hangs_waits_until_the_standby_has_ended(vehicle: Vehicle) -> None:
    vehicle.stop("a", 1.6)
    assert vehicle.serving == {"a", "b"}  # it does not know yet
    assert [name for _, name in vehicle.run(5.0)] == ["a"]
    assert vehicle.serving == {"a"} and vehicle.both == 0


def test_short_pauses_again_and_again_hide_no_death(vehicle: Vehicle) -> None:
    del vehicle.computers["a"]
    for _ in range(10):
        vehicle.stop("b", SILENCE / 2 - STEP)
        vehicle.run(STEP)
    assert vehicle.serving == {"b"}


def test_the_standby_serves_what_a_living_primary_does_not_have(vehicle: Vehicle) -> None:
    del vehicle.computers["a"].duties["front"]
    ((_, name),) = vehicle.run(30.0)
    assert name == "b" and vehicle.serving == {"b"}
    vehicle.computers["a"].duties["front"] = Duty("a", "b")
    ((_, name),) = vehicle.run(30.0)
    assert name == "a" and vehicle.serving == {"a"} and vehicle.both == 0


def test_both_serve_in_a_cut_network_and_one_when_it_is_whole(vehicle: Vehicle) -> None:
    vehicle.linked = False
    vehicle.run(3.0)
    assert vehicle.serving == {"a", "b"}
    vehicle.both, vehicle.linked = 0, True
    vehicle.run(3.0)
    assert vehicle.serving == {"a"}
    assert vehicle.both <= 1  # the step in which they hear of one another


def test_a_dead_standby_is_no_matter(vehicle: Vehicle) -> None:
    del vehicle.computers["b"]
    assert vehicle.run(3.0) == [] and vehicle.serving == {"a"}
    vehicle.start("b")
    assert vehicle.run(3.0) == [] and vehicle.serving == {"a"} and vehicle.both == 0


def test_a_primary_without_a_standby_serves_at_once() -> None:
    alone = Duties("a", SILENCE, 0.0, {"front": Duty("a"), "rear": Duty("x", "y")})
    assert alone.decide(0.0) == {"front": True}
    assert alone.others == {"x", "y"} and alone.heartbeat == "silence=0.5 front -rear"
    alone.duties = {}
    alone.decide(1.0)
    assert alone.serving == set() and alone.heartbeat == "silence=0.5"


def test_what_is_released_stays_in_the_heartbeat_until_its_images_are_done() -> None:
    standby = Duties("b", SILENCE, 0.0, {"front": Duty("a", "b")})
    times = (0.1 * k for k in count(6))
    assert standby.decide(next(times)) == {"front": True}
    standby.hear("a", "-front", 0.7)
    assert standby.decide(next(times)) == {"front": False}
    assert standby.heartbeat == "silence=0.5 front"
    assert standby.decide(1.0) == {} and standby.heartbeat == "silence=0.5 -front"


def test_mistakes_in_the_names_and_the_silence_are_seen() -> None:
    duties = Duties("b", SILENCE, 0.0, {"front": Duty("a", "b"), "rear": Duty("x", "y")})
    assert not duties.has_none and not Duties("b", SILENCE, 0.0).has_none
    assert Duties("c", SILENCE, 0.0, duties.duties).has_none
    for name, text in (("a", duties.heartbeat), ("x", "silence=2.0"), ("y", "silence=soon -left")):
        duties.hear(name, text, 0.0)
    assert duties.other_silences == {"x": 2.0}
