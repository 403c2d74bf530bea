# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands `calibrate`, `quantize` and `translate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.output import Output
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.output_paths import prepare_outputs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

    from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges

_ALGORITHMS = "max, entropy, mse, percentile[:NUMBER], or fixed (ReLU6's bounds, no images)"


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands on the parser of `yolox_trt`.

    Commands with --images read the attribute `open_bag` of their arguments: a function that
    gives the image frames of a bag. The top-level command sets it, since this room knows no ROS.
    """
    _add_calibrate(subparsers)
    _add_quantize(subparsers)
    _add_translate(subparsers)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", help="folder, list file, COCO folder or json, or bag of calibration images"
    )
    parser.add_argument(
        "--limit", type=int, default=1000, help="use at most so many images (default 1000; 0: all)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="threads of ONNX Runtime (default 0: all cores)"
    )
    parser.set_defaults(open_bag=None)


def _add_calibrate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "calibrate", help="find INT8 ranges of every tensor, for TensorRT 8.5 to 10.x and the DLA"
    )
    parser.add_argument("model", help="float ONNX model")
    _add_images(parser)
    parser.add_argument("--algorithm", default="percentile:99.999", help=_ALGORITHMS)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TENSOR=RANGE",
        help="set a tensor's range (name or pattern), as for the heads of a ReLU6 model",
    )
    parser.add_argument(
        "--dla", action="store_true", help="make ranges equal where the DLA takes one only"
    )
    parser.add_argument("--cache", help="TensorRT calibration cache to write")
    parser.add_argument("--tensorrt", default="8.6.1", help="version that reads it (default 8.6.1)")
    parser.add_argument(
        "--calibrator",
        default="IInt8EntropyCalibrator2",
        help="TensorRT class that reads it (default IInt8EntropyCalibrator2, the DLA's only one; "
        "the header's name says nothing about --algorithm)",
    )
    parser.add_argument("--ranges", help="JSON of dynamic ranges to write")
    parser.set_defaults(run=_calibrate)


def _add_quantize(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "quantize", help="write a Q/DQ ONNX model, for the GPU, TensorRT 11 and TensorRT-RTX"
    )
    parser.add_argument("model", help="float ONNX model")
    parser.add_argument("-o", "--output", required=True, help="Q/DQ ONNX file to write")
    _add_images(parser)
    parser.add_argument("--algorithm", default="percentile:99.999", help=_ALGORITHMS)
    parser.add_argument(
        "--equalize",
        nargs="?",
        type=float,
        const=0.75,
        metavar="ALPHA",
        help="move channel ranges into the weights first (0 to 1, default 0.75): SiLU and "
        "depthwise networks need it",
    )
    parser.add_argument(
        "--keep-fp16",
        default="",
        metavar="LIST",
        help="layers to leave in floating point: names with commas, auto:N (the N most "
        "sensitive), auto:P%% (within P percent of the operations), or a JSON file "
        "of `translate --precisions`",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TENSOR=RANGE",
        help="set a tensor's range (name or pattern)",
    )
    parser.add_argument(
        "--placement",
        choices=("conv_inputs", "all"),
        default="conv_inputs",
        help="conv_inputs: as TensorRT fuses (default); all: every tensor",
    )
    parser.add_argument(
        "--weights",
        choices=("int8", "float"),
        default="int8",
        help="int8: a quarter of the size, TensorRT 10, 11, RTX (default); float: TensorRT 8.x",
    )
    parser.add_argument(
        "--from-ranges", metavar="FILE", help="take ranges from a calibration cache or JSON instead"
    )
    parser.set_defaults(run=_quantize)


def _add_translate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "translate",
        help="turn a Q/DQ ONNX into a float ONNX, a calibration cache and layer precisions",
    )
    parser.add_argument("model", help="Q/DQ ONNX model (the other way: quantize --from-ranges)")
    parser.add_argument("-o", "--output", required=True, help="float ONNX file to write")
    parser.add_argument("--cache", required=True, help="TensorRT calibration cache to write")
    parser.add_argument("--tensorrt", default="8.6.1", help="version that reads it (default 8.6.1)")
    parser.add_argument("--calibrator", default="IInt8EntropyCalibrator2", help="see calibrate")
    parser.add_argument("--precisions", help="JSON of layers that stay in FP16, to write")
    parser.add_argument(
        "--dla", action="store_true", help="infer the ranges that the DLA needs besides"
    )
    parser.set_defaults(run=_translate)


def _overrides(items: Iterable[str]) -> dict[str, float]:
    result = {}
    for item in items:
        name, separator, value = item.rpartition("=")
        try:
            result[name] = float(value)
        except ValueError:
            separator = ""
        if not separator or result[name] <= 0:
            raise ConfigurationError(
                f"--set {item}",
                expected="TENSOR=RANGE with a positive range",
                fix="give it in this form, such as --set reg_8=6.0",
            )
    return result


def _load(path: str) -> onnx.ModelProto:
    from yolox_trt.graph.model_graph import load_model

    return load_model(path)


def _open_inputs(
    args: argparse.Namespace, model: onnx.ModelProto
) -> tuple[Callable[[], Iterator[npt.NDArray[np.float32]]] | None, int | None]:
    from yolox_trt.compiler.int8.images import calibration_frames, network_inputs
    from yolox_trt.graph.spec import read_spec

    if args.images is None:
        return None, None
    spec = read_spec(model)
    _, total = calibration_frames(args.images, limit=args.limit, open_bag=args.open_bag)

    def open_inputs() -> Iterator[npt.NDArray[np.float32]]:
        frames, _ = calibration_frames(args.images, limit=args.limit, open_bag=args.open_bag)
        return network_inputs(frames, spec)

    return open_inputs, total


def _save(model: onnx.ModelProto, path: str) -> None:
    import onnx

    target = Path(path)
    onnx.save(model, str(target))
    print(f"{path}: {target.stat().st_size / 1e6:.2f} MB")


def _calibrate(args: argparse.Namespace) -> int:
    from yolox_trt.compiler.int8.algorithms import parse_algorithm
    from yolox_trt.compiler.int8.calibration_cache import version_number, write_cache
    from yolox_trt.compiler.int8.collect import collect_statistics, float_tensors
    from yolox_trt.compiler.int8.infer_ranges import (
        fixed_ranges,
        infer_missing,
        override_ranges,
        unify_for_dla,
    )

    if not args.cache and not args.ranges:
        raise ConfigurationError(
            "no output file", expected="one or both", fix="give --cache FILE or --ranges FILE"
        )
    if args.cache:
        version_number(args.tensorrt)  # refuse before an hour of calibration
    prepare_outputs(args.cache, args.ranges)
    model = _load(args.model)
    overrides = _overrides(args.set)
    if args.algorithm == "fixed":
        ranges = fixed_ranges(model, overrides)
    else:
        parse_algorithm(args.algorithm)
        open_inputs, total = _open_inputs(args, model)
        if open_inputs is None:
            raise ConfigurationError(
                "no calibration images",
                expected="images, unless the algorithm is `fixed`",
                fix="give --images FOLDER|LIST|BAG",
            )
        tensors = float_tensors(model)
        with Output().progress() as update:
            done = 0

            def tick() -> None:
                nonlocal done
                done += 1
                update("calibrate", done, total)

            statistics = collect_statistics(
                model, open_inputs(), tensors=tensors, threads=args.threads, on_image=tick
            )
        ranges = statistics.ranges(args.algorithm)
        override_ranges(model, ranges, overrides)
    inferred = infer_missing(model, ranges)
    if args.dla:
        unify_for_dla(model, ranges)
    missing = [name for name in float_tensors(model) if name not in ranges]
    print(f"{len(ranges)} ranges, {len(inferred)} of them inferred, {len(missing)} tensors without")
    if missing:
        print(f"without a range (build their layers in FP16, or --set): {', '.join(missing)}")
    if args.ranges:
        ranges.save_json(args.ranges)
        print(args.ranges)
    if args.cache:
        write_cache(args.cache, ranges, tensorrt_version=args.tensorrt, calibrator=args.calibrator)
        print(args.cache)
    return 0


def _quantize(args: argparse.Namespace) -> int:
    from yolox_trt.compiler.int8.algorithms import parse_algorithm
    from yolox_trt.compiler.int8.infer_ranges import override_ranges
    from yolox_trt.compiler.int8.qdq import Placement, WeightFormat, insert_qdq
    from yolox_trt.compiler.int8.quantizer import QuantizeOptions, quantize

    prepare_outputs(args.output)
    model = _load(args.model)
    keep = _layer_names(args.keep_fp16)
    placement, weight_format = Placement(args.placement), WeightFormat(args.weights)
    if args.from_ranges:
        if any(name.startswith("auto:") for name in keep) or args.equalize is not None:
            raise ConfigurationError(
                "--from-ranges with --equalize or --keep-fp16 auto:",
                expected="ranges found on this same model, and layers by name",
                fix="give --images instead of --from-ranges",
            )
        ranges = _read_ranges(args.from_ranges)
        override_ranges(model, ranges, _overrides(args.set))
        quantized = insert_qdq(
            model, ranges, keep_float=keep, placement=placement, weight_format=weight_format
        )
        _save(quantized, args.output)
        return 0
    if args.algorithm != "fixed":
        parse_algorithm(args.algorithm)
    open_inputs, total = _open_inputs(args, model)
    options = QuantizeOptions(
        algorithm=args.algorithm,
        equalize_alpha=args.equalize,
        keep_fp16=keep,
        range_overrides=_overrides(args.set),
        placement=placement,
        weight_format=weight_format,
    )
    with Output().progress() as update:
        result = quantize(
            model,
            open_inputs,
            options,
            threads=args.threads,
            on_progress=lambda what, done, of: update(what, done, of or total),
        )
    if result.equalized:
        print(f"equalised {len(result.equalized)} tensors")
    for record in result.sensitivities[:10]:
        print(
            f"  sensitive: {record.layer} error {record.error:.2e} MACs {record.macs / 1e6:.1f} M"
        )
    if result.kept:
        print(
            f"kept in floating point ({100 * result.kept_macs:.1f} % of the operations): "
            f"{', '.join(result.kept)}"
        )
    _save(result.model, args.output)
    return 0


def _layer_names(text: str) -> list[str]:
    if not text.endswith(".json"):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        return list(json.loads(Path(text).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"--keep-fp16 {text}, which cannot be read ({error})",
            expected="a JSON object of layer names",
            fix="yolox_trt translate MODEL --precisions FILE writes it",
        ) from error


def _read_ranges(path: str) -> DynamicRanges:
    from yolox_trt.compiler.int8.calibration_cache import read_cache
    from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges

    return DynamicRanges.load_json(path) if path.endswith(".json") else read_cache(path)


def _translate(args: argparse.Namespace) -> int:
    from yolox_trt.compiler.int8.calibration_cache import version_number, write_cache
    from yolox_trt.compiler.int8.translate import remove_qdq

    version_number(args.tensorrt)
    prepare_outputs(args.output, args.cache, args.precisions)
    implicit = remove_qdq(_load(args.model), for_dla=args.dla)
    if not implicit.explicit:
        raise ConfigurationError(
            f"no QuantizeLinear in '{args.model}'",
            expected="a Q/DQ model",
            fix="yolox_trt calibrate MODEL for a float model",
        )
    _save(implicit.model, args.output)
    write_cache(
        args.cache,
        implicit.ranges,
        tensorrt_version=args.tensorrt,
        calibrator=args.calibrator,
    )
    print(
        f"{args.cache}: {len(implicit.ranges)} ranges, {len(implicit.explicit)} of them from Q/DQ"
    )
    precisions = {name: "fp16" for name in implicit.keep_float}
    if args.precisions:
        Path(args.precisions).write_text(json.dumps(precisions, indent=1) + "\n", encoding="utf-8")
        print(args.precisions)
    elif precisions:
        print(f"layers to build in FP16: {', '.join(precisions)}")
    return 0
