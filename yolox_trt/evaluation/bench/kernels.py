# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels alone, against the memory's bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.frame import Frame
from yolox_trt.core.letterbox import Letterbox
from yolox_trt.core.model_spec import (
    BoxFormat,
    HeadLayout,
    HeadLevel,
    HeadTensor,
    ModelSpec,
    SegmentationHead,
)
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
from yolox_trt.kernels.cuda.masks import CudaMasks
from yolox_trt.kernels.cuda.postprocess import CudaPostprocess
from yolox_trt.kernels.cuda.preprocess import CudaPreprocess, Tile
from yolox_trt.kernels.reference.decode import Decoder
from yolox_trt.kernels.reference.masks import read_mask
from yolox_trt.kernels.reference.postprocess import Postprocessor

SOURCE_HEIGHT, SOURCE_WIDTH = 1280, 1920
#: Network inputs, width x height.
SIZES = ((960, 608), (960, 960), (1280, 960), (416, 416))
#: Layout of a network's input -> channels by which its outputs are packed (0: rows of a table).
#: The DLA's hwc4 is for inputs alone.
_OUTPUT_FORMATS = {"nchw": 0, "chw16": 16, "chw32": 32}
#: Source bytes that are rotated: several times the L2 of any GPU, so that it does not serve them.
_ROTATED = 400e6
#: Size, classes and candidates above the threshold, for each format of the outputs.
_POSTPROCESS_RUNS = list(product((416, 960), (80, 8), (10, 100, 1000, 3000)))
_PREPROCESS = {
    "encoding": "{encoding}",
    "input": "{height}x{width}",
    "format": "{format}",
    "batch": "{batch}",
    "us": "{us:.2f}",
    "floor us": "{floor_us:.2f}",
    "of copy bandwidth": "{fraction:.0%}",
    "plain kernel us": "{streaming_us:.2f}",
}
_POSTPROCESS = {
    "input": "{height}x{width}",
    "classes": "{classes}",
    "format": "{format}",
    "candidates": "{candidates}",
    "device us": "{us:.1f}",
    "torchvision us": "{torch}",
    "CPU us": "{cpu_us:.0f}",
}


#: Kind of another detector, anchors of a 640x640 input (or rows of detections), and candidates.
_FORM_RUNS = [("yolov8", 8400, 3000), ("yolov5", 25200, 3000), ("yolov10", 300, 300)]
_FORMS = {
    "model type": "{model_type}",
    "outputs": "{outputs}",
    "type": "{dtype}",
    "candidates": "{candidates}",
    "device us": "{us:.1f}",
    "CPU us": "{cpu_us:.0f}",
}

#: Input size, stride and type of a segmentation output; its classes behind an ArgMax are int32.
_MASK_RUNS = [(960, *rest) for rest in product((1, 4), ("float32", "float16", "int32"))]
_MASK_CLASSES = 16
_MASKS = {
    "input": "{size}x{size}",
    "stride": "{stride}",
    "type": "{dtype}",
    "runs": "{runs}",
    "device us": "{us:.1f}",
    "floor us": "{floor_us:.1f}",
    "CPU us": "{cpu_us:.0f}",
}


def measure(options: KernelsOptions, on_progress: Progress = no_progress) -> Report:
    """Measure the kernels."""
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
            found += measure_preprocess(encoding, batch, bandwidth, options.formats, tile)
        figures["preprocess"] = found
        tables.append(Table.of(_PREPROCESS, found, "preprocess"))
    if "postprocess" not in options.skip:
        found = []
        formats = [each for each in options.formats if each.partition(":")[2] in _OUTPUT_FORMATS]
        post_runs = list(product(formats, _POSTPROCESS_RUNS))
        for done, (form, run) in enumerate(post_runs):
            on_progress("decode + NMS", done, len(post_runs))
            found.append(measure_postprocess(*run, form))
        figures["postprocess"] = found
        shown = [
            each | {"torch": "-" if (us := each["torchvision_us"]) is None else f"{us:.0f}"}
            for each in found
        ]
        tables.append(Table.of(_POSTPROCESS, shown, "decode + NMS"))
        figures["forms"] = [
            measure_form(*run, dtype)
            for run in _FORM_RUNS
            for dtype in dict.fromkeys(form.partition(":")[0] for form in formats)
            if dtype != "int8"
        ]
        tables.append(Table.of(_FORMS, figures["forms"], "decode + NMS of other detectors, COCO"))
    if "masks" not in options.skip:
        found = []
        for done, mask_run in enumerate(_MASK_RUNS):
            on_progress("masks", done, len(_MASK_RUNS))
            found.append(measure_masks(*mask_run, bandwidth))
        figures["masks"] = found
        tables.append(Table.of(_MASKS, found, "masks (argmax, resize to the source, runs)"))
    device = f"{figures['device']}; device copy {bandwidth / 1e12:.3f} TB/s"
    return Report(figures, tables, [device])


