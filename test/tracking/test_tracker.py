# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Track ids on synthetic motion whose ids are known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

pytest.importorskip("edgefirst.tracker", reason="pip install edgefirst-tracker")

from yolox_trt.core.detections import Detections
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.limits import LIMITS
from yolox_trt.tracking.options import TrackingOptions
from yolox_trt.tracking.tracker import Tracker, make_tracker

START = 1_700_000_000_000_000_000


def tracker(**options: float) -> Tracker:
    return Tracker(TrackingOptions(tracking="bytetrack", **options))


def found(
    centres: Sequence[Sequence[float]], *, scores: Sequence[float] = (), classes: Sequence[int] = ()
) -> Detections:
    """Boxes of 60 x 80 pixels."""
    centres = np.array(centres, np.float32).reshape(-1, 2)
    half = np.array((30, 40), np.float32)
    boxes = np.hstack([centres - half, centres + half])
    count = len(boxes)
    return Detections(
        boxes,
        np.array(scores or [0.9] * count, np.float32),
        np.array(classes or [0] * count, np.int32),
    )


def ids(tracked: Detections) -> list[int]:
    assert tracked.track_ids is not None and tracked.track_ids.dtype == np.int32
    return tracked.track_ids.tolist()


def motion(
    rate: float, frames: int, *, objects: int = 20, seed: int = 0, gaps: bool = False
) -> Iterator[tuple[int, np.ndarray, Detections]]:
    """Yield stamp, true number of each detection (-1: false), and the detections."""
    rng = np.random.default_rng(seed)
    size = np.array((1920, 1280))
    centre, speed = rng.uniform(0, size, (objects, 2)), rng.normal(0, 100, (objects, 2))
    extent, classes = rng.uniform(60, 200, (objects, 2)), rng.integers(0, 4, objects)
    stamp = START
    for _ in range(frames):
        step = (rng.choice([1, 1, 1, 2, 4]) if gaps else 1) / rate
        stamp += int(step * 1e9)
        centre = centre + speed * step
        speed = np.where((centre < 0) | (centre > size), -speed, speed)
        seen = np.flatnonzero(rng.random(objects) < 0.9)
        wrong = rng.uniform(0, size, (rng.poisson(1), 2))
        noise = rng.normal(0, 0.03, (len(seen), 2)) * extent[seen]
        middle = np.vstack([centre[seen] + noise, wrong])
        half = np.vstack([extent[seen], np.full((len(wrong), 2), 50.0)]) / 2
        score = np.concatenate([rng.uniform(0.35, 0.95, len(seen)), np.full(len(wrong), 0.32)])
        order = np.argsort(-score)
        number = np.concatenate([seen, np.full(len(wrong), -1)])[order]
        kind = np.concatenate([classes[seen], rng.integers(0, 4, len(wrong))])[order]
        boxes = np.hstack([middle - half, middle + half])[order].astype(np.float32)
        yield (
            stamp,
            number,
            Detections(boxes, score[order].astype(np.float32), kind.astype(np.int32)),
        )


@pytest.mark.parametrize(
    ("rate", "gaps", "switches"), [(30.0, False, 3), (10.0, False, 6), (10.0, True, 60)]
)
def test_objects_keep_their_ids(rate: float, gaps: bool, switches: int) -> None:
    tracks, last, changed, tracked, seen = tracker(), {}, 0, 0, 0
    for stamp, numbers, detections in motion(rate, 200, gaps=gaps):
        result = tracks.update(detections, stamp)
        assert result.boxes is detections.boxes  # as they came, in their order
        for number, track in zip(numbers.tolist(), ids(result), strict=True):
            if number < 0:
                continue
            seen += 1
            if track > 0:
                tracked += 1
                changed += last.get(number, track) != track
                last[number] = track
    assert changed <= switches
    assert tracked > 0.95 * seen


def test_a_track_begins_with_the_second_detection_and_a_sure_one() -> None:
    tracks = tracker(track_score=0.5)
    for frame, score in enumerate([0.4, 0.4, 0.6, 0.4, 0.4]):
        result = tracks.update(found([(100 + frame, 100)], scores=[score]), START + frame * 10**8)
        assert ids(result) == [int(frame > 2)]


def test_an_object_that_was_hidden_keeps_its_id() -> None:
    tracks = tracker()
    for frame in range(30):
        hidden = 12 <= frame < 18
        result = tracks.update(
            found([] if hidden else [(100 + 12 * frame, 300)]), START + frame * 10**8
        )
        assert ids(result) == ([] if hidden else [int(frame > 0)])


