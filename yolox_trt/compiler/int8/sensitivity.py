# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What quantising does to each layer's output, and each layer alone to the network's outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from yolox_trt.compiler.int8.dynamic_ranges import DynamicRanges
from yolox_trt.compiler.int8.layers import QDQ_OPSET, weighted_layers
from yolox_trt.compiler.int8.options import parse_float_layers
from yolox_trt.compiler.int8.qdq import insert_qdq
from yolox_trt.compiler.int8.session import Session, check_input
from yolox_trt.core.progress import Progress, no_progress, track
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.onnx_session import require_memory
from yolox_trt.graph.values import Node, Value


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer's share in the quantisation error.

    Attributes:
        layer: its name.
        error: sum over the network's outputs of ||quantised - float||^2 / ||float||^2 with this
            layer alone in INT8; box channels and score channels of a joint output apart.
        macs: multiply-accumulates of the layer for one image.
    """

    layer: str
    error: float
    macs: int


def layer_macs(graph: Graph) -> dict[str, int]:
    """Return multiply-accumulates of each layer with weights, for one image, by layer name.

    Output positions x weights an output position: H_out * W_out * C_out * C_in / groups * K * K.
    """
    graph.infer_shapes()
    macs = {}
    for node in weighted_layers(graph):
        weights, shape = node.weights(), node.outputs[0].shape or ()
        if weights is not None and len(shape) >= 3:
            positions = math.prod(d if isinstance(d, int) else 0 for d in shape[2:])
            macs[node.name] = positions * int(weights.size)
    return macs


def layer_sensitivity(
    graph: Graph,
    ranges: DynamicRanges,
    images: Sequence[npt.NDArray[np.float32]],
    *,
    threads: int = 0,
    title: str = "",
    on_progress: Progress = no_progress,
) -> list[LayerSensitivity]:
    """Quantise each layer alone and compare the outputs with the float model's.

    A layer changes what follows from it alone: that part of the network is run for it, from tensors
    that the float model has given.

    Args:
        graph: float model.
        ranges: activation scales.
        images: preprocessed inputs, float32 (1, 3, H, W); 4 to 16 are enough for a ranking.
        threads: ONNX Runtime's intra-op threads, 0 for its default.
        title: of the search, where there are several.
        on_progress: told of each layer.

    Returns:
        One record a layer, largest error first.
    """
    check_input(graph)
    graph = graph.copy()
    graph.upgrade(QDQ_OPSET)
    graph.sort()  # what no output depends on is no layer
    layers, macs = weighted_layers(graph), layer_macs(graph)
    name = graph.inputs[0].name
    reference = _Reference(_runs(graph, [{name: image} for image in images], threads))
    tails = _Tails(graph, [{name: image} for image in images], threads)
    result = []
    what = f"sensitivity, {title}" if title else "sensitivity"
    for layer in track(what, [node.name for node in layers], on_progress):
        tail, feeds = tails.of(layer)
        others = [node.name for node in weighted_layers(tail) if node.name != layer]
        quantized = insert_qdq(tail, ranges, keep_float=others, quantize_residual=False)
        error = reference.error(_runs(quantized, feeds, threads))
        result.append(LayerSensitivity(layer, error, macs.get(layer, 0)))
    return sorted(result, key=lambda record: record.error, reverse=True)


class _Tails:
    """The parts of a float model that follow from each of its layers.

    Args:
        graph: the model; its nodes are in order, and outputs depend on all of them.
        feeds: its input, for each image.
        threads: ONNX Runtime's.
    """

    def __init__(self, graph: Graph, feeds: list[dict[str, Any]], threads: int) -> None:
        self._threads = threads
        #: What was not run yet, and what that takes, for each image.
        self._rest, self._feeds = graph, feeds
        readers = {node for node in graph.nodes if not set(graph.inputs).isdisjoint(_read(node))}
        #: Nodes that make no constants: weights behind a Cast must stay with their layers.
        self._running = {node.name for node in _following(graph, readers)}

    def of(self, layer: str) -> tuple[Graph, list[dict[str, Any]]]:
        """Return what follows from a layer, and what that takes; layers are asked for in order."""
        self._run_up_to(layer)
        own = {node for node in self._rest.nodes if node.name == layer}
        reached = _following(self._rest, own)
        outputs = [v.name for v in self._rest.outputs if v.producer in reached]
        return _part(self._rest, self._feeds[0], outputs), self._feeds

    def _run_up_to(self, layer: str) -> None:
        """Run the nodes before a layer, and keep of them what the others read."""
        before = itertools.takewhile(lambda node: node.name != layer, self._rest.nodes)
        done = dict.fromkeys(node for node in before if node.name in self._running)
        others = [node for node in self._rest.nodes if node not in done]
        read = {value for node in others for value in _read(node)}
        made = [value.name for node in done for value in node.outputs if value in read]
        if made:
            part = _part(self._rest, self._feeds[0], made)
            for feed, found in zip(
                self._feeds, _runs(part, self._feeds, self._threads), strict=True
            ):
                feed.update(found)
        outputs = [v.name for v in self._rest.outputs if v.producer not in done]
        self._rest = _part(self._rest, self._feeds[0], outputs)
        taken = {value.name for value in self._rest.inputs}
        self._feeds = [{k: v for k, v in feed.items() if k in taken} for feed in self._feeds]


def _read(node: Node) -> tuple[Value, ...]:
    return (*node.inputs, *node.captured)


def _following(graph: Graph, first: set[Node]) -> set[Node]:
    """Return some nodes and all that follow from them."""
    found = set(first)
    for node in graph.nodes:
        if not found.isdisjoint(node.sources):
            found.add(node)
    return found


def _part(graph: Graph, given: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> Graph:
    """Return the nodes between tensors that are given, and outputs; those that it reads are inputs.

    Args:
        graph: a model; it is not changed.
        given: tensors of the graph by name.
        outputs: names of the tensors that the part makes, none of which is given.
    """
    part = graph.copy()
    values, inputs = part.values(), []
    for name, array in given.items():
        value = values.get(name)
        if value is not None:
            value.producer = None
            value.elem_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            value.shape = array.shape
            inputs.append(value)
    part.outputs = [values[name] for name in outputs]
    part.sort()
    read = {value for node in part.nodes for value in _read(node)}
    part.inputs = [value for value in inputs if value in read]
    return part


#: Tensors by name.
_Feed = Mapping[str, npt.NDArray[Any]]


def _runs(
    graph: Graph, feeds: Sequence[_Feed], threads: int
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the outputs for each of the feeds, which may hold more than the graph takes."""
    session = Session(graph, purpose="the sensitivity search", threads=threads, is_part=True)
    taken, names = ([value.name for value in values] for values in (graph.inputs, graph.outputs))
    for feed in feeds:
        yield dict(zip(names, session.run({name: feed[name] for name in taken}), strict=True))


