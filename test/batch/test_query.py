# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Conditions on detections, and bags of the frames that fulfil them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolox_trt.batch import places
from yolox_trt.batch.detection import DetectJob, read_table, table_outcome
from yolox_trt.batch.exports import write_bags, write_coco
from yolox_trt.batch.job import Outcome
from yolox_trt.batch.manifest import Manifest
from yolox_trt.batch.options import RunOptions, SourceOptions
from yolox_trt.batch.plan import BAG, Part, plan_parts
from yolox_trt.batch.query import find, keep
from yolox_trt.batch.run import run
from yolox_trt.cli.main import main
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.ros.tools.bag import ImageBag, open_reader

BOX = {"class_id": 0, "class": "car", "score": 0.5, **dict.fromkeys(("x1", "y1", "x2", "y2"), 1.0)}
ROW = {
    **{"name": "/a", "frame_id": "", "stamp_ns": 0, "received_ns": 0, "height": 4, "width": 5},
    "detections": [BOX],
}


@pytest.fixture(scope="module")
def found(drives: Path, job: DetectJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("found")
    sources = [str(drives / name) for name in ("day", "pictures")]
    job = replace(job, thresholds=ThresholdOptions(score_threshold=0.3))
    run(job, plan_parts(sources, SourceOptions(part_frames=3)), folder, RunOptions())
    return folder


def test_a_condition_is_held_against_each_detection_and_its_frame(found: Path) -> None:
    every = find(found, "true")
    assert len(every) == 8 + 3
    for where, fulfils in {
        "class4 > 3": lambda row, each: _count(row, "class4") > 3,
        "class4 > 3 and score < 0.4": lambda row, each: (
            _count(row, "class4") > 3 and each["score"] < np.float32(0.4)
        ),
        "class = 'class1'": lambda row, each: each["class"] == "class1",
        "detections > 5 and topic like '/front%'": lambda row, each: (
            len(row["detections"]) > 5 and (row["topic"] or "").startswith("/front")
        ),
        "x2 - x1 > 40": lambda row, each: each["x2"] - each["x1"] > 40,
    }.items():
        expected = [row for row in every if any(fulfils(row, d) for d in row["detections"])]
        assert find(found, where) == expected, where
    assert find(found, "true", limit=2) == every[:2]


def _count(row: dict, name: str) -> int:
    return sum(each["class"] == name for each in row["detections"])


@pytest.mark.parametrize(
    "where", ["person >", "lorries > 3", "true); DROP VIEW each_detection; SELECT (1",
              "source = (SELECT content FROM read_text('/etc/passwd'))"]
)  # fmt: skip
def test_what_is_no_condition_is_refused(found: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)which DuckDB refuses.*class0, class1"):
        find(found, where)


def test_kept_frames_are_those_of_the_sources(found: Path, drives: Path, tmp_path: Path) -> None:
    rows = find(found, "frame = 1")
    assert {Path(row["source"]).name for row in rows} == {"day", "pictures"}
    assert keep(rows, tmp_path / "kept") == len(rows)
    kept, day = ImageBag(tmp_path / "kept"), ImageBag(drives / "day")
    wanted = {(row["topic"], row["received_ns"]) for row in rows}
    originals = [frame for frame in day if (frame.stream_id, frame.received_ns) in wanted]
    frames = [frame for frame in kept if frame.stream_id != "/images"]
    for original, frame in zip(originals, frames, strict=True):
        assert np.array_equal(original.data, frame.data)
        assert (original.stamp_ns, original.frame_id) == (frame.stamp_ns, frame.frame_id)
    kept.close(), day.close()
    reader = open_reader(tmp_path / "kept")
    counts = {each.topic: each.msgcount for each in reader.connections}
    reader.close()
    assert sum(n for topic, n in counts.items() if topic.endswith("detections")) == len(rows)
    with pytest.raises(ConfigurationError, match="it is there already"):
        keep(rows, tmp_path / "kept")


def test_no_bag_is_left_where_a_frame_is_missing(found: Path, tmp_path: Path) -> None:
    rows = find(found, "frame = 1")
    rows[0] = {**rows[0], "received_ns": rows[0]["received_ns"] + 1}
    with pytest.raises(ConfigurationError, match=rf"{len(rows) - 1} of the {len(rows)} frames"):
        keep(rows, tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_classes_that_differ_by_case_count_together(tmp_path: Path, job: DetectJob) -> None:
    names = ("Car", "car", "CAR", "\u00c4", "\u00e4", "Score")
    parts = [Part("drive", BAG, number) for number in range(2)]
    manifest = Manifest(tmp_path, job)
    manifest.add(parts)
    edges = dict.fromkeys(("x1", "y1", "x2", "y2"), 1.0)
    for part, classes in zip(parts, (("Car", "car", "\u00e4"), ("CAR", "Score")), strict=True):
        found = [{"class_id": 0, "class": name, "score": 0.5, **edges} for name in classes]
        row = {**ROW, "detections": found}
        manifest.take(table_outcome(part, [row], 0, names))
    manifest.save()
    for where, numbers in {
        "car = 2": [0],
        '"CAR" = 1': [1],
        "class = 'car'": [0],
        '"\u00e4" = 1 and "\u00c4" = 0': [0],
        "score = 0.5 and car > 0": [0, 1],
    }.items():
        assert [row["part"] for row in find(tmp_path, where)] == numbers, where


def test_the_command_tells_what_was_found(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "query", str(found), "--where", "frame = 1"]) == 0
    assert "/image_raw" in capsys.readouterr().out
    assert main(["batch", "query", str(found), "--where", "false"]) == 1
    assert main(["batch", "query", "/nowhere", "--where", "true"]) == 2
    assert "manifest '/nowhere/manifest.parquet' that cannot be read" in capsys.readouterr().err


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path: Path, job: DetectJob) -> None:
    manifest = Manifest(tmp_path / "out", job)
    manifest.add([part := Part("drive", BAG)])
    manifest.records[part.id]["part"] = "../../secret"
    manifest.save()
    with pytest.raises(ConfigurationError, match=r"'\.\./\.\./secret'.*expected"):
        find(tmp_path / "out", "true")