def test_missing_images_are_time_too() -> None:
    """At 400 pixels a second, half a second without an image moves a box off its last place."""
    tracks = tracker()
    times = [*range(10), 15, 16, 21, 22]
    for frame in times:
        result = tracks.update(found([(100 + 40 * frame, 300)]), START + frame * 10**8)
        assert ids(result) == [int(frame > 0)]


def test_classes_are_tracked_apart() -> None:
    tracks = tracker()
    for frame in range(4):
        both = found([(100, 100), (104, 100)], classes=[0, 7])
        result = tracks.update(both if frame % 2 else both[::-1], START + frame * 10**8)
    assert set(ids(result)) == {1, 2}
    # The car that stands where the bus was is another object.
    other = tracks.update(found([(100, 100)], classes=[3]), START + 4 * 10**8)
    assert ids(other) == [0]


@pytest.mark.parametrize("jump", [-5 * 10**9, 3 * 10**9])
def test_a_jump_of_time_ends_all_tracks_and_no_id_is_given_twice(jump: int) -> None:
    tracks = tracker()
    for begin, wanted in ((START, 1), (START + jump, 2)):
        for frame in range(3):
            result = tracks.update(found([(100, 100)]), begin + frame * 10**8)
            assert ids(result) == [wanted * (frame > 0)]
    assert ids(tracks.update(found([]), -1)) == []  # times before 1970 are times


def test_a_burst_of_stamps_makes_up_few_images() -> None:
    some, stamp = tracker(track_seconds=60.0), START
    for _ in range(20):
        stamp += 100
        some.update(found([(100, 100)]), stamp)
    started = time.thread_time()
    some.update(found([(100, 100)]), stamp + 50_000_000_000)
    assert time.thread_time() - started < 1.0


def test_many_tracks_are_forgotten() -> None:
    tracks = tracker()
    for frame in range(400):
        for half in range(2):
            tracks.update(found([(500 * frame, 100)]), START + (2 * frame + half) * 10**8)
    assert len(tracks._ids) <= 257
    assert ids(tracks.update(found([(500 * 399, 100)]), START + 800 * 10**8)) == [400]


def test_flickering_boxes_end_in_new_tracks_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each box that was seen once is a track for `track_seconds`."""
    tracks = Tracker(TrackingOptions(tracking="bytetrack"), "front")
    rng = np.random.default_rng(3)
    most = 0
    for frame in range(20):
        tracks.update(found(rng.uniform(0, 10_000, (100, 2))), START + frame * 33_000_000)
        most = max(most, len(tracks._tracks.get_active_tracks()))
    assert LIMITS.tracks < most <= LIMITS.tracks + 100
    (line,) = caplog.messages
    assert line.startswith("camera 'front': ") and "expected 400 at most" in line
    steady = [ids(tracks.update(found([(100, 100)]), START + frame * 10**8)) for frame in (9, 10)]
    assert steady[1][0] > 0


def test_few_images_are_made_up_for_many_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs what the square of the number of tracks does."""
    tracks, grid = tracker(), [(100 * x, 100 * y) for x in range(15) for y in range(20)]
    for frame in range(20):
        tracks.update(found(grid), START + frame * 1000)
    steps, update = [], tracks._update
    monkeypatch.setattr(
        tracks, "_update", lambda *given: (steps.append(len(given[1])), update(*given))[1]
    )
    assert min(ids(tracks.update(found(grid), START + 500_000_000))) > 0
    assert steps == [0] * 9 + [300]


def test_fifty_boxes_take_less_than_half_a_millisecond() -> None:
    tracks, taken = tracker(), []
    for stamp, _, detections in motion(30.0, 120, objects=55):
        begin = time.thread_time()
        tracks.update(detections, stamp)
        taken.append(time.thread_time() - begin)
    # Beside other work on the same core some take longer.
    assert np.percentile(taken, 10) < 0.5e-3


def test_nothing_is_tracked_unless_asked_for() -> None:
    assert make_tracker(TrackingOptions()) is None
    assert isinstance(make_tracker(TrackingOptions(tracking="bytetrack")), Tracker)
    with pytest.raises(ConfigurationError, match="expected none or bytetrack"):
        TrackingOptions(tracking="sort")