class _Reference:
    """The float model's outputs, to compare others with.

    Args:
        runs: outputs by name, for each image.
    """

    def __init__(self, runs: Iterable[_Feed]) -> None:
        self._runs = list(runs)
        self._signals = {
            name: np.sum([_squares(run[name]) for run in self._runs], axis=0)
            for name in self._runs[0]
        }

    def error(self, runs: Iterable[_Feed]) -> float:
        """Return LayerSensitivity.error of the outputs that follow from a layer."""
        noises: dict[str, npt.NDArray[np.float64]] = {}
        for expected, run in zip(self._runs, runs, strict=True):
            for name, found in run.items():
                noises[name] = noises.get(name, 0.0) + _squares(expected[name], found)
        shares = (noise / np.maximum(self._signals[n], 1e-12) for n, noise in noises.items())
        return float(sum(share.sum() for share in shares))


def _squares(
    expected: npt.NDArray[Any], found: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.float64]:
    """Return the sum of squares of an output, or of its differences, of each of its parts."""
    if expected.dtype.kind != "f":  # classes behind an ArgMax: their numbers have no distance
        return np.array([1.0 if found is None else np.mean(expected != found)])
    # A joint (N, A, 5 + C) output: boxes are hundreds of times larger than scores.
    joint = expected.ndim == 3 and expected.shape[2] > 5
    sums = []
    for part in (slice(0, 4), slice(4, None)) if joint else (slice(None),):
        values = expected[..., part]
        if found is not None:
            values = np.subtract(found[..., part], values, dtype=np.float32)
        sums.append(np.square(values).sum(dtype=np.float64))
    return np.array(sums)


def choose_float_layers(sensitivities: Sequence[LayerSensitivity], request: str) -> list[str]:
    """Choose layers to keep in FP16.

    Args:
        sensitivities: what layer_sensitivity returned.
        request: "N" for the N most sensitive layers; "P%" for the layers that take away the most
            error for each multiply-accumulate, as long as they fit into P percent of all.

    Raises:
        ConfigurationError: `request` is neither.
    """
    amount, is_share = parse_float_layers(request)
    if not is_share:
        ordered = sorted(sensitivities, key=lambda record: record.error, reverse=True)
        return [record.layer for record in ordered[: int(amount)]]
    room = amount / 100.0 * sum(record.macs for record in sensitivities)
    chosen = []
    for record in sorted(sensitivities, key=lambda r: r.error / max(r.macs, 1), reverse=True):
        if record.macs <= room:
            chosen.append(record.layer)
            room -= record.macs
    return chosen


class LayerErrors:
    """Compares the outputs of the layers with weights, errors of earlier layers included.

    Args:
        graph: float model; its layers' outputs are kept.
        images: preprocessed inputs, float32 (1, 3, H, W); one or two are enough.
        threads: ONNX Runtime's intra-op threads, 0 for its default.

    Raises:
        OutOfMemoryError: what is kept does not fit into memory.
    """

    def __init__(
        self, graph: Graph, images: Sequence[npt.NDArray[np.float32]], *, threads: int = 0
    ) -> None:
        self._images, self._threads = images, threads
        layers = weighted_layers(graph)
        self._layers = {node.outputs[0].name: node.name for node in layers}
        graph.infer_shapes()
        sizes = [node.outputs[0].static_shape or () for node in layers]
        require_memory(4.0 * sum(map(math.prod, sizes)) * len(images), "the layers' outputs")
        self._expected = self._run(graph, list(self._layers))

    def _run(self, graph: Graph, names: Sequence[str]) -> list[list[npt.NDArray[np.float32]]]:
        session = Session(graph, names, purpose="comparing layers", threads=self._threads)
        return [session.run(image) for image in self._images]

    def of(self, quantized: Graph) -> dict[str, float]:
        """Return layer name -> ||quantised - float|| / ||float||, in the order of the network.

        Args:
            quantized: the same network with Q/DQ; layers are matched by their outputs' names.
        """
        present = quantized.values()
        places = [i for i, name in enumerate(self._layers) if name in present]
        names = list(self._layers)
        found = self._run(quantized, [names[i] for i in places])
        errors = {}
        for k, i in enumerate(places):
            pairs = [(e[i], f[k]) for e, f in zip(self._expected, found, strict=True)]
            noise, signal = (
                sum(float(np.sum(np.square(v, dtype=np.float64))) for v in values)
                for values in ([f - e for e, f in pairs], [e for e, _ in pairs])
            )
            errors[self._layers[names[i]]] = math.sqrt(noise / max(signal, 1e-30))
        return errors
