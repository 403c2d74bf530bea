# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt bench kernels`: the CUDA kernels alone, against the memory's bandwidth."""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolox_trt.cli.arguments import whole_number
from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, ModelSpec
from yolox_trt.core.optional import require
from yolox_trt.core.output_paths import prepare_outputs
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.evaluation.bench.device_timing import (
    copy_bandwidth,
    describe_device,
    device_time,
    streaming_time,
)
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.cuda.preprocess import CudaPreprocess, Tile
from yolox_trt.kernels.reference.postprocess import Postprocessor

SUMMARY = "CUDA kernels: preprocessing against the copy bandwidth, decode + NMS"

SOURCE_HEIGHT, SOURCE_WIDTH = 1280, 1920
#: Network inputs, width x height.
SIZES = ((960, 608), (960, 960), (1280, 960), (416, 416))
#: Source bytes that are rotated: several times the L2 of any GPU, so that it does not serve them.
_ROTATED = 400e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument(
        "--encodings", nargs="+", choices=sorted(ENCODINGS), default=["bgr8", "nv12", "uyvy"]
    )
    parser.add_argument("--batches", nargs="+", type=whole_number, default=[1, 8])
    parser.add_argument(
        "--tile",
        nargs=5,
        type=int,
        help="WARPS TILE_ROWS STAGE_BYTES BATCH BLOCKS of preprocess.cu (default: the shipped)",
    )
    parser.add_argument("--skip", choices=("preprocess", "postprocess"), action="append")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and print its tables."""
    prepare_outputs(args.json)
    require("cupy", purpose="the CUDA kernels")
    skip = args.skip or []
    tile: Tile | None = tuple(args.tile) if args.tile else None
    bandwidth = copy_bandwidth()
    figures: dict[str, Any] = {"device": describe_device(), "copy_bandwidth": bandwidth}
    print(f"{figures['device']}; device copy {bandwidth / 1e12:.3f} TB/s")
    if "preprocess" not in skip:
        figures["preprocess"] = []
        print(
            "| encoding | input | type | batch | us | floor us | of copy bandwidth "
            "| plain kernel us |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for encoding in args.encodings:
            for batch in args.batches:
                for figure in measure_preprocess(encoding, batch, bandwidth, tile):
                    figures["preprocess"].append(figure)
                    print(
                        "| {encoding} | {width}x{height} | {dtype} | {batch} | {us:.2f} "
                        "| {floor_us:.2f} | {fraction:.0%} | {streaming_us:.2f} |".format(**figure),
                        flush=True,
                    )
    if "postprocess" not in skip:
        figures["postprocess"] = []
        print("| input | classes | type | candidates | device us | torchvision us | CPU us |")
        print("|---|---|---|---|---|---|---|")
        for figure in measure_postprocess():
            figures["postprocess"].append(figure)
            torch = "-" if figure["torchvision_us"] is None else f"{figure['torchvision_us']:.0f}"
            print(
                "| {width}x{height} | {classes} | {dtype} | {candidates} | {us:.1f} ".format(
                    **figure
                )
                + f"| {torch} | {figure['cpu_us']:.0f} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def measure_preprocess(
    encoding: str, batch: int, bandwidth: float, tile: Tile | None
) -> list[dict[str, Any]]:
    """Measure one encoding and batch for every size and type; sources are rotated.

    The output is one buffer, as an engine's input is. The floor is the traffic (each source byte
    and each output byte once) over the copy bandwidth; "plain" is a kernel that does nothing but
    read and write as many bytes.
    """
    cupy = require("cupy")
    layout = ENCODINGS[encoding]
    step = SOURCE_WIDTH * layout.bytes_per_pixel
    size = int(SOURCE_HEIGHT * layout.rows_per_height) * step
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    frame = Frame.view(data, height=SOURCE_HEIGHT, width=SOURCE_WIDTH, encoding=encoding, step=step)
    sets = max(4, int(_ROTATED / (size * batch)))
    staged = np.append(data, np.zeros(descriptors.SOURCE_MARGIN, np.uint8))
    sources = [cupy.asarray(staged) for _ in range(sets * batch)]
    joined = [cupy.zeros(size * batch, cupy.uint8) for _ in range(sets)]
    struct = descriptors.IMAGE.size
    figures = []
    for width, height in SIZES:
        letterbox = Letterbox.fit(SOURCE_HEIGHT, SOURCE_WIDTH, height, width)
        packed = bytearray(struct * len(sources))
        for i, source in enumerate(sources):
            descriptors.pack_image(
                packed, i * struct, frame, letterbox, color_order="bgr", data=source.data.ptr
            )
        images = cupy.asarray(np.frombuffer(packed, np.uint8))
        for dtype in ("float32", "float16"):
            kernel = CudaPreprocess(height=height, width=width, dtype=dtype, tile=tile)
            output = cupy.empty(kernel.shape(batch), dtype)

            def enqueue(
                i: int,
                kernel: CudaPreprocess = kernel,
                images: Any = images,
                output: Any = output,
            ) -> None:
                kernel(images.data.ptr + i * batch * struct, output.data.ptr, batch)

            seconds = device_time(enqueue, sets)
            floor = (batch * size + output.nbytes) / bandwidth
            figures.append(
                {
                    "encoding": encoding,
                    "width": width,
                    "height": height,
                    "dtype": dtype,
                    "batch": batch,
                    "us": seconds * 1e6,
                    "floor_us": floor * 1e6,
                    "fraction": floor / seconds,
                    "streaming_us": streaming_time(joined, output.nbytes) * 1e6,
                }
            )
    return figures


def measure_postprocess() -> list[dict[str, Any]]:
    """Measure decode + NMS of one image with 10 to 3,000 candidates above the threshold."""
    cupy = require("cupy")
    figures = []
    for size in (416, 960):
        for classes in (80, 8):
            for dtype in ("float32", "float16"):
                for candidates in (10, 100, 1000, 3000):
                    spec = _spec(size, classes)
                    values = _values(spec, candidates, dtype)
                    output = cupy.asarray(values)
                    kernels = CudaPostprocess(spec, {"output": output}, max_batch=1)
                    letterbox = Letterbox.fit(2 * size, 2 * size, size, size)  # no padding
                    options = PostprocessOptions(0.3, 0.45)
                    posts = bytearray(descriptors.POST.size)
                    descriptors.pack_post(posts, 0, letterbox, options)
                    post = cupy.asarray(np.frombuffer(posts, np.uint8))
                    thresholds = cupy.asarray(options.threshold_array(classes))

                    def enqueue(
                        _: int,
                        kernels: CudaPostprocess = kernels,
                        post: Any = post,
                        thresholds: Any = thresholds,
                    ) -> None:
                        kernels(post.data.ptr, thresholds.data.ptr, 1)

                    seconds = device_time(enqueue, 10)
                    results = cupy.asnumpy(kernels.results).view(kernels.dtype)[:, 0]
                    reference = Postprocessor(spec)
                    outputs = {"output": values}
                    figures.append(
                        {
                            "width": size,
                            "height": size,
                            "classes": classes,
                            "dtype": dtype,
                            "candidates": int(results[0]["candidates"]),
                            "us": seconds * 1e6,
                            "torchvision_us": _torchvision(spec, values, options),
                            "cpu_us": _median(
                                functools.partial(reference, outputs, 0, letterbox, options)
                            ),
                        }
                    )
    return figures


def _spec(size: int, classes: int) -> ModelSpec:
    levels = tuple(HeadLevel(s, size // s, size // s) for s in (8, 16, 32))
    return ModelSpec(
        *("images", size, size, 1, classes, HeadLayout.UNDECODED, ("output",)), levels=levels
    )


def _values(spec: ModelSpec, candidates: int, dtype: str) -> npt.NDArray[Any]:
    """Make outputs in which exactly `candidates` anchors have a score above 0.3."""
    rng = np.random.default_rng(1)
    values = np.zeros((1, spec.num_anchors, 5 + spec.num_classes), np.float32)
    values[..., :2] = rng.uniform(0, 1, (1, spec.num_anchors, 2))
    values[..., 2:4] = rng.normal(1.0, 0.5, (1, spec.num_anchors, 2))
    values[..., 4] = rng.uniform(0, 0.25, (1, spec.num_anchors))
    values[..., 5:] = rng.uniform(0, 0.6, (1, spec.num_anchors, spec.num_classes))
    chosen = rng.permutation(spec.num_anchors)[:candidates]
    values[0, chosen, 4] = rng.uniform(0.6, 1, candidates)
    values[0, chosen, 5 + rng.integers(0, spec.num_classes, candidates)] = rng.uniform(
        0.7, 1, candidates
    )
    return values.astype(dtype)


def _torchvision(
    spec: ModelSpec, values: npt.NDArray[Any], options: PostprocessOptions
) -> float | None:
    """Measure the usual chain of PyTorch operators, in microseconds; None without torchvision."""
    try:
        import torch
        from torchvision.ops import batched_nms
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    output = torch.from_numpy(values).cuda()[0]
    cells = np.concatenate(
        [
            np.stack([*np.divmod(np.arange(v.height * v.width), v.width)][::-1], axis=1)
            for v in spec.levels
        ]
    )
    strides = np.concatenate([np.full(v.height * v.width, v.stride) for v in spec.levels])
    grid = torch.from_numpy(cells.astype(np.float32)).cuda()
    stride = torch.from_numpy(strides.astype(np.float32)).cuda()[:, None]

    def chain() -> Any:
        values = output.float()
        centre = (values[:, :2] + grid) * stride
        half = values[:, 2:4].exp() * stride * 0.5
        best, ids = values[:, 5:].max(dim=1)
        scores = values[:, 4] * best
        keep = scores >= options.score_threshold
        boxes = torch.cat((centre - half, centre + half), dim=1)[keep]
        scores, ids = scores[keep], ids[keep]
        kept = batched_nms(boxes, scores, ids, options.nms_threshold)[: options.max_detections]
        return boxes[kept].cpu(), scores[kept].cpu(), ids[kept].cpu()

    return _median(chain)


def _median(call: Callable[[], Any], repeats: int = 15) -> float:
    """Return the median wall-clock time of a call, in microseconds, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]) * 1e6
