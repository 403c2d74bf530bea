# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A fingerprint and a model specification, for tests of engines that no TensorRT has built."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from yolox_trt.core.model_spec import HeadLayout, ModelSpec
from yolox_trt.engines.fingerprint import Fingerprint

EXAMPLE = Fingerprint(
    onnx_sha256="ab" * 32,
    precision="int8",
    calibration_sha256="cd" * 32,
    device="dla0",
    batch=(1, 1, 1),
    height=608,
    width=960,
    tensorrt_version="8.5.2.2",
    flavour="tensorrt",
    compute_capability="8.7",
    options={"sparsity": False, "layer_precisions": {"a": "fp16"}},
)

SPEC = ModelSpec("images", 608, 960, 1, 80, HeadLayout.EFFICIENT_NMS, ("n", "b", "s", "c"), ())


def version(number: int) -> Fingerprint:
    """Give EXAMPLE's fingerprint under another TensorRT."""
    return dataclasses.replace(EXAMPLE, tensorrt_version=f"8.6.{number}")


def start_python(code: str, folder: Path) -> subprocess.Popen[str]:
    """Start code in another process, with pipes; it finds the folder in sys.argv[1]."""
    test = Path(__file__).parents[1]
    places = (str(test), str(test.parent), os.environ.get("PYTHONPATH", ""))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
