# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The backend ("onnxruntime", "gpu") of executor.factory: a CudaDetector over ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolox_trt.core.errors import EngineError
from yolox_trt.detectors.cuda_detector import CudaDetector
from yolox_trt.detectors.detector import Detector
from yolox_trt.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from yolox_trt.graph.open_batch import fit_batch
from yolox_trt.graph.spec import read_spec

if TYPE_CHECKING:
    from yolox_trt.detectors.factory import DetectorRequest

#: Options of the factory that go to CudaDetector.
DETECTOR_OPTIONS = (
    "max_candidates",
    "max_detections",
    "cuda_graph",
    "profile",
    "mapped",
    "copy_threads",
)


def create(request: DetectorRequest) -> Detector:
    """Make a CudaDetector over ONNX Runtime's CUDA provider.

    Options: those of CudaDetector, and `tf32` of OnnxRuntimeCudaEngine; others belong to other
    backends and are left alone.

    Raises:
        EngineError: a precision that is not in the model itself, or see OnnxRuntimeCudaEngine.
        MissingDependencyError: onnxruntime-gpu or CuPy is missing.
    """
    if request.precision == "int8":
        raise EngineError(
            "precision int8 with ONNX Runtime on the GPU",
            expected="fp32 or fp16, as the model itself is",
            fix="use the engine tensorrt for int8",
        )
    spec = read_spec(
        request.model,
        preprocessing=request.preprocessing,
        class_names=request.class_names,
        input_size=request.input_size,
    )
    own = {"float32": "fp32", "float16": "fp16"}.get(spec.input_dtype, spec.input_dtype)
    if request.precision not in ("", own):
        raise EngineError(
            f"precision {request.precision} for a model in {own} with ONNX Runtime on the GPU",
            expected=f"{own}, as the model itself is",
            fix=f"leave `precision` out, or convert the model to {request.precision}",
        )
    model, spec, max_batch = fit_batch(request.model, spec, request.max_batch)
    engine = OnnxRuntimeCudaEngine(
        model,
        device=request.device,
        spec=spec,
        max_batch=max_batch,
        tf32=bool(request.options.get("tf32", True)),
    )
    options = {k: v for k, v in request.options.items() if k in DETECTOR_OPTIONS}
    return CudaDetector(engine, **options)
