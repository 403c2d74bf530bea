# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Session: a float or Q/DQ model in ONNX Runtime, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.core.errors import EngineError, ModelError
from yolox_trt.graph.graph import Graph, is_plugin
from yolox_trt.graph.onnx_session import NO_SPINNING, make_session


class Session:
    """Runs a model on one image at a time, on the CPU.

    Args:
        graph: a float or Q/DQ model, or a part of one.
        outputs: names of the tensors to return; the graph's own outputs when None.
        purpose: what for, for the error where ONNX Runtime is missing.
        threads: ONNX Runtime's intra-op threads, 0 for its default.
        keep_memory: as in make_session.
        is_part: whether the graph is a part of a model, which takes any tensors.

    Raises:
        ModelError: the model does not take one float32 image, or ends in a plugin.
        EngineError: ONNX Runtime does not load it.
    """

    def __init__(
        self,
        graph: Graph,
        outputs: Sequence[str] | None = None,
        *,
        purpose: str,
        threads: int = 0,
        keep_memory: bool | None = None,
        is_part: bool = False,
    ) -> None:
        if not is_part:
            check_input(graph)
        self._input = graph.inputs[0].name
        model = graph.to_model()
        if outputs is not None:
            del model.graph.output[:]
            model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, outputs))
        self._session = make_session(
            model,
            intra_op_num_threads=threads,
            options=NO_SPINNING,
            keep_memory=keep_memory,
            purpose=purpose,
        )

    def run(self, image: npt.NDArray[np.float32] | Mapping[str, Any]) -> list[Any]:
        """Return the outputs for one image, float32 (1, 3, H, W), or for the inputs by name.

        Raises:
            EngineError: ONNX Runtime does not run the model.
        """
        with EngineError.instead_of(
            Exception,  # onnxruntime raises pybind exceptions of many classes
            "ONNX Runtime does not run the model",
            expected="a model that ONNX Runtime can run, and images of its input size",
            fix="yolox_trt optimize MODEL, or export the model again",
        ):
            feeds = image if isinstance(image, Mapping) else {self._input: image}
            return list(self._session.run(None, feeds))


def check_input(graph: Graph) -> None:
    """Check that a model can be run on one float32 image at a time.

    Raises:
        ModelError: it cannot; the text has the way round.
    """
    plugin = next((node.op for node in graph.nodes if is_plugin(node.op)), None)
    if plugin is not None:
        raise ModelError(
            f"a model that ends in {plugin}, which ONNX Runtime does not have",
            expected="a model that ends in its last convolutions, or in decoded boxes",
            fix="of a YOLOX: yolox_trt optimize MODEL --head raw, and quantise what it writes; of "
            "others: the model from before the plugin was attached",
        )
    image = graph.inputs[0]
    if image.elem_type != onnx.TensorProto.FLOAT:
        found = onnx.TensorProto.DataType.Name(image.elem_type).lower()
        raise ModelError(
            f"input '{image.name}' of type {found}",
            expected="float32",
            fix="quantise the FP32 model from which this one was made",
        )
    batch = image.shape[0] if image.shape else None
    if isinstance(batch, int) and batch > 1:
        raise ModelError(
            f"input '{image.name}' with a batch of {batch} built in",
            expected="batch 1 or an open batch: images are run one at a time",
            fix="yolox_trt optimize MODEL --head keep --open-batch, and quantise what it writes",
        )
