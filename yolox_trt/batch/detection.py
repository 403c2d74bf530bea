# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Detections of each frame of a part, as Parquet."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.api.detector import Detector
from yolox_trt.api.result import Result
from yolox_trt.batch.frames import Frames, open_part, pieces
from yolox_trt.batch.job import Job, Outcome, Worker
from yolox_trt.batch.places import Place, read_parquet
from yolox_trt.batch.plan import BAG, IMAGES, Part
from yolox_trt.core.detections import Detections
from yolox_trt.core.device import Device
from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.frame import Frame
from yolox_trt.core.option import options_of
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import json_text
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.core.zones import Zones
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.engines.engine_file import is_engine_file, sidecar_path
from yolox_trt.engines.fingerprint import external_files, file_sha256, model_sha256
from yolox_trt.engines.onnxruntime import available_cores
from yolox_trt.tracking.options import TrackingOptions

Row = dict[str, Any]
#: Where the detections do not depend on them: how fast, and where.
_NO_MATTER = ("model", "device", "engine_cache", "threads", "latency", "contention")
#: Threads that decode for a GPU, where nobody says: each holds two images.
MOST_READERS = 32
_NAMES = b"yolox_trt.class_names"


#: Columns that some rows have nothing in.
_OPTIONAL = ("topic", "file", "image_id")
#: Column -> what its values must be, first and last. A stamp's seconds have 32 bits in ROS.
_RANGES = {
    "part": (0, 2**31 - 1),
    "frame": (0, 2**31 - 1),
    "stamp_ns": (-(2**31) * 10**9, 2**31 * 10**9 - 1),
    "received_ns": (0, 2**63 - 1),
    "height": (1, 2**31 - 1),
    "width": (1, 2**31 - 1),
    "class_id": (0, 2**31 - 1),
}