def test_results_that_are_none_are_refused(tmp_path: Path, job: DetectJob) -> None:
    manifest = Manifest(tmp_path, job)
    manifest.add([part := Part("drive", BAG)])
    manifest.take(Outcome(part, b"no Parquet"))
    manifest.save()
    with pytest.raises(ConfigurationError, match="no detections of a part"):
        find(tmp_path, "true")


def part_of(folder: Path, job: DetectJob, row: dict) -> Manifest:
    """Write the results of one frame."""
    manifest = Manifest(folder, job)
    manifest.add([part := Part("drive", BAG)])
    manifest.take(table_outcome(part, [row], 0, ("car",)))
    manifest.save()
    return manifest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"detections": None}, "without a value of detections"),
        ({"detections": [None]}, "without a value of class_id"),
        ({"detections": [BOX | {"class": None}]}, "without a value of class"),
        ({"detections": [BOX | {"score": None}]}, "without a value of score"),
        ({"detections": [BOX | {"class_id": -5}]}, "class_id from -5 to -5"),
        ({"height": None}, "without a value of height"),
        ({"height": 0}, "height from 0"),
        ({"stamp_ns": -(2**63)}, "stamp_ns from -9223372036854775808"),
        ({"received_ns": -1}, "received_ns from -1"),
    ],
)
def test_values_that_no_part_has_are_refused(
    tmp_path: Path, job: DetectJob, change: dict, reason: str
) -> None:
    manifest = part_of(tmp_path, job, ROW | change)
    for read in (lambda: find(tmp_path, "true"), lambda: write_coco(manifest, tmp_path / "a.json")):
        with pytest.raises(ConfigurationError, match=f"no detections of a part .*{reason}"):
            read()


