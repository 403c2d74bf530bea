# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Write a trained detector as ONNX, with the metadata that the rest of yolox_trt reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.files import whole_or_none
from yolox_trt.core.input_size import AUTO_SIZE
from yolox_trt.core.labels import default_class_names
from yolox_trt.core.model_spec import METADATA_INPUT_SIZE
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Value
from yolox_trt.training.model_config import STRIDES, ModelConfig
from yolox_trt.training.options import ExportOptions
from yolox_trt.training.torch_device import check_room
from yolox_trt.training.yolox import YOLOX, decode_outputs, flatten_outputs

#: Bytes of a pixel of an image during a run, at the least: itself, and the first layer's outputs.
_RUN_BYTES = 24


class _Exported(nn.Module):
    """A model with the outputs of one form, and those of its segmentation head behind them.

    "raw": nine tensors, reg (N,4,h,w), obj (N,1,h,w), cls (N,C,h,w) of each stride, all logits.
    "decoded": one tensor (N, A, 5 + C): centre x, y, width, height in pixels, then probabilities.
    """

    def __init__(self, model: YOLOX, options: ExportOptions, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.options, self.size = model, options, size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs, logits = self.model.with_masks(images)
        masks: tuple[Tensor, ...] = () if logits is None else (logits,)
        if logits is not None and self.options.argmax:
            masks = (logits.argmax(1).to(torch.int32),)
        if self.options.form == "raw":
            return *(t for level in outputs for t in level), *masks
        flat = flatten_outputs(outputs)
        boxes, _ = decode_outputs(flat, self.size)
        low, high = boxes[..., :2], boxes[..., 2:]
        return torch.cat(((low + high) / 2, high - low, flat[..., 4:].sigmoid()), -1), *masks


def output_names(form: str, config: ModelConfig | None = None) -> list[str]:
    """Names of the outputs: `reg_8, obj_8, cls_8, reg_16 ...` or `output`, then `seg_4`, say."""
    masks = [f"seg_{config.mask_stride}"] if config and config.mask_class_names else []
    if form == "decoded":
        return ["output", *masks]
    return [f"{kind}_{s}" for s in STRIDES for kind in ("reg", "obj", "cls")] + masks


def metadata(model: YOLOX, form: str, class_names: Sequence[str]) -> dict[str, str]:
    """What a graph cannot say, as ONNX metadata (JSON values)."""
    names = list(model.config.mask_class_names)
    return {
        "yolox_trt.preprocessing": json.dumps(
            {"color_order": "bgr", "scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1], "pad": 114}
        ),
        "yolox_trt.class_names": json.dumps(list(class_names)),
        "yolox_trt.strides": json.dumps(list(STRIDES)),
        "yolox_trt.sigmoid": json.dumps(form == "decoded"),
        "yolox_trt.activation": json.dumps(model.config.activation),
        **({"yolox_trt.mask_class_names": json.dumps(names)} if names else {}),
    }


def export_onnx(
    model: YOLOX,
    path: str | Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
) -> None:
    """Export a folded model; classes without names in its configuration are COCO's, if 80.

    With float16 weights a Cast to float32 stands behind each: every runtime folds it when it loads
    the model, and computes in float32 as before.

    Args:
        model: the model, without batch norm.
        path: file to write.
        options: the form of the file.

    Raises:
        ModelError: for batch norm left in, or weights that float16 cannot hold.
        OutOfMemoryError: for a run of the model, which finds its operators, without room.
        ConfigurationError: for an opset that this PyTorch does not write, or a wrong number of
            class names.
    """
    import onnx

    config = model.config
    class_names = config.class_names or default_class_names(config.num_classes)
    size = options.size or config.input_size
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ModelError(
            "a model with batch norm", expected="a folded one", fix="call fold_batch_norm first"
        )
    if class_names and len(class_names) != config.num_classes:
        raise ConfigurationError(
            f"{len(class_names)} class names",
            expected=f"{config.num_classes}, one for each class",
            fix="give the names in the order of the model's outputs",
        )
    given = options_of(ExportOptions)
    check_room(
        torch.device("cpu"),
        options.batch * math.prod(size) * _RUN_BYTES,
        f"a run of {options.batch} images of {size[0]}x{size[1]} pixels",
        ("set a smaller ", given["batch"], " or ", given["size"]),
    )
    wrapped = _Exported(model, options, size)
    names = output_names(options.form, config)
    with whole_or_none(Path(path)) as part:
        _trace(wrapped, (options.batch, 3, *size), part, names, options)
        graph = Graph.load(part)
        _tidy(graph)
        if options.half_weights:
            _store_half(graph)
        graph.sort()
        graph.metadata = metadata(model, options.form, class_names)
        if options.auto_size:
            graph.metadata[METADATA_INPUT_SIZE] = json.dumps(AUTO_SIZE)
        proto = graph.to_model()
        proto.producer_name = "yolox_trt"
        proto.producer_version = ""
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, str(part))


def _trace(
    wrapped: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    names: list[str],
    options: ExportOptions,
) -> None:
    opened = {n: {0: "batch"} for n in ("images", *names)} if options.dynamic_batch else None
    try:
        torch.onnx.export(
            wrapped.eval().cpu(),
            (torch.zeros(shape),),
            str(path),
            input_names=["images"],
            output_names=names,
            opset_version=options.opset,
            dynamic_axes=opened,
            # The tracing exporter writes plain operators at any opset from 13 and needs no
            # onnxscript.
            dynamo=False,
        )
    except (ValueError, RuntimeError) as error:
        declared = options_of(ExportOptions)["opset"]
        if options.opset == declared.default:
            raise
        # Of an operator that an opset lacks, PyTorch tells at length; older ones know fewer opsets.
        raise ConfigurationError(
            (declared, f" = {options.opset} ({str(error).splitlines()[0]})"),
            expected=f"one that this PyTorch writes, such as {declared.default}",
            fix=("set ", declared),
        ) from error


def _tidy(graph: Graph) -> None:
    """Name nodes after their modules, and hold each constant of the exporter's own once."""
    for node in graph.find("Identity"):
        graph.replace(node.outputs[0], node.inputs[0])
    known: dict[tuple[object, ...], Value] = {}
    for node in graph.nodes:
        # Traced names read /model/backbone/backbone/dark2/dark2.0/conv/Conv.
        parts: list[str] = []
        for part in node.name.removeprefix("/model/").strip("/").split("/"):
            if parts and part.startswith(f"{parts[-1]}."):
                parts[-1] = part
            else:
                parts.append(part)
        node.name = ".".join(parts)
        for value in node.inputs:
            # Those of the model are called after their modules, with dots.
            if value.values is not None and value.name.startswith("/"):
                key = (value.elem_type, value.shape, value.values.tobytes())
                if key not in known:
                    known[key] = graph.constant(f"constant_{len(known)}", value.values)
                node.replace_input(value, known[key])


def _store_half(graph: Graph) -> None:
    """Replace float32 weights of two and more dimensions by float16 and a Cast."""
    for name, value in graph.values().items():
        if value.values is None or value.dtype != np.float32 or value.values.ndim < 2:
            continue
        half = value.values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ModelError(
                f"{name} has values over 65504",
                expected="weights that float16 can hold",
                fix=("leave out ", options_of(ExportOptions)["half_weights"]),
            )
        stored = graph.constant(f"{name}.half", half)
        readers = value.readers
        to_float = {"to": value.elem_type}
        cast = graph.add_node("Cast", f"{name}.cast", [stored], to_float, output=Value(name))
        for reader in readers:
            reader.replace_input(value, cast)
