# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt calibrate`, `quantize` and `translate`: a model in INT8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.compiler.int8.calibration_cache import CacheOptions, write_cache
from yolox_trt.compiler.int8.options import (
    CalibrateOptions,
    ImageOptions,
    QuantizeOptions,
    RangeFiles,
)
from yolox_trt.core.files import write_atomically
from yolox_trt.core.input_size import AUTO_SIZE
from yolox_trt.core.option import nested, option, parse_path, path_option
from yolox_trt.core.output_paths import OutputFile, write_json

if TYPE_CHECKING:
    from yolox_trt.compiler.int8.images import CalibrationInputs
    from yolox_trt.compiler.int8.quantizer import Calibration
    from yolox_trt.graph.graph import Graph

#: Layers of a list that are printed; the JSON has all of them.
_SHOWN = 10


def sized_model(path: Path, options: ImageOptions) -> Graph:
    """Read a model that will be quantised, at its size, and note in it what its input expects."""
    from yolox_trt.compiler.int8.images import float_model
    from yolox_trt.graph.input_size import note_wish, tool_size, with_size

    graph, asked = float_model(path, options.preprocessing), options.input_size
    inputs = calibration_inputs(graph, options) if asked == AUTO_SIZE else None
    size = tool_size(graph, asked, inputs.shapes() if inputs is not None else ())
    note_wish(graph, size)
    return graph if size is None else with_size(graph, size)


def calibration_inputs(graph: Graph, options: ImageOptions) -> CalibrationInputs | None:
    """Open the images that the options name; None where they name none."""
    from yolox_trt.compiler.int8.images import CalibrationInputs
    from yolox_trt.graph.image_input import read_image_input
    from yolox_trt.ros.tools.bag import ImageBag

    if options.images is None:
        return None
    return CalibrationInputs(
        options.images, read_image_input(graph), limit=options.limit, open_bag=ImageBag
    )


def write_ranges(found: Calibration, files: RangeFiles, output: Output) -> None:
    """Write the files of a calibration, and tell what is in them."""
    output.print(
        f"{len(found.ranges)} ranges, {len(found.inferred)} of them inferred, "
        f"{len(found.missing)} tensors without"
    )
    if found.missing:
        output.print(
            "without a range (build their layers in FP16, or --set): " + ", ".join(found.missing)
        )
    if files.ranges:
        found.ranges.save_json(files.ranges)
        output.print(str(files.ranges))
    if files.cache:
        write_cache(files.cache, found.ranges, files)
        output.print(str(files.cache))


def _save(output: Output, graph: Graph, path: Path) -> None:
    write_atomically(path, graph.to_model().SerializeToString())
    output.print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


@dataclass(frozen=True, kw_only=True)
class Calibrate(Command, name="calibrate", needs=("onnx",), has_json=True):
    """Find INT8 ranges of every tensor, for TensorRT 8.5 to 10.x and the DLA.

    Examples:
        yolox_trt calibrate MODEL --images FOLDER --dla --cache model.cache
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="Float ONNX model.")
    images: ImageOptions = nested(ImageOptions)
    options: CalibrateOptions = nested(CalibrateOptions)
    files: RangeFiles = nested(RangeFiles)

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.int8.quantizer import calibrate

        graph = sized_model(self.model, self.images)
        inputs = calibration_inputs(graph, self.images)
        with output.progress() as progress:
            found = calibrate(graph, inputs, self.options, on_progress=progress)
        write_ranges(found, self.files, output)
        output.json(
            {
                "model": self.model,
                "cache": self.files.cache,
                "ranges_file": self.files.ranges,
                "algorithm": found.ranges.algorithm,
                "ranges": found.ranges.amaxes(),
                "inferred": found.inferred,
                "missing": found.missing,
            }
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class Quantize(Command, name="quantize", needs=("onnx",), has_json=True):
    """Write a Q/DQ ONNX model, for the GPU, TensorRT 11 and TensorRT-RTX.

    Examples:
        yolox_trt quantize MODEL --images FOLDER --equalize -o model_int8.onnx
        yolox_trt quantize MODEL --from-ranges model.cache --keep-fp16 layers.json -o int8.onnx
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="Float ONNX model.")
    output: Path = option(parse=OutputFile(), flag="--output -o", help="Q/DQ ONNX file to write.")
    images: ImageOptions = nested(ImageOptions)
    options: QuantizeOptions = nested(QuantizeOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.int8.quantizer import quantize

        graph = sized_model(self.model, self.images)
        inputs = calibration_inputs(graph, self.images)
        with output.progress() as progress:
            result = quantize(graph, inputs, self.options, on_progress=progress)
        if result.equalized:
            output.print(f"equalised {len(result.equalized)} tensors")
        for record in result.sensitivities[:_SHOWN]:
            output.print(
                f"  sensitive: {record.layer} error {record.error:.2e} "
                f"MACs {record.macs / 1e6:.1f} M"
            )
        if result.kept:
            more = len(result.kept) - _SHOWN
            output.print(
                f"kept in floating point ({100 * result.kept_macs:.1f} % of the operations): "
                + ", ".join(result.kept[:_SHOWN])
                + (f" and {more} more (--json has all)" if more > 0 else "")
            )
        _save(output, result.graph, self.output)
        output.json(
            {
                "model": self.model,
                "output": self.output,
                "algorithm": result.ranges.algorithm,
                "ranges": result.ranges.amaxes(),
                "equalized": result.equalized,
                "sensitivities": result.sensitivities,
                "kept": result.kept,
                "kept_macs": result.kept_macs,
            }
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class Translate(Command, name="translate", needs=("onnx",), has_json=True):
    """Turn a Q/DQ ONNX into a float ONNX, a calibration cache and layer precisions.

    `quantize --from-ranges` goes the other way.

    Examples:
        yolox_trt translate int8.onnx -o model.onnx --cache model.cache --dla
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="Q/DQ ONNX model.")
    output: Path = option(parse=OutputFile(), flag="--output -o", help="Float ONNX file to write.")
    cache: Path = option(parse=OutputFile(), help="TensorRT calibration cache to write.")
    reader: CacheOptions = nested(CacheOptions)
    precisions: Path | None = path_option(
        parse=OutputFile(), help="JSON file of layers that stay in FP16, to write."
    )
    dla: bool = option(False, help="Infer the ranges that the DLA needs besides.")

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.int8.translate import remove_qdq
        from yolox_trt.graph.graph import Graph

        implicit = remove_qdq(Graph.load(self.model), for_dla=self.dla)
        _save(output, implicit.graph, self.output)
        write_cache(self.cache, implicit.ranges, self.reader)
        output.print(
            f"{self.cache}: {len(implicit.ranges)} ranges, {len(implicit.explicit)} of them from "
            "Q/DQ"
        )
        precisions = dict.fromkeys(implicit.keep_float, "fp16")
        if self.precisions:
            write_json(self.precisions, precisions)
            output.print(str(self.precisions))
        elif precisions:
            output.print(f"layers to build in FP16: {', '.join(precisions)}")
        output.json(
            {
                "model": self.model,
                "output": self.output,
                "cache": self.cache,
                "ranges": implicit.ranges.amaxes(),
                "explicit": implicit.explicit,
                "precisions": precisions,
            }
        )
        return 0
