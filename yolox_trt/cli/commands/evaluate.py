# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt evaluate`: mAP of a model on labelled images, as a table and JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from rich.console import Console
from rich.table import Table

from yolox_trt.cli.arguments import detector_from, options_from
from yolox_trt.cli.progress import shown
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.evaluation.dataset import DatasetOptions, load_dataset
from yolox_trt.evaluation.evaluate import Evaluation, evaluate


def run_evaluate(args: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    prepare_outputs(args.detections, args.json)
    names = ("coco", "annotations", "bdd100k", "images", "limit")
    dataset = load_dataset(DatasetOptions(**{name: getattr(args, name) for name in names}))
    detector = detector_from(args)
    try:
        options = options_from(args, detector.spec.class_names)
        with shown(sys.stderr.isatty()) as on_progress:
            result = evaluate(detector, dataset, options, on_progress=on_progress)
        if args.detections:
            args.detections.write_text(json.dumps(result.results))
        if args.json:
            report = {
                "model": str(args.model or ""),
                "device": str(detector.device),
                "images": result.images,
                "options": dataclasses.asdict(options),
                "metrics": result.metrics.to_dict(),
                "categories_left_out": list(result.left_out),
                "stage_times": dataclasses.asdict(result.stage_times),
            }
            args.json.write_text(json.dumps(report, indent=2) + "\n")
        _print(result)
    finally:
        detector.close()
    return 0


def _print(result: Evaluation) -> None:
    console = Console()
    metrics = result.metrics
    table = Table(title=f"{result.images} images")
    for name in ("mAP", "mAP50", "mAP75", "small", "medium", "large", "recall"):
        table.add_column(name, justify="right")
    values = (
        metrics.mean_ap,
        metrics.map50,
        metrics.map75,
        metrics.map_small,
        metrics.map_medium,
        metrics.map_large,
        metrics.recall,
    )
    table.add_row(*(_text(v) for v in values))
    console.print(table)
    classes = Table(title="Average precision of each class")
    for title in ("class", "AP", "AP50") * 2:
        classes.add_column(title, justify="left" if title == "class" else "right")
    names = sorted(metrics.per_class, key=metrics.per_class.__getitem__, reverse=True)
    half = -(-len(names) // 2)
    for i in range(half):
        row: list[str] = []
        for name in names[i::half]:
            row += [name, _text(metrics.per_class[name]), _text(metrics.per_class50[name])]
        classes.add_row(*row)
    console.print(classes)
    if result.left_out:
        console.print(
            f"not counted, no class of the model has this name: {', '.join(result.left_out)}",
            style="yellow",
            markup=False,
        )
    times = result.stage_times
    console.print(
        f"median ms an image: preprocess {times.preprocess * 1e3:.2f}, inference "
        f"{times.inference * 1e3:.2f}, postprocess {times.postprocess * 1e3:.2f}"
    )


def _text(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
