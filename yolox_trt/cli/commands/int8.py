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
from yolox_trt.compiler.int8.options import CalibrateOptions, ImageOptions, QuantizeOptions
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import nested, option, options_of, parse_path, path_option
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import OutputFile, write_json

if TYPE_CHECKING:
    from yolox_trt.compiler.int8.images import CalibrationInputs
    from yolox_trt.graph.graph import Graph


def calibration_inputs(graph: Graph, options: ImageOptions) -> CalibrationInputs | None:
    """Open the images that the options name; None where they name none."""
    from yolox_trt.compiler.int8.images import CalibrationInputs
    from yolox_trt.graph.spec import read_spec
    from yolox_trt.ros.tools.bag import ImageBag

    if options.images is None:
        return None
    return CalibrationInputs(
        options.images, read_spec(graph), limit=options.limit, open_bag=ImageBag
    )


def _save(output: Output, graph: Graph, path: Path) -> None:
    require("onnx").save(graph.to_model(), str(path))
    output.print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


@dataclass(frozen=True, kw_only=True)
class Calibrate(Command, name="calibrate", needs=("onnx",)):
    """Find INT8 ranges of every tensor, for TensorRT 8.5 to 10.x and the DLA.

    Examples:
        yolox_trt calibrate MODEL --images FOLDER --dla --cache model.cache
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="Float ONNX model.")
    images: ImageOptions = nested(ImageOptions)
    options: CalibrateOptions = nested(CalibrateOptions)
    cache: Path | None = path_option(
        parse=OutputFile(), help="TensorRT calibration cache to write."
    )
    reader: CacheOptions = nested(CacheOptions)
    ranges: Path | None = path_option(
        parse=OutputFile(), help="JSON file of dynamic ranges to write."
    )

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.int8.quantizer import calibrate
        from yolox_trt.graph.graph import Graph

        if not self.cache and not self.ranges:
            declared = options_of(Calibrate)
            cache, ranges = declared["cache"], declared["ranges"]
            raise ConfigurationError("no output file", fix=("give ", cache, " or ", ranges))
        graph = Graph.load(self.model)
        inputs = calibration_inputs(graph, self.images)
        with output.progress() as progress:
            found = calibrate(graph, inputs, self.options, on_progress=progress)
        output.print(
            f"{len(found.ranges)} ranges, {len(found.inferred)} of them inferred, "
            f"{len(found.missing)} tensors without"
        )
        if found.missing:
            output.print(
                "without a range (build their layers in FP16, or --set): "
                + ", ".join(found.missing)
            )
        if self.ranges:
            found.ranges.save_json(self.ranges)
            output.print(str(self.ranges))
        if self.cache:
            write_cache(self.cache, found.ranges, self.reader)
            output.print(str(self.cache))
        return 0


@dataclass(frozen=True, kw_only=True)
class Quantize(Command, name="quantize", needs=("onnx",)):
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
        from yolox_trt.graph.graph import Graph

        graph = Graph.load(self.model)
        inputs = calibration_inputs(graph, self.images)
        with output.progress() as progress:
            result = quantize(graph, inputs, self.options, on_progress=progress)
        if result.equalized:
            output.print(f"equalised {len(result.equalized)} tensors")
        for record in result.sensitivities[:10]:
            output.print(
                f"  sensitive: {record.layer} error {record.error:.2e} "
                f"MACs {record.macs / 1e6:.1f} M"
            )
        if result.kept:
            output.print(
                f"kept in floating point ({100 * result.kept_macs:.1f} % of the operations): "
                + ", ".join(result.kept)
            )
        _save(output, result.graph, self.output)
        return 0


@dataclass(frozen=True, kw_only=True)
class Translate(Command, name="translate", needs=("onnx",)):
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
        return 0
