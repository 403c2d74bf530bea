# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Manifest: which parts are done, with which model and options, in a Parquet file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yolox_trt.batch.job import Job, Outcome
from yolox_trt.batch.places import Place, make_folder, read_parquet, write_whole
from yolox_trt.batch.plan import Part
from yolox_trt.core.documents import parse_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.limits import is_name
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import json_text

WAITING, DONE, FAILED = "waiting", "done", "failed"
_DESCRIPTION = b"yolox_trt.job"
_FILE = "manifest.parquet"
_COUNTS = ("number", "files", "frames", "refused", "attempts")
#: Seconds between two writings while parts are finished.
_PERIOD = 5.0

Record = dict[str, Any]


class Manifest:
    """The records of all parts of an output folder, of this run and of those before.

    A part is `done` when its file is there, whole. Where a run was killed before it could write
    that down, the next one makes the same file again in its place.

    Args:
        folder: of the output; it is made if need be.
        job: what is done.

    Attributes:
        records: part's id -> its record, in the order of the plans.

    Raises:
        ConfigurationError: the folder holds something else, or the work of another model or of
            other options.
    """

    def __init__(self, folder: Place, job: Job) -> None:
        self.folder = folder
        self._suffix = job.suffix
        self._description = parse_json(json_text(job.description()))
        self.records: dict[str, Record] = {}
        self._written = 0.0
        make_folder(folder / "parts")
        if (folder / _FILE).exists():
            description, records = _read(folder / _FILE)
            self._refuse_other(description)
            self.records = {record["part"]: record for record in records}
        elif any(folder.glob("parts/*")):
            raise ConfigurationError(
                f"'{folder}', which has parts and no {_FILE}",
                expected="an empty folder, or that of an earlier run",
                fix="give another folder for the output",
            )

    def add(self, parts: Sequence[Part]) -> list[Part]:
        """Note the parts that are to be done; return those that are not done yet.

        Raises:
            ConfigurationError: a source is not what it was in an earlier run.
        """
        new = {part.id: part for part in parts}
        sources = {part.source for part in parts}
        for id_, record in self.records.items():
            if record["source"] in sources and id_ not in new:
                raise ConfigurationError(
                    f"source '{record['source']}', which has changed since an earlier run, or is "
                    "cut otherwise",
                    expected="the same files as before, or other sources",
                    fix="give another folder for the output",
                )
        for id_, part in new.items():
            if id_ not in self.records:
                self.records[id_] = _record(part)
        self.save()
        return [part for part in parts if self.records[part.id]["state"] != DONE]

    def take(self, outcome: Outcome) -> None:
        """Write the file of a part that is done, or why it failed.

        Raises:
            OSError: the file cannot be written: no space, for instance. The part stays as it was.
        """
        record = self.records[outcome.part.id]
        if outcome.data is not None:
            write_whole(self.place_of(record), outcome.data)
        record |= {
            "state": FAILED if outcome.data is None else DONE,
            "frames": outcome.frames,
            "refused": outcome.refused,
            "error": outcome.error,
            "attempts": record["attempts"] + 1,
            "seconds": outcome.seconds,
        }
        if time.monotonic() - self._written > _PERIOD:
            self.save()

    def place_of(self, record: Mapping[str, Any]) -> Place:
        """Return the place of a part's file."""
        return self.folder / "parts" / f"{record['part']}{self._suffix}"

    def done(self) -> Iterator[tuple[Record, Place]]:
        """Yield the parts that are done, with their files, in the order of the plans."""
        for record in self.records.values():
            if record["state"] == DONE:
                yield record, self.place_of(record)

    def save(self) -> None:
        """Write the manifest.

        Raises:
            OSError: it cannot be written.
        """
        pa, pq = require("pyarrow", purpose="Parquet"), require("pyarrow.parquet")
        columns = _columns({_DESCRIPTION: json_text(self._description).encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(self.records.values()), schema=columns), sink)
        write_whole(self.folder / _FILE, sink.getvalue().to_pybytes())
        self._written = time.monotonic()

    def _refuse_other(self, before: Mapping[str, Any]) -> None:
        now = self._description
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if not names:
            return
        shown = ", ".join(f"{name} {before.get(name)!r:.60}" for name in names[:5])
        raise ConfigurationError(
            f"'{self.folder}', which holds the work of another run: {shown}",
            expected=", ".join(f"{name} {now.get(name)!r:.60}" for name in names[:5]),
            fix="give another folder for the output, or the same model and options as before",
        )


def read_manifest(folder: Place, suffix: str) -> tuple[dict[str, Any], list[Record]]:
    """Return the description and the records of an output folder, each with its `file`.

    Raises:
        ConfigurationError: there is no manifest, or it cannot be read.
    """
    description, records = _read(folder / _FILE)
    for record in records:
        record["file"] = folder / "parts" / f"{record['part']}{suffix}"
    return description, records


def _read(place: Place) -> tuple[dict[str, Any], list[Record]]:
    pa = require("pyarrow", purpose="Parquet")
    with ConfigurationError.instead_of(
        (*FILE_ERRORS, pa.ArrowException),
        f"manifest '{place}' that cannot be read",
        expected="the folder of an earlier `yolox_trt batch`",
        fix="check the path, or give another folder",
    ):
        table = read_parquet(place, _columns())
        description = parse_json((table.schema.metadata or {})[_DESCRIPTION].decode())
        records = table.to_pylist()
        if not isinstance(description, dict):
            raise ValueError(f"a description {description!r:.80}")
        for record in records:
            if not is_name(record["part"] or "") or "/" in record["part"]:
                raise ValueError(f"part {record['part']!r:.80}")
            if not all(0 <= (record[name] or 0) < 2**53 for name in _COUNTS):
                raise ValueError(f"counts of part '{record['part']}' that are none")
            if missing := [name for name, value in record.items() if value is None]:
                raise ValueError(f"part '{record['part']}' without {missing[0]}")
        return description, records


def _columns(metadata: Mapping[bytes, bytes] | None = None) -> Any:
    pa = require("pyarrow", purpose="Parquet")
    return pa.schema(
        [
            *((name, pa.string()) for name in ("part", "source", "kind")),
            *((name, pa.int64()) for name in ("number", "start", "stop", "files")),
            ("state", pa.string()),
            *((name, pa.int64()) for name in ("frames", "refused", "attempts")),
            ("seconds", pa.float64()),
            ("error", pa.string()),
        ],
        metadata=metadata,
    )


def _record(part: Part) -> Record:
    return {
        "part": part.id,
        "source": part.source,
        "kind": part.kind,
        "number": part.number,
        "start": part.span[0],
        "stop": part.span[1],
        "files": len(part.files),
        "state": WAITING,
        "frames": 0,
        "refused": 0,
        "attempts": 0,
        "seconds": 0.0,
        "error": "",
    }
