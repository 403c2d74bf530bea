# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""A model with batch 1 built in, made to take any batch, and compared with what it was."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from yolox_trt.core.errors import ModelError
from yolox_trt.core.model_spec import ModelSpec
from yolox_trt.graph.batch_axis import open_batch
from yolox_trt.graph.float16 import computes_in_fp16
from yolox_trt.graph.model_graph import load_model
from yolox_trt.graph.predictions import predict, relative_difference, sample_images

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger("yolox_trt.build")

#: Counts in the fingerprint of engines built from an opened graph: raise it when the same model
#: is opened in another way.
REVISION = 1

#: Largest relative difference between an image alone and the same image in a batch: libraries
#: sum in another order for another batch. FP16: ten of its roundings (2^-10 each).
TOLERANCE = 1e-4
TOLERANCE_FP16 = 1e-2


def check_open_batch(original: onnx.ModelProto, opened: onnx.ModelProto, spec: ModelSpec) -> float:
    """Run both in ONNX Runtime on the same images, the opened one with more than the old batch.

    Args:
        original: the model with a fixed batch.
        opened: what open_batch made of it.
        spec: the original's description.

    Returns:
        The largest relative difference of boxes, objectness and classes.

    Raises:
        ModelError: an image's predictions differ by more than TOLERANCE (TOLERANCE_FP16 in FP16),
            or ONNX Runtime does not run one of them.
    """
    images = sample_images((spec.batch or 1) + 1, spec.input_height, spec.input_width)
    expected = predict(original, images, spec=spec)
    found = predict(opened, images, spec=dataclasses.replace(spec, batch=None))
    difference = relative_difference(expected, found)
    tolerance = TOLERANCE_FP16 if computes_in_fp16(original) else TOLERANCE
    if difference > tolerance:
        raise ModelError(
            f"with an open batch the predictions differ by {difference:.2g} (relative)",
            expected=f"at most {tolerance:g} from those of batch {spec.batch}",
            fix="export the model with an open batch, or leave the batch as it is; please report "
            "the model",
        )
    return difference


def fit_batch(
    model: str | Path | onnx.ModelProto, spec: ModelSpec, max_batch: int | None
) -> tuple[str | Path | onnx.ModelProto, ModelSpec, int | None]:
    """Return model, description and largest batch for an engine that takes ONNX as it is.

    A model with another batch built in than is asked for is opened, and compared with what it
    was. If it cannot be, its own batch is taken, with a warning.

    Args:
        model: ONNX file or loaded model.
        spec: its description.
        max_batch: what is asked for; None for the model's own.
    """
    if spec.batch is None or max_batch in (None, spec.batch):
        return model, spec, max_batch
    name = str(model) if isinstance(model, str | Path) else "the model"
    try:
        original = load_model(model)
        opened, changes = open_batch(original)
        check_open_batch(original, opened, spec)
    except ModelError as error:
        _log.warning("%s runs with batch %d, not %d: %s", name, spec.batch, max_batch, error)
        return model, spec, spec.batch
    _log.info(
        "%s has batch %d built in; opened for max_batch %d (%d changes)",
        name,
        spec.batch,
        max_batch,
        len(changes),
    )
    return opened, dataclasses.replace(spec, batch=None), max_batch
