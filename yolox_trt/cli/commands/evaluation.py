# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt evaluate` and `compare`."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands.int8 import calibration_inputs, sized_model
from yolox_trt.cli.output import Output
from yolox_trt.compiler.int8.options import ImageOptions, no_images
from yolox_trt.core.option import Option, again, nested, option, options_of, path_option
from yolox_trt.core.output_paths import OutputFile, write_json
from yolox_trt.core.postprocess_options import ThresholdOptions
from yolox_trt.core.shipped_files import default_model
from yolox_trt.detectors.options import SIMULATION, DetectorOptions
from yolox_trt.evaluation.options import CompareOptions, DatasetOptions

if TYPE_CHECKING:
    from yolox_trt.compiler.int8.images import CalibrationInputs
    from yolox_trt.evaluation.dataset import Dataset
    from yolox_trt.evaluation.evaluate import Evaluation

#: Images that are measured where there are no labels, if nothing else is asked for: the outputs of
#: all of them are kept.
UNLABELLED_IMAGES = 16
#: Columns of accuracy that a terminal has room for; the report has all.
_FIGURES = 3


def _labels(data: DatasetOptions) -> Iterator[tuple[Option, Path]]:
    """Yield the label files of a data set, and the option that leads to them."""
    from yolox_trt.evaluation.dataset import label_files

    option = data.named["coco" if data.bdd100k is None else "bdd100k"]
    yield from ((option, file) for file in label_files(data))


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command, name="evaluate", needs=("pycocotools",), has_json=True):
    """Measure COCO mAP on labelled images (COCO or BDD100K labels), or the accuracy of masks.

    Examples:
        yolox_trt evaluate yolox_nano.onnx --coco coco/
        yolox_trt evaluate MODEL --segmentation labels/ --images images/
        yolox_trt evaluate MODEL --segmentation panoptic_val2017.json --images val2017/
    """

    detector: DetectorOptions = nested(DetectorOptions, without=SIMULATION)
    data: DatasetOptions = nested(DatasetOptions)
    segmentation: Path | None = path_option(
        metavar="LABELS",
        help="Measure pixel accuracy and mean IoU of the masks in place of mAP: a folder of PNG "
        "files of the images' names (class of each pixel in 8 bits, 255 for none), or COCO's "
        "panoptic_*.json.",
    )
    # The thresholds of the published YOLOX figures.
    thresholds: ThresholdOptions = nested(
        ThresholdOptions, score_threshold=0.01, nms_threshold=0.65, max_detections=1000
    )
    detections: Path | None = path_option(
        parse=OutputFile(".json"), help="Write the detections as COCO results."
    )
    resamples: int = option(
        200,
        minimum=0,
        help="How often as many images are drawn again for the 95 % intervals; 0 for none.",
    )

    def found_files(self) -> Iterator[tuple[Option, Path]]:
        yield from _labels(self.data)

    def run(self, output: Output) -> int:
        from yolox_trt.detectors.factory import create_detector
        from yolox_trt.evaluation.dataset import load_dataset
        from yolox_trt.evaluation.evaluate import evaluate

        if self.segmentation is not None:
            return self._evaluate_segmentation(self.segmentation, output)
        dataset = load_dataset(self.data)
        with closing(create_detector(self.detector)) as detector:
            thresholds = self.thresholds.of(detector.spec)
            with output.progress() as progress:
                result = evaluate(
                    detector,
                    dataset,
                    thresholds,
                    resamples=self.resamples,
                    on_progress=progress,
                )
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
                "intervals": result.intervals,
                "reliability": result.reliability,
                "categories_left_out": result.left_out,
                "stage_times": result.stage_times,
            }
        )
        return 0

    def _evaluate_segmentation(self, labels: Path, output: Output) -> int:
        from yolox_trt.detectors.factory import create_detector
        from yolox_trt.evaluation import segmentation

        with closing(create_detector(self.detector)) as detector:
            head = segmentation.segmentation_head(detector)
            found = segmentation.load_mask_labels(labels, head, self.data)
            with output.progress() as progress:
                metrics = segmentation.evaluate_segmentation(detector, found, on_progress=progress)
        output.table(
            f"{metrics.images} images",
            ("pixel accuracy", "mean IoU"),
            [[f"{metrics.pixel_accuracy:.4f}", f"{metrics.mean_iou:.4f}"]],
        )
        rows = sorted(metrics.per_class.items(), key=operator.itemgetter(1), reverse=True)
        output.table("IoU of each class", ("class", "IoU"), [(n, f"{v:.4f}") for n, v in rows])
        _show_left_out(output, metrics.left_out)
        output.json({"model": self.detector.name, "device": detector.device, "metrics": metrics})
        return 0


