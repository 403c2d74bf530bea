# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt detect`, `evaluate` and `compare`."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands.int8 import calibration_inputs
from yolox_trt.cli.output import Output
from yolox_trt.compiler.int8.options import ImageOptions, no_images
from yolox_trt.core.images import ImageFiles, Video, is_bag, open_images
from yolox_trt.core.option import Kind, again, nested, option, options_of, parse_path, path_option
from yolox_trt.core.output_paths import OutputFile, parse_output_folder, write_json
from yolox_trt.core.postprocess_options import PostprocessOptions, parse_class_thresholds
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.options import DetectorOptions
from yolox_trt.evaluation.options import CompareOptions, DatasetOptions, NamedModelOptions

if TYPE_CHECKING:
    from yolox_trt.core.model_spec import ModelSpec
    from yolox_trt.evaluation.detect import ResultWriter
    from yolox_trt.evaluation.evaluate import Evaluation
    from yolox_trt.ros.tools.bag import ImageBag

_SIMULATION = ("latency", "contention")


@dataclass(frozen=True, kw_only=True)
class ThresholdOptions(PostprocessOptions):
    """PostprocessOptions, with thresholds of single classes as the user gives them."""

    class_score: Mapping[str, float] = option(
        [],
        kind=Kind.STRING_ARRAY,
        parse=parse_class_thresholds,
        metavar="CLASS=SCORE",
        help="Threshold of one class, by its name or number.",
    )

    def of(self, spec: ModelSpec) -> PostprocessOptions:
        """Return the options for the classes of a model."""
        declared = options_of(type(self))["class_score"]
        return self.with_classes(self.class_score, spec, declared)


