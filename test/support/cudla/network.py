# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A small INT8 YOLOX as a loadable of the stand-in, and as ONNX Runtime computes it."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from support.cudla import StandIn, Tensor, array_at, loadable
from support.cudla.streams import install
from support.engine_files import EXAMPLE
from support.int8_graphs import images, run
from support.layouts import chw_to_hwc4, pack
from support.yolox_graphs import build_yolox

from yolox_trt.compiler.int8.collect import collect_statistics
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.engines.engine_file import BuiltEngine, EngineFile, write_engine
from yolox_trt.engines.tensor_layout import TensorLayout
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec

#: cuDLA's data formats: NCHW, NHWC, NCxHWx.
_FORMATS = {"dla_linear": 1, "dla_hwc4": 2, "chw16": 3, "chw32": 3}


@functools.cache
def _quantized() -> tuple[Graph, dict[str, float], Any]:
    options = {"activation": "relu6", "stem": "conv", "spp": "chained", "head": "raw_levels"}
    graph = Graph(build_yolox(width=0.125, num_classes=3, **options))
    ranges = collect_statistics(graph, images(graph, 1)).ranges("max")
    scales = {graph.inputs[0].name: float(ranges[graph.inputs[0].name])}
    for image in images(graph):
        for value, found in zip(graph.outputs, run(graph, image), strict=True):
            step = 1.5 * float(np.abs(found).max()) / 127.0  # no saturation with other images
            scales[value.name] = max(step, scales.get(value.name, 0.0))
    quantized = insert_qdq(graph, ranges)
    session = ort.InferenceSession(
        quantized.to_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return graph, scales, session


class Int8Network:
    """A YOLOX whose INT8 graph ONNX Runtime runs, with inputs and outputs in formats of the DLA.

    Args:
        outputs: type and format of the outputs, such as "int8:chw32".
        image: likewise of the input.
    """

    def __init__(self, outputs: str = "int8:chw32", image: str = "int8:dla_hwc4") -> None:
        graph, self.scales, self._session = _quantized()
        self.spec = read_spec(graph)
        assert self.spec.tensor_names == tuple(v.name for v in graph.outputs)
        self.layouts = {}
        for value in (*graph.inputs, *graph.outputs):
            dtype, form = (image if value in graph.inputs else outputs).split(":")
            shape = tuple(int(n) for n in value.static_shape or ())
            kind = {"int8": "int8", "fp16": "float16"}[dtype]
            self.layouts[value.name] = TensorLayout(shape, kind, form)
        self.input_name = graph.inputs[0].name

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return ONNX Runtime's outputs of the INT8 graph by name; `image` is float32 NCHW."""
        found = self._session.run(None, {self.input_name: image})
        return dict(zip(self.spec.tensor_names, found, strict=True))

    def compute(self, inputs: list[int], outputs: list[int]) -> None:
        """Compute as the stand-in's core: from and to memory in the formats of the DLA."""
        layout = self.layouts[self.input_name]
        array = layout.view(array_at(inputs[0], layout)).astype(np.float32)
        if layout.format == "dla_hwc4":
            assert not array[..., 3].any()
            array = array[..., :3].transpose(0, 3, 1, 2)
        elif layout.format.startswith("chw"):
            assert not array[..., 3:].any()
            array = array[:, 0, ..., :3].transpose(0, 3, 1, 2)
        scale = self.scales[self.input_name] if layout.dtype == "int8" else 1.0
        results = self.run(np.ascontiguousarray(array * np.float32(scale)))
        for address, (name, value) in zip(outputs, results.items(), strict=True):
            layout = self.layouts[name]
            if layout.dtype == "int8":
                value = np.rint(value / np.float32(self.scales[name])).clip(-128, 127)
            value = value.astype(layout.dtype)
            target = array_at(address, layout)
            if layout.format == "dla_linear":
                layout.view(target)[...] = value
            elif layout.format == "dla_hwc4":
                target[...] = chw_to_hwc4(value, row_alignment=64)
            else:
                target[...] = pack(value, int(layout.format[3:]))

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as the loadable tells it."""
        layout = self.layouts[name]
        n, c, h, w = layout.shape
        itemsize = np.dtype(layout.dtype).itemsize
        buffer = layout.buffer_shape
        hwc4 = layout.format == "dla_hwc4"
        row = (buffer[2] * 4 if hwc4 else buffer[-1]) * itemsize
        size = math.prod(buffer) * itemsize
        shape = (n, 4 if hwc4 else c, h, w)
        return Tensor(name, layout.dtype, shape, size, _FORMATS[layout.format], row)

    def details(self) -> dict[str, Any]:
        """Return what a build writes into the sidecar."""
        return {
            "io_scales": {n: s for n, s in self.scales.items() if self.layouts[n].dtype == "int8"},
            "tensors": {
                name: {"shape": list(x.shape), "type": x.dtype, "format": x.format}
                for name, x in self.layouts.items()
            },
            "dla_versions": {"cudla": "1.2.1", "dla": 2000},
        }

    def write(
        self, folder: Path, data: bytes | None = None, *, device: str = "dla0", **details: Any
    ) -> EngineFile:
        """Write the loadable and its sidecar; return it as it is read again."""
        inputs = [self.tensor(self.input_name)]
        outputs = [self.tensor(name) for name in self.spec.tensor_names]
        fingerprint = dataclasses.replace(
            EXAMPLE,
            device=device,
            height=self.spec.input_height,
            width=self.spec.input_width,
            options={"dla_standalone": True},
        )
        data = data if data is not None else loadable(inputs, outputs)
        built = BuiltEngine(data, self.spec, self.details() | details)
        return write_engine(folder / "yolox.engine", built, fingerprint)


class Orin:
    """A machine with the stand-in, and a network.

    Args:
        monkeypatch: undoes it.
        outputs, image: as of Int8Network.
        cuda: whether its host's stand-in for CUDA is installed.

    Attributes:
        network, dla: the network, and the stand-in that runs it.
        cupy: the stand-in for CuPy; None without CUDA.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        outputs: str = "int8:chw32",
        image: str = "int8:dla_hwc4",
        *,
        cuda: bool = False,
    ) -> None:
        self.network = Int8Network(outputs, image)
        self.dla = StandIn(monkeypatch, self.network.compute, (1, len(self.network.scales) - 1))
        self.cupy = install(monkeypatch, self.dla) if cuda else None
