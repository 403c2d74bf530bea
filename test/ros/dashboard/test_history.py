# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What is kept of /diagnostics, of one multi_camera and of several."""

from __future__ import annotations

from support.diagnostics import ERROR, OK, STATUSES, entry

from yolox_trt.ros.dashboard.history import History


def test_history_keeps_figures_and_what_has_become_worse() -> None:
    history = History()
    sample = history.add(STATUSES)
    assert sample is not None
    front = sample["streams"]["front"]
    assert (front["rate"], front["p99"], front["drops"]) == (9.5, None, {"stale": 3})
    assert history.topics == {"front": ("/front", "/front/image_raw")}
    assert not history.faults
    broken = [entry("car/multi_camera: device gpu", ERROR, "out of service: \x1b[1mhot")]
    broken_executor = entry("car/multi_camera: executor", OK, "degraded")
    history.add([*broken, broken_executor])
    history.add([*broken, broken_executor])
    assert [(f["what"], f["level"]) for f in history.faults] == [("device car/gpu", 2)]
    assert "\x1b" not in history.faults[0]["text"]
    well = [entry("car/multi_camera: device gpu", OK, "in service"), broken_executor]
    history.add(well)
    assert [f["level"] for f in history.faults] == [2, 0]
    assert history.add([entry("other: thing", OK, "")]) is None


def test_nodes_in_two_namespaces_have_cameras_of_the_same_name() -> None:
    history = History()
    for place in ("car", "trailer"):
        statuses = [
            entry(f"{place}/multi_camera: executor", OK, "running"),
            entry(f"{place}/multi_camera: stream front", OK, "running", f"/{place}/image"),
        ]
        sample = history.add(statuses)
    assert sample is not None
    assert list(sample["streams"]) == ["car/front", "trailer/front"]
    assert history.topics == {
        "car/front": ("/car/front", "/car/image"),
        "trailer/front": ("/trailer/front", "/trailer/image"),
    }
    broken = entry("trailer/multi_camera: executor", ERROR, "error")
    sample = history.add([broken])  # its camera has been removed
    assert sample is not None
    assert list(sample["streams"]) == ["car/front"]
    assert sample["executor"] == {"level": 2, "message": "trailer: error"}
    assert [fault["what"] for fault in sample["faults"]] == ["executor trailer"]


def test_a_node_that_tells_nothing_any_more_is_forgotten_and_said_to_be_gone() -> None:
    now = [100.0]
    history = History(lambda: now[0])
    for _ in range(2):
        assert history.add(STATUSES) is not None
        now[0] += 2.0
    assert len(history.samples) == 2
    assert history.forget_gone() is None
    now[0] += 5.0
    sample = history.forget_gone()
    assert sample is not None
    assert not sample["streams"]
    assert sample["executor"]["level"] == 2
    assert sample["faults"][0]["text"] == "nothing on /diagnostics for 7 s"
    assert history.topics == {}


def test_entries_of_others_and_hostile_ones_do_no_harm() -> None:
    history = History()
    assert history.add([entry("lidar: stream 1", OK, "", "/points")]) is None
    hostile = [
        entry(f"x: stream {number}", OK, "m" * 10_000, dropped_stale="many", late="1e999")
        for number in range(1000)
    ]
    sample = history.add([entry("x: executor", OK, "\n"), *hostile])
    assert sample is not None
    assert len(sample["streams"]) == len(history.topics) == 64
    assert sample["streams"]["0"]["drops"] == {}
    assert len(sample["streams"]["0"]["message"]) < 600


def test_entries_with_long_names_or_topics_are_left_out() -> None:
    history = History()
    long = "x" * 1000
    statuses = [
        entry("multi_camera: executor", OK, "running"),
        entry(f"{long}: executor", OK, "running"),
        entry(f"multi_camera: stream {long}", OK, "running", "/image"),
        entry("multi_camera: stream front", OK, "running", f"/{long}"),
        entry("multi_camera: stream rear", OK, "running", "/image"),
    ]
    sample = history.add(statuses)
    assert sample is not None and list(sample["streams"]) == ["rear"]
    assert history.topics == {"rear": ("/rear", "/image")}
    assert list(history._nodes) == ["multi_camera"]
