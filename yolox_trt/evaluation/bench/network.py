# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a network by itself: any ONNX model with one image input, on the CPU, a GPU or a DLA."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from yolox_trt.compiler.tensorrt.load_engine import load_tensorrt_engine
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.model_types import NO_DETECTOR
from yolox_trt.core.progress import Progress
from yolox_trt.core.shipped_files import default_model
from yolox_trt.engines.engine import Engine
from yolox_trt.engines.onnxruntime import OnnxRuntimeEngine
from yolox_trt.evaluation.bench.device_timing import device_time
from yolox_trt.evaluation.bench.report import Report, Table
from yolox_trt.evaluation.bench.timing import describe_machine, median_time
from yolox_trt.evaluation.options import NetworkOptions
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.image_input import take_image_alone
from yolox_trt.graph.spec import read_spec

_WARMUP = 3


def measure(options: NetworkOptions, on_progress: Progress) -> Report:
    """Run a network again and again, on the CPU on random images.

    Raises:
        ModelError, EngineError, DeviceError: it does not run on the device.
    """
    model = options.model or default_model()
    with closing(_engine(model, options)) as engine:
        batch = engine.max_batch

        def run(number: int) -> None:
            engine.run(batch)
            on_progress("runs", number + 1, options.runs + _WARMUP)

        if engine.memory == "cuda":
            seconds = device_time(
                lambda _: engine.run(batch), replays=options.runs, stream=engine.stream
            )
        else:
            noise = np.random.default_rng(0).integers(0, 256, engine.input.shape)
            np.copyto(engine.input, noise, casting="unsafe")
            seconds = median_time(run, options.runs, warmup=_WARMUP)
        shape = "x".join(map(str, (batch, *engine.input.shape[1:])))
    figures = {
        "model": model.name,
        "device": str(options.device),
        "input": shape,
        "ms": 1e3 * seconds,
        "images_s": batch / seconds,
    }
    columns = {
        "model": "{model}",
        "device": "{device}",
        "input": "{input}",
        "ms": "{ms:.3f}",
        "images/s": "{images_s:.1f}",
    }
    note = f"Median of {options.runs} runs, without preprocessing and decoding."
    return Report(figures, [Table.of(columns, [figures])], [note, describe_machine()])


def _engine(model: Path, options: NetworkOptions) -> Engine:
    if options.device.is_cuda:
        build = BuildOptions(
            precision=options.precision,
            model_type=NO_DETECTOR,
            input_size=options.input_size,
            max_batch=options.max_batch,
        )
        return load_tensorrt_engine(model, options.device, build)
    graph = Graph.load(model)
    take_image_alone(graph)
    return OnnxRuntimeEngine(
        graph.to_model(),
        spec=read_spec(graph, input_size=options.input_size, model_type=NO_DETECTOR),
        max_batch=options.max_batch,
        intra_op_num_threads=options.threads,
    )
