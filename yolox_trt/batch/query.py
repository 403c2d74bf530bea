# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Query: frames whose detections fulfil a condition, by DuckDB, and a bag of them."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2

from yolox_trt.batch.detection import Row, detections_of, read_table
from yolox_trt.batch.exports import frame_of
from yolox_trt.batch.frames import open_part
from yolox_trt.batch.manifest import DONE, read_manifest
from yolox_trt.batch.places import Place, place_of
from yolox_trt.batch.plan import IMAGES, VIDEO, Part
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.images import FILE_RATE
from yolox_trt.core.optional import require
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.ros.messages.transports import BY_TYPE
from yolox_trt.ros.tools.bag import DetectionBagWriter, open_reader, read_messages

_OF_FRAME = (
    *("source", "part", "frame", "topic", "frame_id", "stamp_ns", "received_ns"),
    *("file", "image_id", "height", "width"),
)
_OF_DETECTION = ("class", "class_id", "score", "x1", "y1", "x2", "y2")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
#: Topic of kept images that come from no bag.
_TOPIC = "/images"


def find(folder: Place, where: str, *, limit: int | None = None) -> list[Row]:
    """Return the frames that fulfil a condition, in the order of source, part and frame.

    A condition is SQL over the columns of a frame, the number of its detections (`detections`) and
    of those of each class (`person`; classes whose names differ by case alone count together), and
    the columns of one detection (`class`, `score`, `x1`, ...). A frame is found where one of its
    detections, or the frame alone if it has none, fulfils it.

    Args:
        folder: output of `yolox_trt batch detect`.
        where: the condition.
        limit: as many at most.

    Raises:
        ConfigurationError: no such folder, or a condition that DuckDB does not understand.
        MissingDependencyError: DuckDB or PyArrow is missing.
    """
    duckdb = require("duckdb", purpose="--where")
    pa = require("pyarrow", purpose="Parquet")
    done = [r for r in read_manifest(folder, ".parquet")[1] if r["state"] == DONE]
    tables, names = [], dict[str, None]()
    for record in done:
        table, classes = read_table(record["file"])
        tables.append(table.replace_schema_metadata(None))
        names |= dict.fromkeys(classes)
        names |= dict.fromkeys(_found_classes(table))
    if not tables:
        return []
    with duckdb.connect(":memory:") as connection:
        connection.register("parts", pa.concat_tables(tables))
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        connection.execute(_view(names))
        text = (
            "SELECT * FROM parts WHERE (source, part, frame) IN (SELECT (source, part, frame) "
            f"FROM each_detection WHERE ({where}\n)) ORDER BY source, part, frame"
            + (f" LIMIT {limit}" if limit else "")
        )
        with ConfigurationError.instead_of(
            duckdb.Error,
            f"the condition '{where}', which DuckDB refuses",
            expected=f"SQL over {', '.join((*_OF_FRAME, 'detections', *_OF_DETECTION))} and the "
            f"classes {', '.join(list(names)[:10])}{', ...' if len(names) > 10 else ''}",
            fix='put names that have blanks into double quotes: "traffic light" > 2',
        ):
            if len(connection.extract_statements(text)) != 1:
                raise duckdb.ParserException("more than one statement")
            found: list[Row] = connection.sql(text).to_arrow_table().to_pylist()
            return found


def _found_classes(table: Any) -> list[str]:
    """Return the names in a table, which a model without class names has too."""
    compute = require("pyarrow.compute")
    found = compute.struct_field(compute.list_flatten(table["detections"]), "class")
    return sorted(compute.unique(found).to_pylist())


