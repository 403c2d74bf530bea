# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Exports: the detections of all parts as one COCO file, and as a bag beside each bag."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.batch.detection import Row, detections_of, read_table
from yolox_trt.batch.manifest import DONE, Manifest
from yolox_trt.batch.places import Place, is_remote, write_whole
from yolox_trt.batch.plan import BAG
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.output_paths import json_text
from yolox_trt.evaluation.coco_metrics import category_ids, coco_results
from yolox_trt.ros.tools.bag import DetectionBagWriter


def write_coco(manifest: Manifest, place: Place) -> None:
    """Write the detections as COCO instances, with their scores.

    Images have their numbers in their COCO set if all are from one, else their place from 1 on.
    """
    images: list[dict[str, Any]] = []
    found = list(rows_of(manifest))
    numbers = [row["image_id"] for row, _ in found]
    if None in numbers or len(set(numbers)) < len(numbers):
        numbers = list(range(1, len(found) + 1))
    annotations: list[dict[str, Any]] = []
    categories: dict[int, str] = {}
    for (row, names), number in zip(found, numbers, strict=True):
        classes = [each["class_id"] for each in row["detections"]]
        ids = category_ids(names, {*range(len(names)), *classes})
        categories |= {id_: names[k] if k < len(names) else str(k) for k, id_ in ids.items()}
        kept = ("source", "topic", "stamp_ns", "height", "width")
        images.append(
            {"id": number, "file_name": row["file"] or "", **{name: row[name] for name in kept}}
        )
        for result in coco_results(number, detections_of(row), ids):
            width, height = result["bbox"][2:]
            more = {"id": len(annotations) + 1, "area": width * height, "iscrowd": 0}
            annotations.append({**result, **more})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in sorted(categories.items())],
    }
    write_whole(place, json_text(document).encode())


def write_bags(manifest: Manifest, folder: Place) -> list[Path]:
    """Write a bag of detections for each bag whose parts are all done; return the new ones.

    Each detection has topic, time and header as `yolox_trt detect` gives them; the images stay in
    the recording.

    Raises:
        ConfigurationError: the folder is none of this machine, or a part is none of a bag.
    """
    if is_remote(folder):
        raise ConfigurationError(
            f"bags in '{folder}'",
            expected="a folder of this machine",
            fix="leave --format mcap out, or give a local folder",
        )
    written = []
    records = manifest.records.values()
    for source, parts in groupby(records, key=lambda record: record["source"]):
        of_source = list(parts)
        if of_source[0]["kind"] != BAG or any(each["state"] != DONE for each in of_source):
            continue
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        path = folder / f"{Path(source).stem}-{digest}"
        if path.exists():
            continue
        rows = [
            (row, names) for record in of_source for row, names in _rows(manifest.place_of(record))
        ]
        if without := [row for row, _ in rows if not row["topic"]]:
            raise ConfigurationError(
                f"{len(without)} frames of bag '{source}' without a topic",
                expected="what `yolox_trt batch detect` has written",
                fix="run again in another folder",
            )
        topics = sorted({row["topic"] for row, _ in rows})
        names = rows[0][1] if rows else ()
        with DetectionBagWriter(path, topics, names) as writer:
            for row, _ in rows:
                writer.write(frame_of(row), detections_of(row))
        written.append(path)
    return written


def frame_of(row: Row) -> Frame:
    """Return what a row knows of its frame, without pixels."""
    return Frame(
        data=np.empty(0, np.uint8),
        height=row["height"],
        width=row["width"],
        encoding="bgr8",
        step=0,
        stamp_ns=row["stamp_ns"],
        frame_id=row["frame_id"],
        stream_id=row["topic"] or row["file"] or row["source"],
        received_ns=row["received_ns"],
    )


def rows_of(manifest: Manifest) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """Yield every row with the names of the model's classes, in the order of the plans."""
    for _, place in manifest.done():
        yield from _rows(place)


def _rows(place: Place) -> Iterator[tuple[Row, tuple[str, ...]]]:
    table, names = read_table(place)
    for row in table.to_pylist():
        yield row, names