def measure_preprocess(
    encoding: str,
    batch: int,
    bandwidth: float,
    formats: Sequence[str] = ("float32:nchw", "float16:nchw"),
    tile: Tile | None = None,
) -> list[dict[str, Any]]:
    """Measure one encoding and batch for every size and format; sources are rotated.

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
        for form in formats:
            dtype, memory = form.split(":")
            kernel = CudaPreprocess(
                height=height, width=width, dtype=dtype, layout=memory, tile=tile
            )
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
                    "format": form,
                    "batch": batch,
                    "us": seconds * 1e6,
                    "floor_us": floor * 1e6,
                    "fraction": floor / seconds,
                    "streaming_us": streaming_time(joined, output.nbytes) * 1e6,
                }
            )
    return figures


def measure_postprocess(size: int, classes: int, candidates: int, form: str) -> dict[str, Any]:
    """Measure decode + NMS of one image with `candidates` anchors above the threshold.

    In the DLA's formats the outputs are those of a head that is cut before its concatenation.
    """
    dtype, layout = form.split(":")
    spec = _spec(size, classes)
    values = _values(spec, candidates, "float16" if dtype == "float16" else "float32")
    kernel_spec, outputs = spec, {"output": values}
    scales: dict[str, float] = {}
    packed = _OUTPUT_FORMATS[layout]
    if packed:
        kernel_spec = _raw_spec(spec)
        outputs, scales = _raw_outputs(kernel_spec, values, dtype, packed)
    letterbox = Letterbox.fit(2 * size, 2 * size, size, size)  # no padding
    options = PostprocessOptions(0.3, 0.45)
    seconds, found = _postprocess_time(kernel_spec, outputs, letterbox, options, scales)
    reference = partial(Postprocessor(spec), {"output": values}, 0, letterbox, options)
    return {
        "width": size,
        "height": size,
        "classes": classes,
        "format": form,
        "candidates": found,
        "us": seconds * 1e6,
        "torchvision_us": _torchvision(spec, values, options),
        "cpu_us": _microseconds(reference),
    }


def measure_form(model_type: str, rows: int, candidates: int, dtype: str) -> dict[str, Any]:
    """Measure decode, and NMS where it is needed, of one image of another detector."""
    spec, outputs = form_case(model_type, rows, candidates, dtype)
    letterbox = Letterbox.fit(1280, 1280, 640, 640)
    options = PostprocessOptions(0.3, 0.45)
    seconds, found = _postprocess_time(spec, outputs, letterbox, options)
    reference = partial(Postprocessor(spec), outputs, 0, letterbox, options)
    return {
        "model_type": model_type,
        "outputs": " x ".join(map(str, outputs["output"].shape[1:])),
        "dtype": dtype,
        "candidates": found,
        "us": seconds * 1e6,
        "cpu_us": _microseconds(reference),
    }


def form_case(
    model_type: str, rows: int, candidates: int, dtype: str
) -> tuple[ModelSpec, dict[str, npt.NDArray[Any]]]:
    """Make a description and outputs in which exactly `candidates` rows have a score above 0.3."""
    head, columns = {
        "yolov8": (HeadLayout.CLASS_SCORES, 84),
        "yolov5": (HeadLayout.DECODED, 85),
        "yolov10": (HeadLayout.END_TO_END, 6),
    }[model_type]
    ends = head is HeadLayout.END_TO_END
    spec = ModelSpec(
        *("images", 640, 640, 1, 80, head, ("output",), ()),
        model_type=model_type,
        box_format=BoxFormat.XYXY if ends else BoxFormat.CXCYWH,
        nms=not ends,
        channels_first=model_type == "yolov8",
    )
    rng = np.random.default_rng(1)
    values = np.zeros((1, rows, columns), np.float32)
    corner = rng.uniform(0, 560, (rows, 2))
    sides = rng.uniform(8, 80, (rows, 2))
    values[0, :, :2] = corner if ends else corner + sides / 2
    values[0, :, 2:4] = corner + sides if ends else sides
    chosen = rng.permutation(rows)[:candidates]
    strong = rng.uniform(0.7, 1, candidates)
    if ends:
        values[0, chosen, 4], values[0, :, 5] = strong, rng.integers(0, 80, rows)
    else:
        values[0, :, columns - 80 :] = rng.uniform(0, 0.25, (rows, 80))
        values[0, chosen, columns - 80 + rng.integers(0, 80, candidates)] = strong
        if columns == 85:
            values[0, :, 4] = rng.uniform(0, 0.25, rows)
            values[0, chosen, 4] = rng.uniform(0.6, 1, candidates)
    if spec.channels_first:
        values = np.ascontiguousarray(values.transpose(0, 2, 1))
    return spec, {"output": values.astype(dtype)}


def _postprocess_time(
    spec: ModelSpec,
    outputs: dict[str, npt.NDArray[Any]],
    letterbox: Letterbox,
    options: PostprocessOptions,
    scales: dict[str, float] | None = None,
) -> tuple[float, int]:
    """Return the seconds of one image on the device, and its candidates."""
    cupy = require("cupy")
    kernels = CudaPostprocess(
        spec,
        {name: cupy.asarray(value) for name, value in outputs.items()},
        max_batch=1,
        scales=scales,
    )
    posts = bytearray(descriptors.POST.size)
    descriptors.pack_post(posts, 0, letterbox, options)
    post = cupy.asarray(np.frombuffer(posts, np.uint8))
    thresholds = cupy.asarray(options.threshold_array(spec.num_classes))
    seconds = device_time(lambda _: kernels(post.data.ptr, thresholds.data.ptr, 1), 10)
    results = cupy.asnumpy(kernels.results).view(kernels.dtype)[:, 0]
    return seconds, int(results[0]["candidates"])


def measure_masks(size: int, stride: int, dtype: str, bandwidth: float) -> dict[str, Any]:
    """Measure the mask of one camera image: classes, resize to the source, run-length encoding.

    Outputs are rotated, several times the L2 in all. The floor is one reading of the cells that
    the image covers.
    """
    cupy = require("cupy")
    cells = size // stride
    has_argmax = dtype == "int32"
    head = SegmentationHead("mask", _MASK_CLASSES, stride, cells, cells, has_argmax)
    # Regions of a street scene's size, with noise at their edges.
    rng = np.random.default_rng(2)
    step = max(1, 64 // stride)
    rough = rng.normal(0, 4, (_MASK_CLASSES, *[-(-cells // step)] * 2)).astype(np.float32)
    logits = rough.repeat(step, 1).repeat(step, 2)[:, :cells, :cells]
    logits = logits + rng.normal(0, 0.05, logits.shape).astype(np.float32)
    values = (logits.argmax(0) if has_argmax else logits)[None].astype(dtype)
    letterbox = Letterbox.fit(SOURCE_HEIGHT, SOURCE_WIDTH, size, size)
    sets = max(4, min(64, int(_ROTATED / values.nbytes)))
    kernels, jobs = [], bytearray(descriptors.MASK.size * sets)
    for i in range(sets):
        kernels.append(CudaMasks(head, cupy.asarray(values), max_batch=1))
        kernels[i].ask(jobs, i * descriptors.MASK.size, 0, letterbox, wanted=True)
    on_device = cupy.asarray(np.frombuffer(jobs, np.uint8))
    address = int(on_device.data.ptr)
    seconds = device_time(lambda i: kernels[i](address + i * descriptors.MASK.size, 1), sets)
    mask = kernels[0].read(0, jobs, 0)
    assert mask is not None
    seen = letterbox.resized_height * letterbox.resized_width / size**2
    return {
        "size": size,
        "stride": stride,
        "dtype": dtype,
        "runs": len(mask.values),
        "us": seconds * 1e6,
        "floor_us": values.nbytes * seen / bandwidth * 1e6,
        "cpu_us": _microseconds(partial(read_mask, head, {"mask": values}, 0, letterbox)),
    }


def _spec(size: int, classes: int) -> ModelSpec:
    levels = tuple(HeadLevel(s, size // s, size // s) for s in (8, 16, 32))
    return ModelSpec(
        *("images", size, size, 1, classes, HeadLayout.UNDECODED, ("output",)), levels=levels
    )


def _raw_spec(spec: ModelSpec) -> ModelSpec:
    """Return a spec with one output a level, box, objectness and classes one behind the other."""
    levels = tuple(
        replace(
            level,
            box=HeadTensor(f"level_{level.stride}", 0),
            objectness=HeadTensor(f"level_{level.stride}", 4),
            classes=HeadTensor(f"level_{level.stride}", 5),
        )
        for level in spec.levels
    )
    names = tuple(f"level_{level.stride}" for level in levels)
    return replace(spec, head=HeadLayout.RAW_LEVELS, output_names=names, levels=levels)


def _raw_outputs(
    spec: ModelSpec, values: npt.NDArray[Any], dtype: str, channels: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, float]]:
    """Return the levels' outputs packed by `channels`, and the scales of int8."""
    outputs, scales = {}, {}
    first = 0
    for level in spec.levels:
        cells = level.height * level.width
        name = f"level_{level.stride}"
        planes = values[0, first : first + cells].T
        if dtype == "int8":
            scales[name] = float(np.abs(planes).max() / 127)
            planes = np.rint(planes / scales[name])
        groups = -(-len(planes) // channels)
        padded = np.zeros((groups * channels, cells), dtype)
        padded[: len(planes)] = planes
        shape = (1, groups, channels, level.height, level.width)
        outputs[name] = np.ascontiguousarray(padded.reshape(shape).transpose(0, 1, 3, 4, 2))
        first += cells
    return outputs, scales


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