def _view(names: Iterable[str]) -> str:
    """Return the statement that makes `each_detection`: a row each, and one of an empty frame."""
    taken = {*_OF_FRAME, *_OF_DETECTION, "detections"}
    columns: dict[str, list[str]] = {}
    for name in names:  # SQL tells no names apart by the case of their letters A to Z
        columns.setdefault(name.translate(_LOWER), []).append(name)
    counts = [
        f"len(list_filter(parts.detections, lambda d: d.class IN ({', '.join(map(_text, same))}))) "
        f"AS {_name(same[0])}"
        for lower, same in columns.items()
        if lower and lower not in taken  # SQL has no empty names
    ]
    frame = ", ".join(
        [*(f"parts.{name}" for name in _OF_FRAME), "len(parts.detections) AS detections", *counts]
    )
    one = ", ".join(f"one.{_name(name)} AS {_name(name)}" for name in _OF_DETECTION)
    rows = "CASE WHEN len(parts.detections) = 0 THEN [NULL] ELSE parts.detections END"
    return (
        f"CREATE VIEW each_detection AS SELECT * EXCLUDE (one), {one} FROM "
        f"(SELECT {frame}, unnest({rows}) AS one FROM parts)"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def keep(rows: Sequence[Row], path: Path, *, on_progress: Progress = no_progress) -> int:
    """Write frames to a new bag, with their detections beside them; return how many.

    Messages of bags are copied as they are, images of files and videos become CompressedImage on
    /images.

    Args:
        rows: of `find`.
        path: of the new bag.
        on_progress: told of every source.

    Raises:
        ConfigurationError: the bag is there already, or a source is gone or has changed; no bag is
            left then.
    """
    topics = sorted({row["topic"] or _TOPIC for row in rows})
    classes: dict[int, str] = {}
    for row in rows:
        classes |= {each["class_id"]: each["class"] for each in row["detections"]}
    kept = 0
    with DetectionBagWriter(path, topics, classes) as writer:
        sources = groupby(rows, key=lambda row: row["source"])
        for done, (source, of_source) in enumerate(sources, start=1):
            wanted = list(of_source)
            if wanted[0]["topic"] is not None:
                kept += _keep_messages(writer, source, wanted)
            else:
                kept += _keep_images(writer, source, wanted, kept)
            on_progress("keeping sources", done, None)
        if kept != len(rows):  # the bag does not come into its place
            raise ConfigurationError(
                f"{kept} of the {len(rows)} frames for '{path}'",
                expected="all of them in the sources, as they were",
                fix="bring the sources back, or make the detections anew",
            )
    return kept


def _keep_messages(writer: DetectionBagWriter, source: str, rows: Sequence[Row]) -> int:
    times = {(row["topic"], row["received_ns"]): row for row in rows}
    span = min(row["received_ns"] for row in rows), max(row["received_ns"] for row in rows) + 1
    reader = open_reader(place_of(source))
    try:
        topics = {row["topic"] for row in rows}
        connections = [each for each in reader.connections if each.topic in topics]
        if video := [each for each in connections if BY_TYPE[each.msgtype].video]:
            raise ConfigurationError(
                f"frames of {video[0].topic} in '{source}', which is {video[0].msgtype}",
                expected="topics whose messages can be decoded one by one",
                fix=f"leave them out of the condition: topic <> '{video[0].topic}'",
            )
        kept = 0
        for connection, timestamp, raw in read_messages(reader, connections, span):
            row = times.get((connection.topic, timestamp))
            if row is not None:
                writer.copy(connection, timestamp, raw)
                writer.write(frame_of(row), detections_of(row))
                kept += 1
        return kept
    finally:
        reader.close()


def _keep_images(writer: DetectionBagWriter, source: str, rows: Sequence[Row], before: int) -> int:
    files = tuple(row["file"] for row in rows if row["file"])
    part = Part(source, IMAGES if files else VIDEO, files=files)
    wanted = {row["file"] or row["frame"]: row for row in rows}
    kept = 0
    with open_part(part) as images:
        for number, image in enumerate(images):
            row = wanted.get(image.stream_id if files else number)
            if row is None:
                continue
            at = row["stamp_ns"] or int((before + kept) / FILE_RATE * 1e9)
            frame = frame_of({**row, "topic": _TOPIC, "received_ns": at, "stamp_ns": at})
            encoded = cv2.imencode(".png", image.rows)[1].tobytes()
            writer.write_image(frame, encoded, "png")
            writer.write(frame, detections_of(row))
            kept += 1
    return kept
