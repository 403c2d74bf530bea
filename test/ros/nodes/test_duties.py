# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Who serves a camera: each step of a failure, a cut and a return, in made-up time."""

from __future__ import annotations

from itertools import count

import pytest

from yolox_trt.ros.nodes.duties import Duties, Duty

SILENCE, STEP = 0.5, 0.05


class Vehicle:
    """Two computers, and a network that carries heartbeats at once, or not."""

    def __init__(self) -> None:
        self.now = 100.0
        self.linked = True
        self.computers: dict[str, Duties] = {}
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
            for name, duties in self.computers.items():
                changes = duties.decide(self.now)
                begun += [(self.now - begin, name)] * (changes.get("front") is True)
                for other in self.computers.values() if self.linked else ():
                    if other is not duties:
                        other.hear(name, duties.heartbeat, self.now)
            serving = [duties for duties in self.computers.values() if duties.serving]
            self.both += len(serving) == 2
            self.neither += not serving
        return begun

    @property
    def serving(self) -> set[str]:
        return {name for name, duties in self.computers.items() if duties.serving}


@pytest.fixture
def vehicle() -> Vehicle:
    vehicle = Vehicle()
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
    vehicle.computers["b"].lose("a")
    assert vehicle.run(1.0)[0] == (pytest.approx(STEP), "b")


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
    assert alone.others == {"x", "y"} and alone.heartbeat == "front"
    alone.duties = {}
    alone.decide(1.0)
    assert alone.serving == set() and alone.heartbeat == ""


def test_what_is_released_stays_in_the_heartbeat_until_its_images_are_done() -> None:
    standby = Duties("b", SILENCE, 0.0, {"front": Duty("a", "b")})
    times = (0.1 * k for k in count(6))
    assert standby.decide(next(times)) == {"front": True}
    standby.hear("a", "", 0.7)
    assert standby.decide(next(times)) == {"front": False}
    assert standby.heartbeat == "front"
    assert standby.decide(1.0) == {} and standby.heartbeat == ""