@dataclass(frozen=True, kw_only=True)
class _ComparedImages(DatasetOptions):
    """DatasetOptions of a command whose --images are those of the calibration."""

    @property
    def are_labelled(self) -> bool:
        """Whether labels are named."""
        return any(each is not None for each in (self.coco, self.annotations, self.bdd100k))

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

    The model is calibrated with every algorithm, and accuracy, size and time of each form are
    measured: mAP on labelled images, else how near the outputs are to those in FP32, which works
    for any network (and for those that give classes of pixels, pixel accuracy and mean IoU).

    Examples:
        yolox_trt compare yolox_s.onnx --images calibration/ --coco coco/ -o report.html
        yolox_trt compare pspnet.onnx --images photos/ --preprocessing rgb_imagenet,resize=stretch
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

    def found_files(self) -> Iterator[tuple[Option, Path]]:
        yield from _labels(self.data)

    def run(self, output: Output) -> int:
        from yolox_trt.evaluation.bench.timing import describe_machine
        from yolox_trt.evaluation.compare import compare
        from yolox_trt.evaluation.compare_report import write_report
        from yolox_trt.evaluation.dataset import load_dataset

        path = self.model or default_model()
        model = sized_model(path, self.calibration)
        inputs = calibration_inputs(model, self.calibration)
        if inputs is None:
            raise no_images()
        measured_on: Dataset | CalibrationInputs
        if self.data.are_labelled:
            measured_on = load_dataset(self.data)
            count, source = len(measured_on.images), "labelled images"
        else:
            others = replace(
                self.calibration,
                images=self.data.images or self.calibration.images,
                limit=self.data.limit or UNLABELLED_IMAGES,
            )
            found = calibration_inputs(model, others)
            assert found is not None
            measured_on = found
            count, source = (
                operator.length_hint(found) or others.limit,
                f"images of {others.images}",
            )
        with output.progress() as progress:
            variants = compare(model, inputs, measured_on, self.ways, on_progress=progress)
        images = operator.length_hint(inputs) or self.calibration.limit
        notes = [
            f"model {path.name}; calibrated on {images} images of "
            f"{self.calibration.images}; measured on {count} {source}",
            describe_machine("onnxruntime"),
        ]
        write_report(self.output, variants, title=f"INT8 of {path.stem}", notes=notes)
        rows = [
            (
                v.form,
                *list(v.figures.values())[:_FIGURES],
                f"{100 * v.float_macs:.1f} %",
                f"{v.size / 1e6:.2f}",
                f"{v.inference * 1e3:.1f}",
            )
            for v in variants
        ]
        columns = list(variants[0].figures)[:_FIGURES]
        headings = ("form", *columns, "outside INT8", "MB", "CPU ms")
        output.table(notes[0], headings, rows)
        shown = [{k: v for k, v in vars(each).items() if k != "ranges"} for each in variants]
        output.json({"notes": notes, "variants": shown})
        output.print(f"Wrote {self.output}")
        return 0


def _show(output: Output, result: Evaluation) -> None:
    """Print an evaluation's tables."""
    m, within = result.metrics, result.intervals
    names = ("mAP", "mAP50", "mAP75", "small", "medium", "large", "not small", "recall")
    values = (m.mean_ap, m.map50, m.map75, m.map_small, m.map_medium, m.map_large, m.map_not_small)
    rows = [[_average(v) for v in (*values, m.recall)]]
    if within is not None:
        rows.append([_interval(within.mean_ap), _interval(within.map50), *[""] * 6])
    output.table(f"{result.images} images", names, rows)
    classes = sorted(m.per_class, key=m.per_class.__getitem__, reverse=True)
    rows = [
        [
            name,
            _average(m.per_class[name]),
            _average(m.per_class50[name]),
            _interval(within.per_class50[name]) if within is not None else "",
            _average(m.per_class50_not_small.get(name, -1.0)),
        ]
        for name in classes
    ]
    titles = ("class", "AP", "AP50", "AP50, 95 %", "AP50 not small")
    output.table("Average precision of each class", titles, rows)
    output.table(
        f"What a score is worth: expected calibration error {result.reliability.ece:.3f}",
        ("score", "detections", "mean score", "right"),
        [
            (f"{b.low:.1f} to {b.high:.1f}", str(b.detections), f"{b.score:.3f}", f"{b.right:.3f}")
            for b in result.reliability.bins
        ],
    )
    _show_left_out(output, result.left_out)
    times = result.stage_times
    output.print(
        f"median ms an image: preprocess {times.preprocess * 1e3:.2f}, inference "
        f"{times.inference * 1e3:.2f}, postprocess {times.postprocess * 1e3:.2f}"
    )


def _show_left_out(output: Output, names: Sequence[str]) -> None:
    if names:
        output.print(
            f"not counted, no class of the model has this name: {', '.join(names)}",
            colour="yellow",
        )


def _average(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"


def _interval(ends: tuple[float, float]) -> str:
    return "-" if ends[0] < 0 else f"{ends[0]:.3f}-{ends[1]:.3f}"
