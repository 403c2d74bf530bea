# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where ONNX Runtime loads a model: for engines, INT8 and the checks of rewrites."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.core.errors import Message, ModelError
from yolox_trt.core.faults import OutOfMemoryError, library_fault
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.memory import heap_keeps_large_blocks
from yolox_trt.core.optional import require

if TYPE_CHECKING:
    import onnx

    from yolox_trt.graph.graph import Graph
    from yolox_trt.graph.values import Value

#: Options of a session whose threads do not spin while they wait for work: that costs the other
#: threads of the process, and other processes, their cores. Beside other work on 2 cores, a run of
#: yolox_nano took 24 ms with it and 18 ms without, and 26 against 16 ms of CPU time; one of
#: EfficientDet-D0 270 against 190 ms of CPU time.
NO_SPINNING = {"session.intra_op.allow_spinning": "0"}

#: Bytes that a process takes for each one that the tensors of a run hold at a time: 1.0 to 1.7
#: (the shipped model and yolox_nano, batches of 32 to 128, ONNX Runtime 1.32.0, resident memory).
_TAKEN = 1.5
_FIX_BATCH = (
    "set a smaller batch or input size, or open the batch: yolox_trt optimize MODEL --open-batch "
    "-o OUT"
)
#: Where Linux tells a process about the memory of its control group (version 2).
_CGROUP = Path("/sys/fs/cgroup")


def make_session(
    model: str | Path | onnx.ModelProto,
    providers: Sequence[str | tuple[str, dict[str, Any]]] = ("CPUExecutionProvider",),
    *,
    intra_op_num_threads: int | None = None,
    options: Mapping[str, str] | None = None,
    keep_memory: bool | None = None,
    optimize: bool = True,
    purpose: str = "running ONNX models",
) -> Any:
    """Make an onnxruntime.InferenceSession.

    Args:
        model: path of an ONNX file, or the model itself.
        providers: execution providers, best first, as ONNX Runtime takes them.
        intra_op_num_threads: threads of one operator; None leaves it to ONNX Runtime.
        options: session configuration entries (onnxruntime_session_options_config_keys.h).
        keep_memory: keep the memory of one run for the next in ONNX Runtime's own pools; None does
            so unless malloc keeps it already (core.memory), where they double what is resident.
        optimize: let ONNX Runtime rewrite the graph beyond the basics; that takes time, and hides
            what is to be measured.
        purpose: what for, for the error where ONNX Runtime is missing.

    Raises:
        OutOfMemoryError, DeviceBrokenError: see core.faults.
        EngineError: the model cannot be loaded.
        MissingDependencyError: onnxruntime is missing.
    """
    runtime = require("onnxruntime", purpose=purpose)
    session_options = runtime.SessionOptions()
    session_options.log_severity_level = 3
    if keep_memory is None:
        keep_memory = not heap_keeps_large_blocks()
    session_options.enable_cpu_mem_arena = keep_memory
    session_options.enable_mem_pattern = keep_memory
    if not optimize:
        session_options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if intra_op_num_threads is not None:
        session_options.intra_op_num_threads = intra_op_num_threads
    for key, value in (options or {}).items():
        session_options.add_session_config_entry(key, value)
    source = str(model) if isinstance(model, str | Path) else model.SerializeToString()
    try:
        return runtime.InferenceSession(source, session_options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise library_fault(
            error,
            "ONNX Runtime cannot load the model",
            expected="a model with operators that it knows",
            fix="export the model again, or update onnxruntime; one with EfficientNMS_TRT needs a "
            "TensorRT engine, or `yolox_trt optimize` to take it off",
        ) from error


def check_memory(graph: Graph, batch: int, *, calls: int = 1) -> None:
    """Refuse a run on the CPU that cannot fit into memory, or takes very long, before it begins.

    Args:
        graph: the model.
        batch: images of one run.
        calls: runs that are under way at a time.

    Raises:
        ModelError: more images than LIMITS.batch.
        OutOfMemoryError: what the nodes hold at a time needs more than there is.
    """
    if batch > LIMITS.batch:
        raise ModelError(f"a batch of {batch}", expected=f"at most {LIMITS.batch}", fix=_FIX_BATCH)
    graph.infer_shapes()
    own = (graph.image.shape or (1,))[0]
    factor = batch / own if isinstance(own, int) else 1.0
    needed = calls * _TAKEN * factor * _most_held(graph, batch)
    require_memory(needed, f"a batch of {batch}")


def _most_held(graph: Graph, batch: int) -> float:
    """Return the most bytes of tensors that are there at a time, node by node in their order.

    A tensor is there from the node that makes it to the last that reads it, the graph's inputs and
    outputs all the time. Unknown batches count as `batch`, other unknown dimensions as 1.
    """

    def size(value: Value) -> float:
        shape = [d if isinstance(d, int) else batch if i == 0 else 1
                 for i, d in enumerate(value.shape or ())]  # fmt: skip
        return math.prod(shape) * (value.dtype.itemsize if value.dtype else 1)

    kept = {*graph.inputs, *graph.outputs}
    last = {value: node for node in graph.nodes for value in (*node.outputs, *node.variables)}
    held = most = sum(map(size, kept))
    for node in graph.nodes:
        held += sum(size(value) for value in node.outputs if value not in kept)
        most = max(most, held)
        ended = {value for value in (*node.outputs, *node.variables) if last[value] is node}
        held -= sum(map(size, ended - kept))
    return most


def require_memory(needed: float, what: str, *, fix: Message = _FIX_BATCH) -> None:
    """Refuse what cannot fit into memory, before any is taken.

    Args:
        needed: bytes.
        what: what needs them.
        fix: what mends it.

    Raises:
        OutOfMemoryError: there are fewer.
    """
    free = math.inf
    with contextlib.suppress(OSError, ValueError):  # not on every platform
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(
            next(line for line in lines if line.startswith("MemAvailable")).split()[1]
        )
    with contextlib.suppress(OSError, ValueError):  # of a container, if there is one ("max")
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    if needed > free:
        raise OutOfMemoryError(
            f"{what}, which needs about {needed / 1e9:.1f} GB",
            expected=f"at most {free / 1e9:.1f} GB, which are free",
            fix=fix,
        )
