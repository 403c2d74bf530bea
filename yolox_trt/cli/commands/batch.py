# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt batch`: the same work over thousands of recordings, here or on a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.batch.options import FORMATS, RunOptions, SourceOptions
from yolox_trt.batch.scale import ScaleOptions
from yolox_trt.cli.command import Command
from yolox_trt.cli.commands.detect import _ModelOptions
from yolox_trt.cli.commands.int8 import write_ranges
from yolox_trt.cli.output import Output, Progress
from yolox_trt.compiler.int8.options import CalibrateOptions, ImageOptions, RangeFiles
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import (
    Kind,
    Option,
    again,
    nested,
    option,
    options_of,
    parse_path,
    path_option,
)
from yolox_trt.core.output_paths import OutputFile, prepare_folder
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.core.zones import Zones
from yolox_trt.detectors.options import SIMULATION, DetectorOptions
from yolox_trt.evaluation.options import DatasetOptions, ToleranceOptions
from yolox_trt.ros.tools.options import RegressOptions

if TYPE_CHECKING:
    from yolox_trt.batch.job import Job
    from yolox_trt.batch.plan import Part
    from yolox_trt.batch.run import Summary

#: Failures, and frames found, that are printed.
_SHOWN = 100
_RECORDINGS = "Bag, video, image, COCO set, folder, pattern, or .txt file with one of them a line; "


