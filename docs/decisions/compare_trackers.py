# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Compare trackers on motion whose ids are known; tracking.md shows what it printed.

    pip install trackeval trackers supervision==0.26.1 edgefirst-tracker
    OPENBLAS_NUM_THREADS=1 python docs/decisions/compare_trackers.py coco/instances.json coco/images

Synthetic: boxes that move at random and hide one another, with noise, misses and false detections.
Panned: a camera that pans and zooms over annotated photographs, seen by the shipped detector.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

import yolox_trt
from yolox_trt.core.coco import read_instances
from yolox_trt.core.detections import Detections, iou_matrix
from yolox_trt.tracking.options import TrackingOptions
from yolox_trt.tracking.tracker import Tracker

#: Seconds, the true boxes, their ids, and the detections.
Image = tuple[float, np.ndarray, np.ndarray, Detections]
#: Takes detections and seconds; gives the ids, 0 for none.
Update = Callable[[Detections, float], np.ndarray]


def ours(rate: float) -> Update:
    """The package's own Tracker, with its defaults."""
    tracker = Tracker(TrackingOptions(tracking="bytetrack"))
    return lambda found, seconds: tracker.update(found, int(seconds * 1e9)).track_ids


def edgefirst_defaults(rate: float) -> Update:
    """The library under it, with the library's defaults."""
    from edgefirst.tracker import ByteTrack

    tracker, ids = ByteTrack(), {}

    def update(found: Detections, seconds: float) -> np.ndarray:
        labels = np.zeros(len(found), np.uintp)
        tracks = tracker.update(apart(found), found.scores, labels, int(seconds * 1e9))
        return np.array([0 if t is None else ids.setdefault(t.uuid, len(ids) + 1) for t in tracks])

    return update


def trackers_bytetrack(rate: float) -> Update:
    """ByteTrack of Roboflow's trackers, told of the times."""
    import supervision
    import trackers

    tracker = trackers.ByteTrackTracker(
        frame_rate=rate, track_activation_threshold=0.4, high_conf_det_threshold=0.4
    )
    return by_supervision(supervision, lambda d, seconds: tracker.update(d, timestamp=seconds), 1)


def supervision_bytetrack(rate: float) -> Update:
    """ByteTrack of supervision 0.26, the last series that has it."""
    import supervision

    tracker = supervision.ByteTrack(
        frame_rate=int(rate), track_activation_threshold=0.3, minimum_consecutive_frames=2
    )
    return by_supervision(supervision, lambda d, _: tracker.update_with_detections(d), 0)


def by_supervision(supervision, track: Callable, first: int) -> Update:
    """Wrap a tracker of supervision's Detections; class_id carries the places of the detections."""

    def update(found: Detections, seconds: float) -> np.ndarray:
        ids, numbers = np.zeros(len(found), int), np.arange(len(found))
        boxes = supervision.Detections(apart(found), confidence=found.scores, class_id=numbers)
        tracked = track(boxes, seconds)
        if len(tracked):
            ids[tracked.class_id] = np.maximum(np.asarray(tracked.tracker_id) + first, 0)
        return ids

    return update


def apart(found: Detections) -> np.ndarray:
    """Shift the classes apart, so that no two are one track."""
    return found.boxes + (found.class_ids[:, None] * 8192).astype(np.float32)


def synthetic(seed: int, count: int, rate: float, images: int, gaps: bool) -> Iterator[Image]:
    """Move boxes at random; those in front hide others; gaps leave out up to four images."""
    rng = np.random.default_rng(seed)
    size = np.array((1920, 1280))
    centre, speed = rng.uniform(0, size, (count, 2)), rng.normal(0, 120, (count, 2))
    extent = rng.uniform(40, 240, (count, 1)) * [1, 1.4] * rng.uniform(0.7, 1.3, (count, 2))
    classes, depth, seconds = rng.integers(0, 4, count), rng.permutation(count), 0.0
    for _ in range(images):
        step = (rng.choice([1, 1, 1, 2, 5]) if gaps else 1) / rate
        seconds += step
        centre = centre + speed * step
        speed = np.where((centre < 0) | (centre > size), -speed, speed)
        speed += rng.normal(0, 60, (count, 2)) * step
        boxes = np.hstack([centre - extent / 2, centre + extent / 2])
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        hidden = np.clip(high - low, 0, None).prod(axis=2) / extent.prod(axis=1)[:, None]
        hidden[depth[:, None] <= depth[None, :]] = 0  # by nearer ones alone
        visible = 1 - hidden.max(axis=1)
        seen = rng.random(count) < np.clip(visible * 1.25, 0, 0.95)
        noise = rng.normal(0, 0.03, (seen.sum(), 4)) * np.tile(extent[seen], 2)
        scores = np.clip(rng.normal(0.35 + 0.45 * visible[seen], 0.12), 0.1, 0.99)
        false = rng.poisson(count * 0.05)
        middle, half = rng.uniform(0, size, (false, 2)), rng.uniform(15, 100, (false, 2))
        found = np.vstack([boxes[seen] + noise, np.hstack([middle - half, middle + half])])
        scores = np.concatenate([scores, rng.uniform(0.1, 0.45, false)])
        kinds = np.concatenate([classes[seen], rng.integers(0, 4, false)])
        order, true = np.argsort(-scores), np.flatnonzero(visible > 0.3)
        detections = Detections(
            found[order].astype(np.float32),
            scores[order].astype(np.float32),
            kinds[order].astype(np.int32),
        )
        yield seconds, boxes[true].astype(np.float32), true, detections


