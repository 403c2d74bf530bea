# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in this process: whole parts, a manifest, and no frame lost or done twice."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import yolox_trt
from yolox_trt.batch import manifest as manifests
from yolox_trt.batch.detection import DetectJob, detections_of
from yolox_trt.batch.exports import write_bags, write_coco
from yolox_trt.batch.job import Outcome, in_this_process
from yolox_trt.batch.manifest import DONE, FAILED, WAITING, read_manifest
from yolox_trt.batch.options import RunOptions, SourceOptions
from yolox_trt.batch.plan import Part, plan_parts
from yolox_trt.batch.ray_cluster import _Actor
from yolox_trt.batch.run import cost_text, run
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.ros.tools.bag import open_reader
from yolox_trt.ros.tools.bag_types import DETECTIONS_TYPE

ONCE = RunOptions(retries=0)


@pytest.fixture(scope="module")
def parts(drives: Path) -> list[Part]:
    sources = [str(drives), str(drives / "pictures")]
    return plan_parts(sources, SourceOptions(part_frames=3))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "parts").iterdir()}


@pytest.fixture(scope="module")
def whole(parts: list[Part], job: DetectJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    summary = run(job, parts, folder, ONCE)
    assert summary.frames == 8 + 4 + 3 and summary.refused == 1
    assert list(summary.failures) == [part.id for part in parts if "broken" in part.source]
    assert summary.status == 1
    return folder


def test_every_frame_has_what_the_detector_finds_in_it(
    whole: Path, drives: Path, model: Path
) -> None:
    with yolox_trt.Detector(model, device="cpu", score=0.05, threads=1) as detector:
        for name in ("day", "night", "pictures"):
            rows = [
                row
                for record in read_manifest(whole, ".parquet")[1]
                if Path(record["source"]).name == name
                for row in pq.read_table(record["file"]).to_pylist()
            ]
            results = detector(str(drives / name))
            assert len(rows) == len(results)
            for row, result in zip(rows, results, strict=True):
                found = detections_of(row)
                assert np.array_equal(found.boxes, result.boxes)
                assert np.array_equal(found.scores, result.scores)
                assert [each["class"] for each in row["detections"]] == result.names
                assert row["topic" if name != "pictures" else "file"] == result.path


def test_the_manifest_says_what_was_done(whole: Path, model: Path) -> None:
    description, records = read_manifest(whole, ".parquet")
    assert description["job"] == "detect" and len(description["model"]) == 64
    assert description["score_threshold"] == pytest.approx(0.05)
    states = {Path(each["source"]).name: each for each in records}
    assert states["broken.mcap"]["state"] == FAILED
    assert "that cannot be read" in states["broken.mcap"]["error"]
    assert states["pictures"]["state"] == DONE
    assert sum(each["frames"] for each in records) == 15
    assert sum(each["refused"] for each in records) == 1


def test_a_run_goes_on_where_an_earlier_one_was_interrupted(
    whole: Path, parts: list[Part], job: DetectJob, tmp_path: Path
) -> None:
    seen: list[str] = []

    def interrupted(job, todo):
        for count, outcome in enumerate(in_this_process(job, todo)):
            if count == 2:
                raise KeyboardInterrupt
            seen.append(outcome.part.id)
            yield outcome

    with pytest.raises(KeyboardInterrupt):
        run(job, parts, tmp_path, ONCE, runner=interrupted)
    states = [each["state"] for each in read_manifest(tmp_path, ".parquet")[1]]
    assert states.count(WAITING) == len(parts) - 2

    def counted(job, todo):
        for outcome in in_this_process(job, todo):
            seen.append(outcome.part.id)
            yield outcome

    summary = run(job, parts, tmp_path, ONCE, runner=counted)
    assert files(tmp_path) == files(whole)
    assert summary.before == sum(1 for part in seen[:2] if "broken" not in part)
    broken = next(part.id for part in parts if "broken" in part.source)
    assert sorted(set(seen)) == sorted(part.id for part in parts)
    assert all(seen.count(part) == 1 for part in seen if part != broken)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").iterdir()}
    again = run(job, parts, tmp_path, ONCE)
    assert (again.frames, again.before) == (0, len(parts) - 1)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").iterdir()} == before


def test_a_full_disk_ends_the_run_and_loses_nothing(
    whole: Path,
    parts: list[Part],
    job: DetectJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = tmp_path / "out"
    write = manifests.write_whole
    written: list[Path] = []

    def no_space(place: Path, data: bytes) -> None:
        if len(written) > 3:
            with open("/dev/full", "wb", buffering=0) as disk:
                disk.write(data)
        written.append(place)
        write(place, data)

    with monkeypatch.context() as patched:
        patched.setattr(manifests, "write_whole", no_space)
        with pytest.raises(OSError, match="No space left"):
            run(job, parts, full, ONCE)
    assert 0 < len(files(full)) < len(files(whole))
    run(job, parts, full, ONCE)
    assert files(full) == files(whole)


def test_a_part_that_fails_is_tried_again_after_the_others(
    whole: Path, parts: list[Part], job: DetectJob, tmp_path: Path
) -> None:
    order: list[str] = []

    def shaky(job, todo):
        for outcome in in_this_process(job, todo):
            first = outcome.part.id not in order
            order.append(outcome.part.id)
            if "night" in outcome.part.source and first:
                outcome = replace(outcome, data=None, error="the network was gone")
            yield outcome
            yield outcome  # a machine that was thought dead reports the same again

    summary = run(job, parts, tmp_path, RunOptions(retries=1), runner=shaky)
    assert files(tmp_path) == files(whole)
    first, second = order[: len(parts)], order[len(parts) :]
    assert sorted(first) == sorted(part.id for part in parts)
    assert {part.rpartition("-")[0] for part in second} < {p.rpartition("-")[0] for p in first}
    assert all("broken" in part for part in summary.failures)
    records = {each["part"]: each for each in read_manifest(tmp_path, ".parquet")[1]}
    assert {each["attempts"] for name, each in records.items() if "night" in name} == {2}


def test_a_part_that_is_lost_with_its_machine_gets_another_turn(
    whole: Path, parts: list[Part], job: DetectJob, tmp_path: Path
) -> None:
    turns: list[list[Part]] = []

    def lossy(job, todo):
        turns.append(todo)
        for outcome in in_this_process(job, todo):
            if "night" in outcome.part.source and len(turns) == 1:
                outcome = Outcome(outcome.part, error="its worker died", lost=True)
            yield outcome

    run(job, parts, tmp_path, ONCE, runner=lossy)
    assert files(tmp_path) == files(whole)
    assert [Path(part.source).name for part in turns[1]] == ["night"] * len(turns[1])
    assert len(turns) == 2 and turns[1]

    def dying(job, todo):
        turns.append(todo)
        for part in todo:
            yield Outcome(part, error="its worker died", lost=True)

    turns.clear()
    assert len(run(job, parts, tmp_path / "dead", ONCE, runner=dying).failures) == len(parts)
    assert len(turns) == 2


def test_other_work_in_the_same_folder_is_refused(
    whole: Path, parts: list[Part], job: DetectJob, tmp_path: Path
) -> None:
    other = replace(job, thresholds=ThresholdOptions(score_threshold=0.5))
    with pytest.raises(ConfigurationError, match=r"score_threshold 0.05.*score_threshold 0.5"):
        run(other, parts, whole, ONCE)
    changed = [replace(parts[-1], state="other bytes")]
    with pytest.raises(ConfigurationError, match="has changed since an earlier run"):
        run(job, changed, whole, ONCE)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "x.parquet").touch()
    with pytest.raises(ConfigurationError, match=r"which has parts and no manifest"):
        run(job, parts, tmp_path, ONCE)
    # How fast, and where, is no other work.
    run(replace(job, detector=replace(job.detector, threads=2)), parts[:0], whole, ONCE)


def test_coco_and_bags_are_made_of_the_parts(
    whole: Path, parts: list[Part], job: DetectJob, drives: Path, tmp_path: Path
) -> None:
    manifest = run(job, parts, whole, ONCE).manifest
    write_coco(manifest, tmp_path / "coco.json")
    document = json.loads((tmp_path / "coco.json").read_text())
    assert [image["id"] for image in document["images"]] == list(range(1, 16))
    assert [each["name"] for each in document["categories"]] == [f"class{k}" for k in range(5)]
    rows = [
        row
        for record in read_manifest(whole, ".parquet")[1]
        if record["state"] == DONE
        for row in pq.read_table(record["file"]).to_pylist()
    ]
    assert len(document["annotations"]) == sum(len(row["detections"]) for row in rows)
    bags = write_bags(manifest, tmp_path / "bags")
    assert sorted(path.name.split("-")[0] for path in bags) == ["day", "night"]
    assert write_bags(manifest, tmp_path / "bags") == []
    reader = open_reader(next(path for path in bags if path.name.startswith("day")))
    topics = {each.topic: (each.msgtype, each.msgcount) for each in reader.connections}
    reader.close()
    assert topics == {
        "/front/detections": (DETECTIONS_TYPE, 4),
        "/rear/detections": (DETECTIONS_TYPE, 4),
    }


def test_weights_travel_to_a_worker_with_their_folders(
    whole: Path, parts: list[Part], job: DetectJob, tmp_path: Path
) -> None:
    proto = onnx.load(job.model)
    kernels = [each for each in proto.graph.initializer if len(each.dims) == 4]
    for number, tensor in enumerate(kernels):  # two files of one name
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        tensor.raw_data = onnx.numpy_helper.to_array(tensor).tobytes()
        onnx.external_data_helper.set_external_data(tensor, f"{number % 2}/weights.bin")
        for name in ("float_data", "int64_data"):
            tensor.ClearField(name)
    onnx.save(proto, tmp_path / "net.onnx")
    moved = replace(job, detector=replace(job.detector, model=tmp_path / "net.onnx"))
    files_there = {name: path.read_bytes() for name, path in moved.files().items()}
    assert sorted(files_there) == ["0/weights.bin", "1/weights.bin", "net.onnx"]
    part = next(part for part in parts if "night" in part.source)
    table = pa.table({"part": pa.array([pickle.dumps(part)], pa.large_binary())})
    answer = _Actor(moved, files_there)(table).to_pylist()[0]["answer"]
    assert pickle.loads(answer).data == (whole / "parts" / f"{part.id}.parquet").read_bytes()


def test_the_cost_is_that_of_all_workers() -> None:
    assert cost_text(2000, 3600.0, 4, RunOptions()) == "1,000 frames: 7.2e+03 worker-seconds"
    assert cost_text(2000, 3600.0, 4, RunOptions(price=3.0)).endswith(" = 6")
