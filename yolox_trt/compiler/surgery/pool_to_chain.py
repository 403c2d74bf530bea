# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""PoolToChain: large max pools as chains of small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolox_trt.compiler.surgery.surgery_pass import PassLog, SurgeryPass
from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

#: Largest pooling window of the DLA (restriction table of NvInfer.h).
MAX_WINDOW = 8
_LINK = 5


class PoolToChain(SurgeryPass):
    """A stride-1 max pool with a window over 8 -> a chain of 5 x 5 pools, shared between windows.

    The maximum over a window of k is the maximum of maxima: two windows of a and b, one after the
    other, cover a + b - 1. SPP's 9 and 13 are two and three times 5. Padding never wins a maximum,
    so borders agree too: values are bit-exact.
    """

    name = "spp-to-chain"
    summary = "max pools over 8 (SPP 9, 13) -> shared chains of 5 x 5 pools"

    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        pools = [n for n in graph.graph.nodes if n.op == "MaxPool"]
        links: dict[tuple[int, int], gs.Tensor] = {}
        for node in pools:
            if _window(node) == _LINK and _is_same(node):
                links.setdefault((id(node.inputs[0]), _LINK), node.outputs[0])
        for node in sorted(pools, key=lambda n: max(n.attrs.get("kernel_shape", [0]))):
            kernel = node.attrs.get("kernel_shape", [0])
            if max(kernel) <= MAX_WINDOW:
                continue
            if not _is_same(node):
                log.note(
                    f"{node.name}: {kernel} pool left as it is; only square odd windows with "
                    "stride 1 and padding on all sides have an equal chain"
                )
                continue
            window = kernel[0]
            tensor = node.inputs[0]
            sizes = _chain(window)
            for size in sizes:
                key = (id(tensor), size)
                if key not in links:
                    name = f"{node.name}_pool{size}"
                    links[key] = graph.add_node(
                        "MaxPool",
                        name,
                        [tensor],
                        {"kernel_shape": [size] * 2, "pads": [size // 2] * 4, "strides": [1, 1]},
                        dtype=node.outputs[0].dtype,
                        shape=node.outputs[0].shape,
                    )
                tensor = links[key]
            kept = graph.replace_tensor(node.outputs[0], tensor)
            links = {key: kept if t is tensor else t for key, t in links.items()}
            chain = " + ".join(f"{s}x{s}" for s in sizes)
            log.change(f"{node.name}: {window}x{window} pool -> {chain}")


def _window(node: gs.Node) -> int | None:
    kernel = node.attrs.get("kernel_shape", [])
    return int(kernel[0]) if len(kernel) == 2 and kernel[0] == kernel[1] else None


def _is_same(node: gs.Node) -> bool:
    """Whether a pool keeps the size: square odd window, stride 1, padded by half on all sides."""
    window = _window(node)
    return (
        window is not None
        and window % 2 == 1
        and len(node.outputs) == 1
        and all(s == 1 for s in node.attrs.get("strides", [1, 1]))
        and all(d == 1 for d in node.attrs.get("dilations", [1, 1]))
        and list(node.attrs.get("pads", [0] * 4)) == [window // 2] * 4
        and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"
    )


def _chain(window: int) -> list[int]:
    """Return odd windows up to 5 whose chain covers an odd window."""
    sizes = []
    rest = window - 1
    while rest >= _LINK - 1:
        sizes.append(_LINK)
        rest -= _LINK - 1
    if rest:
        sizes.append(rest + 1)
    return sizes