def panned(
    detector: yolox_trt.Detector, photograph: np.ndarray, boxes: np.ndarray, seed: int, rate: float
) -> Iterator[Image]:
    """Pan and zoom over a photograph."""
    rng = np.random.default_rng(seed)
    height, width = photograph.shape[:2]
    a, b, c = rng.uniform(0.6, 1.4, 3)
    for number in range(60):
        t = (number + 1) / rate
        zoom = 0.68 + 0.12 * np.sin(1.1 * c * t)
        x = width * (1 - zoom) * (0.5 + 0.5 * np.sin(a * t + seed)) + rng.normal(0, 0.8)
        y = height * (1 - zoom) * (0.5 + 0.5 * np.sin(b * t)) + rng.normal(0, 0.8)
        sx, sy = 640 / (width * zoom), 480 / (height * zoom)
        view = np.array([[sx, 0, -x * sx], [0, sy, -y * sy]], np.float32)
        moved = (boxes - [x, y, x, y]) * [sx, sy, sx, sy]
        cut = moved.clip(0, [640, 480] * 2)
        shares = np.diff(cut.reshape(-1, 2, 2), axis=1).prod(axis=2).ravel()
        whole = np.diff(moved.reshape(-1, 2, 2), axis=1).prod(axis=2).ravel()
        true = np.flatnonzero(shares > 0.4 * whole)
        found = detector(cv2.warpAffine(photograph, view, (640, 480))).detections
        yield t, cut[true].astype(np.float32), true, found


def photographs(labels: Path, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give twelve photographs with 4 to 15 objects, and their boxes."""
    truth = read_instances(labels, fix="give COCO's instances_*.json")
    boxes: dict[int, list] = {}
    for entry in truth["annotations"]:
        x, y, width, height = entry["bbox"]
        if not entry["iscrowd"] and width * height > 900:
            boxes.setdefault(entry["image_id"], []).append((x, y, x + width, y + height))
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    for image_id in sorted(i for i, each in boxes.items() if 4 <= len(each) <= 15)[:12]:
        yield cv2.imread(str(folder / files[image_id])), np.array(boxes[image_id])


def measure(sequences: list[list[Image]], make: Callable[[float], Update], rate: float) -> str:
    """Track all sequences and return a row's figures."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    metrics = [HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})]
    results: list[dict] = [{} for _ in metrics]
    taken = []
    for number, sequence in enumerate(sequences):
        update, true_ids, ids = make(rate), {}, {}
        data: dict = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
        for seconds, boxes, truth, found in sequence:
            begin = time.process_time()
            given = update(found, seconds)
            taken.append(time.process_time() - begin)
            kept = given > 0
            for key, known, values in (
                ("gt_ids", true_ids, truth),
                ("tracker_ids", ids, given[kept]),
            ):
                data[key].append(
                    np.array([known.setdefault(v, len(known)) for v in values.tolist()], int)
                )
            data["similarity_scores"].append(iou_matrix(boxes, found.boxes[kept]))
        data["num_timesteps"] = len(sequence)
        data["num_gt_ids"], data["num_tracker_ids"] = len(true_ids), len(ids)
        data["num_gt_dets"] = sum(map(len, data["gt_ids"]))
        data["num_tracker_dets"] = sum(map(len, data["tracker_ids"]))
        for metric, result in zip(metrics, results, strict=True):
            result[number] = metric.eval_sequence(data)
    hota, clear, identity = (m.combine_sequences(r) for m, r in zip(metrics, results, strict=True))
    return (
        f"{hota['HOTA'].mean():.3f} | {identity['IDF1']:.3f} | {clear['IDSW']:.0f} | "
        f"{1e3 * np.median(taken):.2f} / {1e3 * np.percentile(taken, 99):.2f}"
    )


def main(labels: Path, folder: Path) -> None:
    """Print the table."""
    sets: dict[str, tuple[float, list[list[Image]]]] = {}
    for count, rate, images, gaps in (
        (20, 30, 300, 0),
        (50, 30, 200, 0),
        (20, 10, 200, 0),
        (20, 10, 200, 1),
    ):
        name = f"synthetic, {count} objects, {rate} Hz" + ", gaps" * gaps
        sets[name] = rate, [list(synthetic(s, count, rate, images, bool(gaps))) for s in range(3)]
    detector = yolox_trt.Detector(score=0.1)
    for rate in (30, 10):
        sets[f"panned, {rate} Hz"] = (
            rate,
            [
                list(panned(detector, *p, n, rate))
                for n, p in enumerate(photographs(labels, folder))
            ],
        )
    print("| sequences | tracker | HOTA | IDF1 | id switches | ms an image, median / p99 |")
    for name, (rate, sequences) in sets.items():
        for make in (ours, edgefirst_defaults, trackers_bytetrack, supervision_bytetrack):
            print(f"| {name} | {make.__name__} | {measure(sequences, make, rate)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
