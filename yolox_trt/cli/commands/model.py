# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt optimize`, `dla-check` and `inspect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs

if TYPE_CHECKING:
    from rich.console import Console

    from yolox_trt.compiler.surgery import OptimizeResult, SurgeryOptions

_TENSORRT = "8.5, 8.6, 8.6.12 (DRIVE OS) or 10.3; patch numbers may follow (default: 8.6)"


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands to the command `yolox_trt`."""
    _add_optimize(subparsers)
    _add_dla_check(subparsers)
    _add_inspect(subparsers)


def _add_optimize(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "optimize",
        help="rewrite a model for the GPU or the DLA without retraining",
        description="Rewrite a YOLOX ONNX model in small exact steps, each compared with the "
        "original in ONNX Runtime. Exit status 1: with --target dla something still falls back.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", nargs="?", help="ONNX file")
    add("--target", choices=("gpu", "dla"), default="gpu", help="default: gpu")
    add("--output", "-o", type=Path, metavar="OUT", help="ONNX file to write")
    add("--report", type=Path, metavar="FILE", help="write the report as JSON")
    add("--no-verify", action="store_true", help="do not compare with the original")
    add("--skip", action="append", default=[], metavar="PASS", help="leave a pass out")
    add("--list-passes", action="store_true", help="list the passes and stop")
    add(
        "--merge",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        type=_named_model,
        help="merge with another model on the same input; outputs become NAME/..., the first "
        "model's main/...",
    )
    shape = parser.add_argument_group("input")
    shape.add_argument("--batch", type=int, metavar="N", help="fix the batch")
    shape.add_argument(
        "--open-batch", action="store_true", help="let the batch be any (GPU, CPU; not the DLA)"
    )
    shape.add_argument(
        "--input-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="fix H x W in pixels"
    )
    shape.add_argument(
        "--preprocessing",
        choices=sorted(PREPROCESSING_PRESETS),
        help="what the input expects, written into the metadata (default: as the metadata say)",
    )
    shape.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    shape.add_argument(
        "--fold-preprocessing",
        action="store_true",
        help="fold colour order, scale and mean into the first convolution",
    )
    shape.add_argument(
        "--uint8-input", action="store_true", help="take bytes (GPU; folds the preprocessing)"
    )
    head = parser.add_argument_group("head")
    head.add_argument(
        "--head",
        choices=("raw", "keep", "efficient-nms"),
        default="raw",
        help="raw: reg_8, obj_8, cls_8, ... (default); keep; or EfficientNMS_TRT attached",
    )
    head.add_argument(
        "--no-nms",
        dest="head",
        action="store_const",
        const="raw",
        help="remove EfficientNMS_TRT: the same as --head raw",
    )
    head.add_argument(
        "--sigmoid", choices=("cut", "keep"), default="cut", help="of the raw head (default: cut)"
    )
    head.add_argument("--score-threshold", type=float, default=0.3, help="of EfficientNMS")
    head.add_argument("--iou-threshold", type=float, default=0.45, help="of EfficientNMS")
    head.add_argument("--max-detections", type=int, default=300, help="of EfficientNMS")
    head.add_argument("--class-agnostic", action="store_true", help="of EfficientNMS")
    _add_dla_arguments(parser)
    parser.add_argument_group("DLA").add_argument(
        "--max-groups", type=int, metavar="N", help="split convolutions with more groups"
    )
    parser.set_defaults(run=_optimize)


def _add_dla_arguments(parser: argparse.ArgumentParser) -> None:
    dla = parser.add_argument_group("DLA rules")
    dla.add_argument("--tensorrt", default="8.6", metavar="VERSION", help=_TENSORRT)
    dla.add_argument("--precision", choices=("int8", "fp16"), default="int8")
    dla.add_argument("--soc", choices=("orin", "xavier"), default="orin")


def _add_dla_check(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "dla-check",
        help="tell what a DLA would run of a model, and why not the rest",
        description="Check an ONNX model against the DLA's restrictions, without TensorRT. Exit "
        "status 0: everything runs on the DLA; 1: something falls back to the GPU.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    _add_dla_arguments(parser)
    parser.add_argument("--all", action="store_true", help="list every node")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the graph")
    parser.set_defaults(run=_dla_check)


def _add_inspect(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from yolox_trt.compiler.inspect.hardware import HARDWARE

    parser = subparsers.add_parser(
        "inspect",
        help="GFLOPs, parameters, channels, activations, TensorRT support of a model",
        description="Look at a model before building it. Exit status 1: TensorRT's parser does not "
        "take an operator.",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="ONNX file")
    add("--device", choices=sorted(HARDWARE), help="compare with a device's peak")
    add("--precision", choices=("int8", "fp16"), default="int8", help="default: int8")
    add(
        "--time",
        type=float,
        metavar="MS",
        help="measured time of one run in ms: gives the efficiency (needs --device)",
    )
    add(
        "--profile",
        type=Path,
        metavar="FILE",
        help="measured time of each layer: JSON of trtexec --exportProfile or of "
        "`yolox_trt build --profile`",
    )
    add("--input-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="count at this size")
    add("--batch", type=int, metavar="N", help="count at this batch")
    add("--tensorrt", default="8.6", metavar="VERSION", help="parser version (default: 8.6)")
    add("--layers", action="store_true", help="list every convolution")
    add("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.set_defaults(run=_inspect)


def _console() -> Console:
    console: Console = require("rich.console").Console()
    return console


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def _named_model(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=MODEL")
    return name, Path(path)


def _surgery_options(args: argparse.Namespace) -> SurgeryOptions:
    from yolox_trt.compiler.surgery import SurgeryOptions
    from yolox_trt.core.labels import load_class_names

    return SurgeryOptions(
        target=args.target,
        tensorrt=args.tensorrt,
        precision=args.precision,
        soc=args.soc,
        batch=args.batch,
        open_batch=args.open_batch,
        input_size=None if args.input_size is None else tuple(args.input_size),
        head=args.head,
        sigmoid=args.sigmoid,
        preprocessing=PREPROCESSING_PRESETS.get(args.preprocessing),
        class_names=None if args.labels is None else tuple(load_class_names(args.labels)),
        fold_preprocessing=args.fold_preprocessing,
        uint8_input=args.uint8_input,
        max_groups=args.max_groups,
        score_threshold=args.score_threshold,
        iou_threshold=args.iou_threshold,
        max_output_boxes=args.max_detections,
        class_agnostic=args.class_agnostic,
        skip=frozenset(args.skip),
    )


def _optimize(args: argparse.Namespace) -> int:
    from yolox_trt.compiler.surgery import PASSES, merge_models
    from yolox_trt.compiler.surgery.table import print_report

    console = _console()
    if args.list_passes:
        table = require("rich.table").Table("pass", "what it does")
        for name, rewrite in PASSES.items():
            table.add_row(name, rewrite.summary)
        console.print(table)
        return 0
    if args.model is None or args.output is None:
        raise ConfigurationError(
            "no " + ("model" if args.model is None else "output file"),
            expected="MODEL -o OUT",
            fix="yolox_trt optimize MODEL --target dla -o OUT",
        )
    prepare_outputs(args.output, args.report)
    options = _surgery_options(args)
    result = _run_optimize(args.model, options, console, verify=not args.no_verify)
    print_report(result.report, console)
    model, status = result.model, 0
    if args.merge:
        merged = {"main": model}
        for name, path in args.merge:
            console.print(f"{name}: {path}")
            other = _run_optimize(path, options, console, verify=not args.no_verify)
            print_report(other.report, console)
            merged[name] = other.model
            status = max(status, _fallback(other, options.target))
        model = merge_models(merged)
    require("onnx").save(model, str(args.output))
    console.print(f"Wrote {args.output}")
    if args.report is not None:
        _write_json(args.report, result.report.to_dict())
    return max(status, _fallback(result, options.target))


def _fallback(result: OptimizeResult, target: str) -> int:
    return int(target == "dla" and result.report.after.gpu_nodes > 0)


def _run_optimize(
    model: Path, options: SurgeryOptions, console: Console, *, verify: bool
) -> OptimizeResult:
    from yolox_trt.compiler.surgery import optimize

    if not console.is_terminal:
        # Where no bar is shown, rich still leaves a blank line.
        return optimize(model, options, verify=verify)
    with require("rich.progress").Progress(console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(name: str, step: int, steps: int) -> None:
            bar.update(task, description=name, completed=step, total=steps)

        return optimize(model, options, verify=verify, progress=show)


def _dla_check(args: argparse.Namespace) -> int:
    from yolox_trt.compiler.dla import check
    from yolox_trt.compiler.dla.picture import draw
    from yolox_trt.compiler.dla.table import print_report

    prepare_outputs(args.json, args.svg)
    report = check(args.model, tensorrt=args.tensorrt, precision=args.precision, soc=args.soc)
    print_report(report, _console(), all_nodes=args.all)
    if args.json is not None:
        _write_json(args.json, report.to_dict())
    if args.svg is not None:
        args.svg.write_text(draw(report))
    return 0 if report.passes else 1


def _inspect(args: argparse.Namespace) -> int:
    from yolox_trt.compiler.inspect.inspector import inspect_model, read_profile
    from yolox_trt.compiler.inspect.table import print_inspection

    prepare_outputs(args.json)
    inspection = inspect_model(
        args.model,
        precision=args.precision,
        device=args.device,
        time_ms=args.time,
        profile=None if args.profile is None else read_profile(args.profile),
        input_size=None if args.input_size is None else tuple(args.input_size),
        batch=args.batch,
        tensorrt=args.tensorrt,
    )
    print_inspection(inspection, _console(), layers=args.layers)
    if args.json is not None:
        _write_json(args.json, inspection.to_dict())
    return 1 if inspection.refused else 0
