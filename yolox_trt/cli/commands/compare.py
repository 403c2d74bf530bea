# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt compare`: every calibration algorithm over one model, and a report."""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
from pathlib import Path

from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.core.shipped_files import default_model


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command; what it needs is imported when it runs."""
    parser = subparsers.add_parser(
        "compare",
        help="compare all ways to quantise a model, in one HTML report",
        description="Calibrate with every algorithm, measure mAP, size and time of each form.",
    )
    parser.add_argument("model", nargs="?", type=Path, help="float ONNX model (default: shipped)")
    parser.add_argument(
        "--images", type=Path, required=True, help="calibration images (see `calibrate`)"
    )
    parser.add_argument("--limit", type=int, default=1000, help="calibration images at most")
    parser.add_argument(
        "--coco", type=Path, metavar="DIR", help="labelled images: images/ and instances_*.json"
    )
    parser.add_argument("--bdd100k", type=Path, metavar="LABELS", help="BDD100K label file")
    parser.add_argument("--labelled-images", type=Path, metavar="DIR", help="with --bdd100k")
    parser.add_argument("--algorithms", help="comma-separated (default: all)")
    parser.add_argument("--alpha", type=float, default=0.75, help="of the equalisation")
    parser.add_argument(
        "--keep-fp16", default="5%,15%", help="shares or numbers for mixed precision"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime")
    parser.add_argument("-o", "--output", type=Path, default=Path("quantization.html"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures besides")
    parser.set_defaults(run=_run, open_bag=None)


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from yolox_trt.cli.commands.int8 import calibration_inputs
    from yolox_trt.cli.output import Output
    from yolox_trt.compiler.int8.options import ImageOptions
    from yolox_trt.evaluation.compare import DEFAULT_ALGORITHMS, CompareOptions, compare
    from yolox_trt.evaluation.compare_report import write_report
    from yolox_trt.evaluation.dataset import DatasetOptions, load_dataset
    from yolox_trt.graph.graph import Graph

    prepare_outputs(args.output, args.json)
    path = args.model or default_model()
    model = Graph.load(path)
    dataset = load_dataset(
        DatasetOptions(coco=args.coco, bdd100k=args.bdd100k, images=args.labelled_images)
    )
    inputs = calibration_inputs(model, ImageOptions(images=args.images, limit=args.limit))
    assert inputs is not None
    total = operator.length_hint(inputs)
    with Output().progress() as update:
        variants = compare(
            model,
            inputs,
            dataset,
            CompareOptions(
                algorithms=tuple((args.algorithms or ",".join(DEFAULT_ALGORITHMS)).split(",")),
                alpha=args.alpha,
                keep_fp16=tuple(item for item in args.keep_fp16.split(",") if item),
                threads=args.threads,
            ),
            on_progress=update,
        )
    ort = require("onnxruntime")
    notes = [
        f"model {Path(path).name}; calibrated on {total or args.limit} images of "
        f"{Path(args.images).name}; measured on {len(dataset.images)} images",
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"onnxruntime {ort.__version__}",
    ]
    write_report(args.output, variants, title=f"INT8 of {Path(path).stem}", notes=notes)
    table = Table("form", "mAP", "mAP50", "outside INT8", "MB", title=notes[0])
    for v in variants:
        table.add_row(
            v.name,
            f"{v.metrics.mean_ap:.4f}",
            f"{v.metrics.map50:.4f}",
            f"{100 * v.float_macs:.1f} %",
            f"{v.size / 1e6:.2f}",
        )
    Console().print(table)
    if args.json:
        rows = [
            {
                "form": v.name,
                "metrics": v.metrics.to_dict(),
                "size": v.size,
                "inference": v.inference,
                "float_macs": v.float_macs,
                "layer_errors": v.layer_errors,
            }
            for v in variants
        ]
        args.json.write_text(json.dumps({"notes": notes, "variants": rows}, indent=1) + "\n")
    print(args.output)
    return 0
