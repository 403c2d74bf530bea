# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels alone, against the memory's bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import HeadLayout, HeadLevel, ModelSpec
from yolox_trt.core.optional import require
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.evaluation.bench.device_timing import (
    copy_bandwidth,
    describe_device,
    device_time,
    streaming_time,
)
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import median_time
from yolox_trt.evaluation.options import KernelsOptions
from yolox_trt.kernels.cuda import descriptors
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.cuda.preprocess import CudaPreprocess, Tile
from yolox_trt.kernels.reference.decode import Decoder
from yolox_trt.kernels.reference.postprocess import Postprocessor

SOURCE_HEIGHT, SOURCE_WIDTH = 1280, 1920
#: Network inputs, width x height.
SIZES = ((960, 608), (960, 960), (1280, 960), (416, 416))
#: Source bytes that are rotated: several times the L2 of any GPU, so that it does not serve them.
_ROTATED = 400e6
#: Size, classes, type of the outputs, candidates above the threshold.
_POSTPROCESS_RUNS = list(
    product((416, 960), (80, 8), ("float32", "float16"), (10, 100, 1000, 3000))
)
_PREPROCESS = {
    "encoding": "{encoding}",
    "input": "{height}x{width}",
    "type": "{dtype}",
    "batch": "{batch}",
    "us": "{us:.2f}",
    "floor us": "{floor_us:.2f}",
    "of copy bandwidth": "{fraction:.0%}",
    "plain kernel us": "{streaming_us:.2f}",
}
_POSTPROCESS = {
    "input": "{height}x{width}",
    "classes": "{classes}",
    "type": "{dtype}",
    "candidates": "{candidates}",
    "device us": "{us:.1f}",
    "torchvision us": "{torch}",
    "CPU us": "{cpu_us:.0f}",
}


def measure(options: KernelsOptions, on_progress: Progress = no_progress) -> Report:
    """Measure both kernels."""
    require("cupy", purpose="the CUDA kernels")
    tile = cast(Tile, tuple(options.tile)) if options.tile else None
    bandwidth = copy_bandwidth()
    figures: dict[str, Any] = {"device": describe_device(), "copy_bandwidth": bandwidth}
    tables = []
    if "preprocess" not in options.skip:
        runs = list(product(options.encodings, options.batches))
        found = []
        for done, (encoding, batch) in enumerate(runs):
            on_progress("preprocess", done, len(runs))
            found += measure_preprocess(encoding, batch, bandwidth, tile)
        figures["preprocess"] = found
        tables.append(Table.of(_PREPROCESS, found, "preprocess"))
    if "postprocess" not in options.skip:
        found = []
        for done, run in enumerate(_POSTPROCESS_RUNS):
            on_progress("decode + NMS", done, len(_POSTPROCESS_RUNS))
            found.append(measure_postprocess(*run))
        figures["postprocess"] = found
        shown = [
            each | {"torch": "-" if (us := each["torchvision_us"]) is None else f"{us:.0f}"}
            for each in found
        ]
        tables.append(Table.of(_POSTPROCESS, shown, "decode + NMS"))
    device = f"{figures['device']}; device copy {bandwidth / 1e12:.3f} TB/s"
    return Report(figures, tables, [device])


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


def measure_postprocess(size: int, classes: int, dtype: str, candidates: int) -> dict[str, Any]:
    """Measure decode + NMS of one image with `candidates` anchors above the threshold."""
    cupy = require("cupy")
    spec = _spec(size, classes)
    values = _values(spec, candidates, dtype)
    kernels = CudaPostprocess(spec, {"output": cupy.asarray(values)}, max_batch=1)
    letterbox = Letterbox.fit(2 * size, 2 * size, size, size)  # no padding
    options = PostprocessOptions(0.3, 0.45)
    posts = bytearray(descriptors.POST.size)
    descriptors.pack_post(posts, 0, letterbox, options)
    post = cupy.asarray(np.frombuffer(posts, np.uint8))
    thresholds = cupy.asarray(options.threshold_array(classes))
    seconds = device_time(lambda _: kernels(post.data.ptr, thresholds.data.ptr, 1), 10)
    results = cupy.asnumpy(kernels.results).view(kernels.dtype)[:, 0]
    reference = partial(Postprocessor(spec), {"output": values}, 0, letterbox, options)
    return {
        "width": size,
        "height": size,
        "classes": classes,
        "dtype": dtype,
        "candidates": int(results[0]["candidates"]),
        "us": seconds * 1e6,
        "torchvision_us": _torchvision(spec, values, options),
        "cpu_us": _microseconds(reference),
    }


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
    decoder = Decoder(spec)
    output, grid, stride = (
        torch.from_numpy(each).cuda() for each in (values[0], decoder.grid, decoder.strides)
    )

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

    return _microseconds(chain)


def _microseconds(call: Callable[[], Any]) -> float:
    return 1e6 * median_time(lambda _: call(), 15, warmup=2)