def test_a_class_takes_no_memory_for_those_below_it(
    tmp_path: Path, drives: Path, job: DetectJob
) -> None:
    highest = 2**31 - 1
    manifest = part_of(tmp_path / "out", job, ROW | {"detections": [BOX | {"class_id": highest}]})
    write_coco(manifest, tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    assert [each["category_id"] for each in document["annotations"]] == [highest]
    assert document["categories"] == [
        {"id": 0, "name": "car"}, {"id": highest, "name": str(highest)}
    ]  # fmt: skip
    (row,) = find(tmp_path / "out", "true")
    with closing(ImageBag(drives / "day", ("/front/image_raw",))) as bag:
        frame = next(iter(bag))
    row = {
        **row, "source": str(drives / "day"), "topic": frame.stream_id,
        "received_ns": frame.received_ns,
    }  # fmt: skip
    assert keep([row], tmp_path / "kept") == 1


def test_a_manifest_with_a_missing_value_is_refused(tmp_path: Path, job: DetectJob) -> None:
    manifest = part_of(tmp_path, job, ROW)
    next(iter(manifest.records.values()))["refused"] = None
    manifest.save()
    with pytest.raises(ConfigurationError, match="without refused"):
        find(tmp_path, "true")


def test_results_without_an_end_are_not_read(tmp_path: Path, job: DetectJob) -> None:
    manifest = part_of(tmp_path, job, ROW)
    for file in (tmp_path / "manifest.parquet", next(tmp_path.glob("parts/*"))):
        sound = file.read_bytes()
        with file.open("wb") as end:
            end.truncate(50 << 30)
        with pytest.raises(ConfigurationError, match=r"more than 1073741824 bytes"):
            find(tmp_path, "true")
        file.write_bytes(sound)
    assert len(find(tmp_path, "true")) == len(list(manifest.done()))


def test_texts_that_grow_when_they_are_read_are_refused(
    tmp_path: Path, job: DetectJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes its bytes once in the file: 20 KB stand for 4 MB here, and may for a terabyte."""
    manifest = Manifest(tmp_path, job)
    manifest.add([part := Part("drive", BAG)])
    rows = [ROW | {"frame_id": "x" * 1000, "detections": [BOX | {"class": "y" * 1000}]}] * 2000
    manifest.take(table_outcome(part, rows, 0, ("car",)))
    manifest.save()
    ((_, place),) = manifest.done()
    assert place.stat().st_size < 40_000
    assert read_table(place)[0].num_rows == 2000
    for limit, most in (("result_bytes", 4_000_000), ("result_values", 35_000)):
        with monkeypatch.context() as patch:
            patch.setattr(places, "LIMITS", replace(LIMITS, **{limit: most}))
            with pytest.raises(ConfigurationError, match=f"more than {most} "):
                read_table(place)


def test_texts_that_are_none_are_refused(tmp_path: Path, job: DetectJob) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    manifest = part_of(tmp_path, job, ROW)
    ((_, place),) = manifest.done()
    table = pq.read_table(place)
    text = pa.array([b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("frame_id"), "frame_id", text), place)
    for read in (lambda: find(tmp_path, "true"), lambda: write_coco(manifest, tmp_path / "a.json")):
        with pytest.raises(ConfigurationError, match=r"no detections of a part .*UTF8"):
            read()


def test_a_class_without_a_name_is_no_column(tmp_path: Path, job: DetectJob) -> None:
    part_of(tmp_path, job, ROW | {"detections": [BOX | {"class": ""}]})
    assert len(find(tmp_path, "car = 0 and class = ''")) == 1


def test_a_bag_of_frames_without_a_topic_is_refused(tmp_path: Path, job: DetectJob) -> None:
    manifest = part_of(tmp_path / "out", job, ROW | {"name": None})
    with pytest.raises(ConfigurationError, match="1 frames of bag 'drive' without a topic"):
        write_bags(manifest, tmp_path)


@pytest.mark.parametrize("name", ["attempts", "refused"])
def test_a_manifest_with_counts_that_are_none_is_refused(
    tmp_path: Path, job: DetectJob, name: str
) -> None:
    manifest = part_of(tmp_path, job, ROW)
    next(iter(manifest.records.values()))[name] = 2**63 - 1
    manifest.save()
    with pytest.raises(ConfigurationError, match=r"counts of part .* that are none"):
        Manifest(tmp_path, job)