@dataclass(frozen=True, kw_only=True)
class _Batch(Command, needs=("pyarrow",)):
    """What all kinds of batch work have in common."""

    output: str = option(
        flag="--output -o",
        metavar="OUT",
        help="Folder of the results and of the manifest; the same command goes on in it where an "
        "earlier run stopped.",
    )
    run_options: RunOptions = nested(RunOptions)

    def _run(
        self, job: Job, parts: Sequence[Part], output: Output, progress: Progress, below: str = ""
    ) -> Summary:
        """Do a job on parts, here or on Ray, and tell what failed."""
        from yolox_trt.batch.job import in_this_process
        from yolox_trt.batch.places import place_of
        from yolox_trt.batch.run import run

        folder = place_of(self.output)
        with contextlib.ExitStack() as stack:
            runner: Any = in_this_process
            workers = 1
            if self.run_options.ray is not None:
                from yolox_trt.batch.ray_cluster import connected

                runner = stack.enter_context(connected(self.run_options, job.device))
                workers = runner.workers
                page = runner.dashboard and f", dashboard {runner.dashboard}"
                output.print(f"Ray: {workers} workers, {runner.decoders} decoders{page}")
            summary = run(
                job,
                parts,
                folder / below if below else folder,
                self.run_options,
                runner=runner,
                workers=workers,
                on_progress=progress,
            )
        for part, error in list(summary.failures.items())[:_SHOWN]:
            output.print(f"{part}: {error}", colour="red")
        return summary

    def _say(self, summary: Summary, output: Output) -> None:
        from yolox_trt.batch.run import cost_text

        done = summary.parts - len(summary.failures)
        words = f"{done} of {summary.parts} parts are done, {summary.before} by earlier runs"
        if summary.frames:
            rate = summary.frames / summary.seconds
            workers = max(summary.worker_seconds / summary.seconds, 1e-9)
            words += f"; {summary.frames} frames, {rate:.1f} a second; "
            words += cost_text(
                summary.frames, summary.seconds, round(workers) or 1, self.run_options
            )
        if summary.refused:
            words += f"; {summary.refused} images could not be read"
        output.print(words)

    def _document(self, summary: Summary) -> dict[str, Any]:
        names = ("parts", "before", "frames", "refused", "failures", "seconds", "worker_seconds")
        return {name: getattr(summary, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class BatchDetect(_Batch, name="batch detect", has_json=True):
    """Detect in thousands of bags, videos and images; the results are Parquet files.

    Long bags are cut into parts. Each part is written whole or not at all, and a manifest says what
    is done: run it again, and it goes on. The exit status is 1 where a part failed, after its
    retries, or an image could not be read.

    Examples:
        yolox_trt batch detect drives/ -o found/
        yolox_trt batch detect s3://fleet/2026-11/ --ray auto --format coco -o s3://fleet/found/
        yolox_trt batch detect drives.txt --ray 10.0.0.1:6379 --workers 32 --model yolox-s -o found/
    """

    sources: Sequence[str] = option(
        kind=Kind.STRING_ARRAY,
        flag="SOURCE",
        help=f"{_RECORDINGS}a path, or an address that fsspec knows (s3://, gs://, ...).",
    )
    parts: SourceOptions = nested(SourceOptions)
    format: Sequence[str] = option(
        [],
        kind=Kind.STRING_ARRAY,
        choices=FORMATS,
        help="Further results beside the Parquet files: mcap, a bag of the detections for each "
        "bag; coco, one file of all.",
    )
    classes: Sequence[str] = option(
        [], kind=Kind.STRING_ARRAY, metavar="CLASS", help="Only this class, by its name or number."
    )
    zones: Zones = nested(Zones)
    detector: _ModelOptions = nested(_ModelOptions, without=SIMULATION)
    thresholds: ThresholdOptions = nested(ThresholdOptions)

    def folder_files(self) -> Iterator[tuple[Option, Path]]:
        if "coco" in self.format and "://" not in self.output:
            yield options_of(_Batch)["output"], parse_path(self.output) / "coco.json"

    def run(self, output: Output) -> int:
        from yolox_trt.batch.detection import DetectJob
        from yolox_trt.batch.exports import write_bags, write_coco
        from yolox_trt.batch.places import place_of
        from yolox_trt.batch.plan import plan_parts

        folder = place_of(self.output)
        if "mcap" in self.format and "://" in self.output:
            declared = options_of(type(self))["format"]
            raise ConfigurationError(
                (declared, f" mcap with the output '{self.output}'"),
                expected="a folder of this machine",
                fix=("leave ", declared, " mcap out, or give a local folder"),
            )
        with output.progress() as progress:
            parts = plan_parts(self.sources, self.parts, on_progress=progress)
            detector = self.detector.located(progress)
            job = DetectJob(
                detector,
                self.thresholds,
                self.zones,
                tuple(self.classes),
                readers=self.run_options.readers,
            )
            summary = self._run(job, parts, output, progress)
        self._say(summary, output)
        if "coco" in self.format:
            write_coco(summary.manifest, folder / "coco.json")
            output.print(f"Wrote {folder / 'coco.json'}")
        if "mcap" in self.format:
            for bag in write_bags(summary.manifest, folder / "bags"):
                output.print(f"Wrote {bag}")
        output.json(self._document(summary))
        return summary.status


@dataclass(frozen=True, kw_only=True)
class BatchEvaluate(_Batch, name="batch evaluate", needs=("pyarrow", "pycocotools"), has_json=True):
    """Measure COCO mAP of many models on many labelled sets, in one table.

    Examples:
        yolox_trt batch evaluate small.onnx large.onnx --coco day/ --coco night/ -o scores/
    """

    models: Sequence[str] = option(
        kind=Kind.STRING_ARRAY, flag="MODEL", help="ONNX file, built engine, or a published name."
    )
    coco: Sequence[str] = option(
        kind=Kind.STRING_ARRAY, metavar="DIR", help="Folder of a COCO set, as `evaluate` takes it."
    )
    part_frames: int = again(options_of(SourceOptions)["part_frames"])
    detector: DetectorOptions = nested(DetectorOptions, without=(*SIMULATION, "model"))
    thresholds: ThresholdOptions = nested(
        ThresholdOptions, score_threshold=0.01, nms_threshold=0.65, max_detections=1000
    )

    def found_files(self) -> Iterator[tuple[Option, Path]]:
        from yolox_trt.evaluation.dataset import label_files

        for folder in map(parse_path, self.coco):
            for file in label_files(DatasetOptions(coco=folder)):
                yield options_of(type(self))["coco"], file

    def run(self, output: Output) -> int:
        from yolox_trt.batch.detection import DetectJob
        from yolox_trt.batch.evaluation import load_sets, scores_of
        from yolox_trt.batch.plan import plan_parts

        sets = load_sets([parse_path(folder) for folder in self.coco])
        cut = SourceOptions(part_frames=self.part_frames)
        scores, status = [], 0
        with output.progress() as progress:
            parts = plan_parts(list(map(str, sets)), cut)
            jobs = {}
            for name in self.models:
                model = parse_path(name) if Path(name).suffix else name
                detector = replace(self.detector, model=model).located(progress)
                job = DetectJob(detector, self.thresholds, readers=self.run_options.readers)
                jobs[f"{job.model.stem}-{job.key[:8]}"] = job
            for below, job in jobs.items():
                summary = self._run(job, parts, output, progress, below)
                status = max(status, summary.status)
                if not summary.failures:
                    scores += scores_of(job.model, summary.manifest, sets)
        rows = []
        for each in scores:
            metrics = each.metrics.mean_ap, each.metrics.map50, each.metrics.recall
            figures = [f"{value:.4f}" for value in metrics]
            rows.append([each.model.stem, each.coco.name, each.images, *figures])
        output.table("", ("model", "set", "images", "mAP", "mAP50", "recall"), rows)
        output.json(scores)
        return status


@dataclass(frozen=True, kw_only=True)
class BatchCalibrate(_Batch, name="batch calibrate", needs=("pyarrow", "onnx"), has_json=True):
    """Find INT8 ranges over many recordings: the histograms of all parts, merged exactly.

    The ranges are those of `yolox_trt calibrate` on all images. The statistics stay in OUT: another
    algorithm takes seconds.

    Examples:
        yolox_trt batch calibrate MODEL.onnx --images day/ -o ranges/ --cache m.cache
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="Float ONNX model.")
    images: Sequence[str] = option(
        kind=Kind.STRING_ARRAY, metavar="SOURCE", help=f"{_RECORDINGS}calibration images."
    )
    parts: SourceOptions = nested(SourceOptions, part_frames=100)
    preprocessing: Any = again(options_of(ImageOptions)["preprocessing"])
    input_size: Any = again(options_of(ImageOptions)["input_size"])
    options: CalibrateOptions = nested(CalibrateOptions)
    files: RangeFiles = nested(RangeFiles)

    def run(self, output: Output) -> int:
        from yolox_trt.batch.calibration import CalibrateJob, merged_statistics
        from yolox_trt.batch.plan import plan_parts
        from yolox_trt.compiler.int8.quantizer import calibration_of

        job = CalibrateJob(self.model, self.preprocessing, threads=self.options.threads)
        with output.progress() as progress:
            parts = plan_parts(self.images, self.parts, on_progress=progress)
            job = job.sized(self.input_size, parts)
            summary = self._run(job, parts, output, progress)
        self._say(summary, output)
        if summary.failures:  # ranges of some of the images would be taken for those of all
            return summary.status
        statistics = merged_statistics(summary.manifest)
        found = calibration_of(job.graph(), statistics, self.options)
        write_ranges(found, self.files, output)
        output.json({**self._document(summary), "ranges": found.ranges.amaxes()})
        return summary.status


@dataclass(frozen=True, kw_only=True)
class BatchRegress(
    _Batch,
    name="batch regress",
    needs=("pyarrow", "rclpy", "vision_msgs", "rosbags"),
    has_json=True,
):
    """Compare the detections in many bags with those that are expected, in one report.

    Each bag goes through the real multi_camera process, as with `yolox_trt regress`. The exit
    status is 1 if one differs or fails.

    Examples:
        yolox_trt batch regress drives/ --expect expected/ --update -o first/
        yolox_trt batch regress drives/ --expect expected/ --junit regress.xml -o second/
    """

    bags: Sequence[str] = option(
        kind=Kind.STRING_ARRAY, flag="BAG", help="Bag, folder of bags, pattern, or .txt list."
    )
    config: Path | None = again(options_of(RegressOptions)["config"])
    logs: Path | None = again(options_of(RegressOptions)["logs"])
    arguments: Sequence[str] = again(
        options_of(RegressOptions)["arguments"], flag="--set", metavar="NAME:=VALUE"
    )
    expect: Path = option(
        parse=parse_path, metavar="DIR", help="Folder of the expectations, BAG.json each."
    )
    update: bool = option(False, help="Write what is found as the new expectations.")
    junit: Path | None = path_option(
        parse=OutputFile(".xml"), help="Write a JUnit report, a suite for each bag."
    )
    tolerances: ToleranceOptions = nested(ToleranceOptions)

    def found_files(self) -> Iterator[tuple[Option, Path]]:
        yield from ((options_of(type(self))["expect"], f) for f in self.expect.glob("*.json"))

    def run(self, output: Output) -> int:
        from yolox_trt.batch.plan import plan_parts
        from yolox_trt.batch.regression import RegressJob, expectation_path, verdicts, whole_bags
        from yolox_trt.evaluation.regression import junit_suite, read_expectation, write_junit

        with output.progress() as progress:
            parts = whole_bags(plan_parts(self.bags, SourceOptions(), on_progress=progress))
            if self.update:
                prepare_folder(self.expect)
            else:  # a wrong file is told before the work
                for part in parts:
                    read_expectation(expectation_path(self.expect, part.source))
            options = RegressOptions(
                bag=Path(), config=self.config, logs=self.logs, arguments=self.arguments
            )
            summary = self._run(RegressJob(options), parts, output, progress)
        found = verdicts(summary.manifest, parts, self.expect, self.tolerances, self.update)
        rows = [
            (each.bag, sum(map(len, each.results.values())), _verdict_text(each)) for each in found
        ]
        output.table("", ("bag", "images", "changes"), rows)
        for each in found:
            for change in each.changes[:_SHOWN]:
                output.print(f"{each.bag}: {change}")
        if self.junit is not None:
            suites = [
                junit_suite(each.results, each.changes, f"regress.{Path(each.bag).stem}",
                            error=each.error)
                for each in found
            ]  # fmt: skip
            write_junit(self.junit, *suites)
        output.json([{**vars(each), "results": None} for each in found])
        return 1 if any(each.changes or each.error for each in found) else 0


def _verdict_text(verdict: Any) -> str:
    if verdict.error:
        return str(verdict.error)
    if verdict.updated:
        return "written as expected"
    return f"{len(verdict.changes)}" if verdict.changes else "as expected"


@dataclass(frozen=True, kw_only=True)
class BatchQuery(Command, name="batch query", needs=("pyarrow", "duckdb"), has_json=True):
    """Find frames by what was detected in them, and keep them in a new bag.

    A condition is SQL, in DuckDB's words, over a frame's columns (source, topic, stamp_ns, ...),
    the number of its detections (detections) and of those of each class (person), and one
    detection's columns (class, score, x1, y1, x2, y2): a frame is found where one of its detections
    fulfils it. The exit status is 1 if there is none.

    Examples:
        yolox_trt batch query found/ --where "person > 3 and score < 0.5"
        yolox_trt batch query found/ --where "class = 'bus' and y2 - y1 > 400" --keep buses
    """

    folder: str = option(flag="OUT", help="Output of `yolox_trt batch detect`.")
    where: str = option(metavar="CONDITION", help="What the frames must fulfil.")
    limit: int | None = option(
        None, kind=Kind.INTEGER, minimum=1, metavar="N", help="The first N frames only."
    )
    keep: Path | None = path_option(
        metavar="BAG", help="Write the frames, and their detections, to this new bag."
    )

    def run(self, output: Output) -> int:
        from yolox_trt.batch.places import place_of
        from yolox_trt.batch.query import find, keep

        rows = find(place_of(self.folder), self.where, limit=self.limit)
        shown = [
            (row["source"], row["topic"] or row["file"] or "", row["stamp_ns"] or row["frame"],
             len(row["detections"]))
            for row in rows[:_SHOWN]
        ]  # fmt: skip
        if rows:
            output.table("", ("source", "image", "stamp or number", "detections"), shown)
        if len(rows) > _SHOWN:
            output.print(f"and {len(rows) - _SHOWN} more")
        output.print(f"{len(rows)} frames")
        if self.keep is not None and rows:
            with output.progress() as progress:
                keep(rows, self.keep, on_progress=progress)
            output.print(f"Wrote {self.keep}")
        output.json(rows)
        return 0 if rows else 1


@dataclass(frozen=True, kw_only=True)
class BatchScale(ScaleOptions, Command, name="batch scale", has_json=True):
    """Compute what a cluster of any size does, from the figures of one machine and one frame.

    docs/scale.md says where the defaults come from, and how to measure your own.

    Examples:
        yolox_trt batch scale --gpus 4 --cores 64 --detect-ms 0.8 --decode-ms 6 --store-kb 7400
    """

    def run(self, output: Output) -> int:
        from yolox_trt.batch.scale import rates

        found = rates(self)
        rows = [
            (each.machines, f"{each.frames:.0f}", f"{100 * each.efficiency:.0f} %", each.limit)
            for each in found
        ]
        output.table("", ("machines", "frames/s", "efficiency", "set by"), rows)
        output.json(found)
        return 0
