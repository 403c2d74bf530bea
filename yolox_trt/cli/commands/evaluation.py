# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room evaluation: detect, evaluate, compare, bench."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; what they need is imported when they run."""
    from yolox_trt.cli.arguments import (
        add_model_arguments,
        add_threshold_arguments,
        whole_number,
    )
    from yolox_trt.cli.commands import compare as compare_command
    from yolox_trt.evaluation import bench

    parser = subparsers.add_parser(
        "detect",
        help="detect in images, a video or a bag, without ROS",
        description="Detect in an image, a folder of images, a video or a rosbag2 bag. Images and "
        "videos come out with boxes drawn in, a bag as a new mcap bag with the detections "
        "beside the images.",
    )
    parser.add_argument("source", type=Path, metavar="IMAGE|FOLDER|VIDEO|BAG")
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="PATH",
        help="folder of results (default: detections), or the new bag (default: SOURCE_detections)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write COCO results")
    parser.add_argument(
        "--no-images", action="store_true", help="write no annotated images or video"
    )
    parser.add_argument("--topic", action="append", default=[], help="image topics of a bag")
    add_model_arguments(parser, positional=False)
    add_threshold_arguments(parser, score=0.3, nms=0.45, max_detections=300)
    parser.set_defaults(run=_detect, open_bag=None)

    parser = subparsers.add_parser(
        "evaluate",
        help="measure COCO mAP on labelled images",
        description="Measure mAP (pycocotools) on images with COCO or BDD100K labels.",
    )
    add_model_arguments(parser)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--coco", type=Path, metavar="DIR", help="folder with images/ and instances_*.json"
    )
    data.add_argument("--annotations", type=Path, metavar="FILE", help="COCO label file")
    data.add_argument("--bdd100k", type=Path, metavar="LABELS", help="BDD100K label file or folder")
    data.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    data.add_argument("--limit", type=whole_number, metavar="N", help="the first N images only")
    add_threshold_arguments(parser, score=0.01, nms=0.65, max_detections=1000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write metrics and settings")
    parser.add_argument("--detections", type=Path, metavar="FILE", help="write COCO results")
    parser.set_defaults(run=_evaluate)

    compare_command.add_parser(subparsers)
    bench.add_parser(subparsers)


def _detect(args: argparse.Namespace) -> int:
    import contextlib
    import json
    import sys

    from yolox_trt.cli.arguments import detector_from, options_from
    from yolox_trt.cli.progress import shown
    from yolox_trt.core.images import is_bag, open_images
    from yolox_trt.core.output_paths import prepare_outputs
    from yolox_trt.evaluation.detect import annotation_writer, detect_all

    prepare_outputs(args.json)
    with contextlib.ExitStack() as stack:
        # A wrong source is told before the model is loaded.
        bag = args.open_bag(args.source, args.topic) if is_bag(args.source) else None
        source = stack.enter_context(contextlib.closing(bag or open_images(args.source)))
        detector = stack.enter_context(contextlib.closing(detector_from(args)))
        names = detector.spec.class_names
        options = options_from(args, names)
        writer = None
        if not args.no_images:
            folder = args.output or Path("detections")
            if bag is not None:
                folder = args.output or args.source.with_name(f"{args.source.stem}_detections")
                writer = bag.detection_writer(folder, names)
            else:
                writer = annotation_writer(source, folder, names)
            stack.enter_context(contextlib.closing(writer))
        on_progress = stack.enter_context(shown(sys.stderr.isatty()))
        images, results = detect_all(
            detector, source, options, writer=writer, on_progress=on_progress
        )
    if args.json:
        args.json.write_text(json.dumps(results) + "\n")
    print(
        f"{images} images, {len(results)} detections"
        + (f", {source.refused} images could not be read" if source.refused else "")
        + (f"; written to {writer.path}" if writer else "")
    )
    return 1 if source.refused else 0


def _evaluate(args: argparse.Namespace) -> int:
    from yolox_trt.cli.commands.evaluate import run_evaluate

    return run_evaluate(args)