def schema() -> Any:
    """Return the columns of a part's table, a frame a row, in the order of the source.

    `frame` counts the part's frames from 0 on; `received_ns` is the bag's time of recording.
    """
    pa = require("pyarrow", purpose="Parquet")
    edges = [(edge, pa.float32()) for edge in ("x1", "y1", "x2", "y2")]
    detection = pa.struct(
        [("class_id", pa.int32()), ("class", pa.string()), ("score", pa.float32()), *edges]
    )
    return pa.schema(
        [
            ("source", pa.string()),
            ("part", pa.int32()),
            ("frame", pa.int32()),
            ("topic", pa.string()),
            ("frame_id", pa.string()),
            ("stamp_ns", pa.int64()),
            ("received_ns", pa.int64()),
            ("file", pa.string()),
            ("image_id", pa.int64()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("detections", pa.list_(detection)),
        ]
    )


@dataclass(frozen=True)
class DetectJob(Job):
    """Detects in every frame.

    Attributes:
        detector: its model is a file.
        thresholds: what counts as a detection.
        zones: where it does.
        classes: the only ones, by name or number; empty for all.
        readers: threads of a worker that decode image files; None: as many as there are cores,
            where a GPU would wait for one.
    """

    detector: DetectorOptions
    thresholds: ThresholdOptions
    zones: Zones = field(default_factory=Zones)
    classes: tuple[str | int, ...] = ()
    readers: int | None = None
    suffix = ".parquet"

    @property
    def model(self) -> Path:
        """The model's file."""
        return Path(str(self.detector.source))

    def description(self) -> Mapping[str, Any]:
        """Return the model's hash, and every option that changes a detection."""
        described: dict[str, Any] = {"job": "detect", "model": hash_of(self.model)}
        for group in (self.detector, self.thresholds, self.zones):
            for name in options_of(type(group)):
                if name not in _NO_MATTER:
                    described[name] = parse_json(json_text(getattr(group, name)))
        return {**described, "classes": list(self.classes)}

    def files(self) -> Mapping[str, Path]:
        """Return the model and what belongs to it."""
        return files_of(self.model)

    def with_files(self, folder: Path) -> DetectJob:
        """Return the job with its model in that folder."""
        return replace(self, detector=replace(self.detector, model=folder / self.model.name))

    @contextlib.contextmanager
    def open(self) -> Iterator[Finder]:
        """Load the model."""
        options = replace(self.detector, exact_sizes=True)
        with Detector.of(
            options, self.thresholds, TrackingOptions(), self.zones, classes=self.classes
        ) as detector:
            own = 1 if detector.device == "cpu" else min(available_cores(), MOST_READERS)
            yield Finder(detector, self.multiple, self.readers or own)

    @property
    def device(self) -> Device | None:
        """The detector's."""
        return self.detector.device

    @property
    def multiple(self) -> int:
        """Images of a detector's batch, as far as the options tell."""
        return self.detector.max_batch or 1


class Finder(Worker):
    """Detects in parts.

    Args:
        detector: what detects.
        multiple: see frames.pieces.
        readers: see frames.open_part.

    Attributes:
        names: of the model's classes.
    """

    def __init__(self, detector: Detector, multiple: int, readers: int = 1) -> None:
        self._detector, self._multiple, self._readers = detector, multiple, readers
        self.names = detector.names

    def work(self, part: Part) -> Outcome:
        """Return the table of a part."""
        begin, found = time.perf_counter(), []
        with open_part(part, self._readers) as source:
            for piece in pieces(source, self._multiple):
                found += self.find(piece)
            refused = source.refused
        outcome = table_outcome(part, found, refused, self.names)
        return replace(outcome, seconds=time.perf_counter() - begin)

    def find(self, frames: Sequence[Frame]) -> list[Row]:
        """Return a row for each frame, without what the part adds."""
        return [
            _row(frame, result)
            for frame, result in zip(
                frames, self._detector(Frames(frames), stream=True), strict=True
            )
        ]


def _row(frame: Frame, result: Result) -> Row:
    found = result.detections
    columns = (found.class_ids.tolist(), result.names, found.scores.tolist(), found.boxes.tolist())
    return {
        "name": frame.stream_id,
        "frame_id": frame.frame_id,
        "stamp_ns": frame.stamp_ns,
        "received_ns": frame.received_ns,
        "height": frame.height,
        "width": frame.width,
        "detections": [
            {"class_id": id_, "class": name, "score": score, "x1": x1, "y1": y1, "x2": x2, "y2": y2}
            for id_, name, score, (x1, y1, x2, y2) in zip(*columns, strict=True)
        ],
    }


def table_outcome(part: Part, rows: Sequence[Row], refused: int, names: Sequence[str]) -> Outcome:
    """Return the outcome of a part whose rows are all there: the same bytes in every run.

    Args:
        part: the part.
        rows: of all its frames, in order.
        refused: images that could not be read.
        names: of the model's classes.
    """
    pa, pq = require("pyarrow", purpose="Parquet"), require("pyarrow.parquet")
    ids = dict(zip(part.files, part.image_ids, strict=False))
    places = {file: index for index, file in enumerate(part.files)}
    full = []
    for index, row in enumerate(rows):
        name = row["name"]
        is_file = part.kind == IMAGES
        full.append(
            {
                **{key: value for key, value in row.items() if key != "name"},
                "source": part.source,
                "part": part.number,
                "frame": places[name] if is_file else index,
                "topic": name if part.kind == BAG else None,
                "file": name if is_file else None,
                "image_id": ids.get(name),
            }
        )
    table = pa.Table.from_pylist(full, schema=schema())
    table = table.replace_schema_metadata({_NAMES: json.dumps(list(names)).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return Outcome(part, sink.getvalue().to_pybytes(), len(rows), refused)


def read_table(place: Place) -> tuple[Any, tuple[str, ...]]:
    """Return the table of a part's file, and the names of the model's classes.

    Raises:
        ConfigurationError: it is something else, or cannot be read.
    """
    pa = require("pyarrow", purpose="Parquet")
    with ConfigurationError.instead_of(
        (*FILE_ERRORS, pa.ArrowException),
        f"'{place}', which holds no detections of a part",
        expected="what `yolox_trt batch detect` has written",
        fix="remove the file and the manifest's line, or run again in another folder",
    ):
        table = read_parquet(place, schema())
        _check_values(table)
        names = parse_json((table.schema.metadata or {})[_NAMES].decode())
        return table, tuple(map(str, names))


def _check_values(table: Any) -> None:
    """Refuse values that no part has: those of the columns, and of what each detection consists.

    Raises:
        ValueError: one that is missing, or out of its range.
    """
    compute = require("pyarrow.compute", purpose="Parquet")
    found = compute.list_flatten(table["detections"])
    columns = {name: table[name] for name in table.schema.names if name not in _OPTIONAL}
    columns |= {field.name: compute.struct_field(found, field.name) for field in found.type}
    for name, column in columns.items():
        if column.null_count:
            raise ValueError(f"{column.null_count} rows without a value of {name}")
        low, high = _RANGES.get(name, (None, None))
        if low is not None and len(column):
            ends = compute.min_max(column).as_py()
            if ends["min"] < low or ends["max"] > high:
                raise ValueError(f"{name} from {ends['min']} to {ends['max']}")


def detections_of(row: Row) -> Detections:
    """Return the detections of a row of a part's table."""
    found = row["detections"]
    boxes = [[each[edge] for edge in ("x1", "y1", "x2", "y2")] for each in found]
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array([each["score"] for each in found], np.float32),
        class_ids=np.array([each["class_id"] for each in found], np.int32),
    )


def files_of(model: Path) -> dict[str, Path]:
    """Return the files of a model by their paths from its folder: itself, and what it reads."""
    if is_engine_file(model):
        names = [name for name in (sidecar_path(model).name,) if (model.parent / name).is_file()]
    else:
        names = external_files(model)
    return {name: model.parent / name for name in (model.name, *names)}


def hash_of(model: Path) -> str:
    """Return the SHA-256 of a model with all of its files, in hexadecimal."""
    if is_engine_file(model):
        return file_sha256(model)
    return model_sha256(model, external_files(model))