@dataclass(frozen=True, kw_only=True)
class Detect(Command, name="detect", has_json=True):
    """Detect in images, a video or a bag, without ROS.

    Images and videos come out with boxes drawn in, a rosbag2 bag as a new mcap bag with the
    detections beside the images. --json writes COCO results. The exit status is 1 where some of
    the images could not be read.

    Examples:
        yolox_trt detect photographs/ -o boxes/ --json boxes.json
        yolox_trt detect drive.mcap --topic /front/image_raw --model yolox_s.onnx --device gpu
    """

    source: Path = option(
        parse=parse_path, flag="SOURCE", help="Image, folder of images, video or rosbag2 bag."
    )
    output: Path | None = path_option(
        parse=parse_output_folder,
        flag="--output -o",
        metavar="PATH",
        help="Folder of the results (default: detections), or the new bag (default: "
        "SOURCE_detections).",
    )
    no_images: bool = option(False, help="Write no annotated images, no video and no new bag.")
    topic: Sequence[str] = option(
        [], kind=Kind.STRING_ARRAY, help="Image topic of a bag (default: all)."
    )
    detector: NamedModelOptions = nested(NamedModelOptions, without=_SIMULATION)
    thresholds: ThresholdOptions = nested(ThresholdOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.detectors.factory import create_detector
        from yolox_trt.evaluation.detect import detect_all

        with ExitStack() as stack:
            # A wrong source is told before the model is loaded.
            source = stack.enter_context(closing(self._open_source()))
            detector = stack.enter_context(closing(create_detector(self.detector)))
            thresholds = self.thresholds.of(detector.spec)
            writer: ResultWriter | None = None
            if not self.no_images:
                writer = self._make_writer(source, detector.spec.class_names)
                stack.callback(writer.close)
            with output.progress() as progress:
                images, results = detect_all(
                    detector, source, thresholds, writer=writer, on_progress=progress
                )
        output.print(
            f"{images} images, {len(results)} detections"
            + (f", {source.refused} images could not be read" if source.refused else "")
            + (f"; written to {writer.path}" if writer else "")
        )
        output.json(results)
        return 1 if source.refused else 0

    def _open_source(self) -> ImageFiles | Video | ImageBag:
        if not is_bag(self.source):
            return open_images(self.source)
        from yolox_trt.ros.tools.bag import ImageBag

        return ImageBag(self.source, self.topic)

    def _make_writer(
        self, source: ImageFiles | Video | ImageBag, class_names: Sequence[str]
    ) -> ResultWriter:
        from yolox_trt.evaluation.detect import AnnotationWriter

        if isinstance(source, ImageFiles | Video):
            return AnnotationWriter(source, self.output or Path("detections"), class_names)
        beside = self.source.with_name(f"{self.source.stem}_detections")
        return source.detection_writer(self.output or beside, class_names)


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command, name="evaluate", needs=("pycocotools",), has_json=True):
    """Measure COCO mAP on labelled images (COCO or BDD100K labels).

    Examples:
        yolox_trt evaluate yolox_nano.onnx --coco coco/
    """

    detector: DetectorOptions = nested(DetectorOptions, without=_SIMULATION)
    data: DatasetOptions = nested(DatasetOptions)
    # The thresholds of the published YOLOX figures.
    thresholds: ThresholdOptions = nested(
        ThresholdOptions, score_threshold=0.01, nms_threshold=0.65, max_detections=1000
    )
    detections: Path | None = path_option(
        parse=OutputFile(".json"), help="Write the detections as COCO results."
    )

    def run(self, output: Output) -> int:
        from yolox_trt.detectors.factory import create_detector
        from yolox_trt.evaluation.dataset import load_dataset
        from yolox_trt.evaluation.evaluate import evaluate

        dataset = load_dataset(self.data)
        with closing(create_detector(self.detector)) as detector:
            thresholds = self.thresholds.of(detector.spec)
            with output.progress() as progress:
                result = evaluate(detector, dataset, thresholds, on_progress=progress)
        if self.detections is not None:
            write_json(self.detections, result.results)
        _show(output, result)
        output.json(
            {
                "model": self.detector.name,
                "device": detector.device,
                "images": result.images,
                "options": thresholds,
                "metrics": result.metrics,
                "categories_left_out": result.left_out,
                "stage_times": result.stage_times,
            }
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class _ComparedImages(DatasetOptions):
    """DatasetOptions of a command whose --images are those of the calibration."""

    images: Path | None = again(options_of(DatasetOptions)["images"], flag="--labelled-images")
    limit: int | None = again(options_of(DatasetOptions)["limit"], flag="--labelled-limit")


@dataclass(frozen=True, kw_only=True)
class Compare(
    Command,
    name="compare",
    needs=("onnx", "onnxruntime", "matplotlib", "pycocotools"),
    has_json=True,
):
    """Compare all ways to quantise a model, in one HTML report.

    The model is calibrated with every algorithm, and mAP, size and time of each form are measured.

    Examples:
        yolox_trt compare yolox_s.onnx --images calibration/ --coco coco/ -o report.html
    """

    model: Path | None = path_option(
        flag="MODEL", metavar="MODEL", help="Float ONNX model (default: the shipped model)."
    )
    calibration: ImageOptions = nested(ImageOptions)
    data: _ComparedImages = nested(_ComparedImages)
    ways: CompareOptions = nested(CompareOptions)
    output: Path = option(
        "quantization.html", flag="--output -o", parse=OutputFile(".html"), help="The report."
    )

    def run(self, output: Output) -> int:
        from yolox_trt.evaluation.bench.timing import describe_machine
        from yolox_trt.evaluation.compare import compare
        from yolox_trt.evaluation.compare_report import write_report
        from yolox_trt.evaluation.dataset import load_dataset
        from yolox_trt.graph.graph import Graph

        path = self.model or default_model()
        model = Graph.load(path)
        dataset = load_dataset(self.data)
        inputs = calibration_inputs(model, self.calibration)
        if inputs is None:
            raise no_images()
        with output.progress() as progress:
            variants = compare(model, inputs, dataset, self.ways, on_progress=progress)
        images = operator.length_hint(inputs) or self.calibration.limit
        notes = [
            f"model {path.name}; calibrated on {images} images of "
            f"{self.calibration.images}; measured on {len(dataset.images)} images",
            describe_machine("onnxruntime"),
        ]
        write_report(self.output, variants, title=f"INT8 of {path.stem}", notes=notes)
        rows = [
            (
                v.form,
                f"{v.metrics.mean_ap:.4f}",
                f"{v.metrics.map50:.4f}",
                f"{100 * v.float_macs:.1f} %",
                f"{v.size / 1e6:.2f}",
            )
            for v in variants
        ]
        output.table(notes[0], ("form", "mAP", "mAP50", "outside INT8", "MB"), rows)
        shown = [{k: v for k, v in vars(each).items() if k != "ranges"} for each in variants]
        output.json({"notes": notes, "variants": shown})
        output.print(f"Wrote {self.output}")
        return 0


def _show(output: Output, result: Evaluation) -> None:
    """Print an evaluation's tables."""
    *values, per_class, per_class50 = vars(result.metrics).values()
    names = ("mAP", "mAP50", "mAP75", "small", "medium", "large", "recall")
    output.table(f"{result.images} images", names, [[_average(v) for v in values]])
    classes = sorted(per_class, key=per_class.__getitem__, reverse=True)
    rows = [(name, _average(per_class[name]), _average(per_class50[name])) for name in classes]
    # Two classes a line: there are 80 of them.
    half = -(-len(rows) // 2)
    pairs = [sum(rows[i::half], ()) for i in range(half)]
    output.table(
        "Average precision of each class",
        ("class", "AP", "AP50") * 2,
        [[*pair, *[""] * (6 - len(pair))] for pair in pairs],
    )
    if result.left_out:
        output.print(
            f"not counted, no class of the model has this name: {', '.join(result.left_out)}",
            colour="yellow",
        )
    times = result.stage_times
    output.print(
        f"median ms an image: preprocess {times.preprocess * 1e3:.2f}, inference "
        f"{times.inference * 1e3:.2f}, postprocess {times.postprocess * 1e3:.2f}"
    )


def _average(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
