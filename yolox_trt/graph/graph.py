# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Graph: one ONNX model in memory, loaded once and shared by every tool that reads or rewrites it.

graph = Graph.load("yolox.onnx")
for conv in graph.find("Conv"):
    weights = conv.constant(1)               # values of a constant input, None where computed
    reader = conv.outputs[0].only_reader     # nodes and values are linked both ways
gate = graph.add_node("Sigmoid", "gate", [x])  # named, typed and shaped
graph.replace(old, gate)                     # every reader of old reads gate; outputs keep names
model = graph.to_model()                     # an onnx.ModelProto: to save, or for ONNX Runtime
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolox_trt.core.errors import ModelError
from yolox_trt.core.optional import require
from yolox_trt.graph.inference import (
    Shape,
    has_schema,
    infer_model,
    infer_node,
    is_sound,
    read_type,
)
from yolox_trt.graph.protobuf import (
    check_functions,
    check_graph,
    constant_tensor,
    dense,
    free_names,
    inner_graphs,
)
from yolox_trt.graph.values import Node, Value

if TYPE_CHECKING:
    import onnx

#: Lowest opset that rewrites write: Clip takes its bounds as inputs and Resize its present form
#: from here on.
MIN_OPSET = 11
#: TensorRT's parser looks plugins up by operator name; the domain keeps onnx's checker content.
PLUGIN_DOMAIN = "TRT"
#: From this IR version on, an initialiser need not be a graph input too.
_IR_VERSION = 4


def is_plugin(op: str) -> bool:
    """Whether an operator's name is that of a plugin of TensorRT, such as EfficientNMS_TRT."""
    return op.startswith("EfficientNMS") or op.endswith("_TRT")


class Graph:
    """An ONNX model as linked nodes and values.

    What exporters write in several forms has one here: Constant nodes and initialisers that are
    graph inputs too are constants, local functions are inlined, plugins of TensorRT have a domain
    of their own, and every node has a name. Tensors keep their names.

    Attributes:
        nodes: every node after those that it reads from; sort() restores that after rewrites.
        inputs: the graph's inputs.
        metadata: ONNX metadata_props.
        opsets: version by operator domain.
        name: the graph's name.
        path: the file that it came from, None for a model that was in memory.
    """

    nodes: list[Node]
    inputs: list[Value]
    metadata: dict[str, str]
    opsets: dict[str, int]
    name: str
    _outputs: tuple[Value, ...]
    _names: set[str]
    #: Base -> the next number for `unused_name`.
    _numbers: dict[str, int]
    _inferred: bool
    #: What the exporter noted of tensors that operators unknown to onnx make.
    _noted: list[onnx.ValueInfoProto]

    def __init__(self, model: onnx.ModelProto, path: Path | None = None) -> None:
        """Read a model (it is not changed, and must not be changed afterwards).

        Args:
            model: the model.
            path: the file that it came from; others with its large weights lie beside it.

        Raises:
            ModelError: the graph contradicts itself, or unfolds to more than a limit.
        """
        self.path = path
        with ModelError.instead_of(
            Exception,  # whatever a damaged or hostile file makes Python, NumPy or onnx raise
            f"{repr(str(path)) if path else 'a model'} with a damaged graph",
            expected="a valid ONNX model",
            fix="check that the download is complete, or export the model again",
        ):
            self._read(model)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read an ONNX file. Weights that it keeps in other files are read when asked for.

        Raises:
            ModelError: no such file, or not an ONNX model.
        """
        onnx_ = require("onnx", purpose="reading a model's graph")
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"no file '{path}'", expected="an ONNX model", fix="check the path")
        with ModelError.instead_of(
            Exception,  # protobuf's DecodeError, whose class differs between versions
            f"'{path}' cannot be read as ONNX",
            expected="an ONNX file",
            fix="check that the download is complete",
        ):
            model: onnx.ModelProto = onnx_.load(str(path), load_external_data=False)
            if any(inner_graphs(node) for node in model.graph.node):
                # Graphs inside nodes stay protobuf, with their weights.
                onnx_.load_external_data_for_model(model, str(path.parent))
        if not model.graph.node:
            raise ModelError(
                f"'{path}' holds no graph", expected="an ONNX file", fix="check the file"
            )
        return cls(model, path)

    @classmethod
    def of(cls, model: str | Path | onnx.ModelProto | Graph) -> Graph:
        """Return a graph as it is, or read a file or model.

        Raises:
            ModelError: see load.
        """
        if isinstance(model, Graph):
            return model
        return cls.load(model) if isinstance(model, str | Path) else cls(model)

    # ---- looking

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The graph's outputs."""
        return self._outputs

    @outputs.setter
    def outputs(self, values: Iterable[Value]) -> None:
        for value in self._outputs:
            value.is_output = False
        self._outputs = tuple(values)
        for value in self._outputs:
            value.is_output = True

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return self.opsets.get("", 0)

    @property
    def image(self) -> Value:
        """The image input: the only input, or the first of rank 4.

        Raises:
            ModelError: no input of rank 4.
        """
        for value in self.inputs:
            if value.shape is not None and len(value.shape) == 4:
                return value
        raise ModelError(
            "a graph without an image input",
            expected="an input (N, C, H, W)",
            fix="export the model with an NCHW image input",
        )

    def find(self, *ops: str) -> list[Node]:
        """Return the nodes of some operators, in order."""
        return [node for node in self.nodes if node.op in ops]

    def values(self) -> dict[str, Value]:
        """Return every value by its name, constants that nothing reads left out."""
        found = {value.name: value for value in (*self.inputs, *self.outputs)}
        for node in self.nodes:
            for value in (*node.inputs, *node.outputs, *node.captured):
                if value.name:
                    found[value.name] = value
        return found

    # ---- rewriting

    def unused_name(self, base: str) -> str:
        """Return `base`, or the first of `base`_1, `base`_2, ... that nothing ever had here."""
        name, number = base, self._numbers.get(base, 1)
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._numbers[base] = number
        self._names.add(name)
        return name

    def constant(self, name: str, values: npt.ArrayLike, dtype: Any = None) -> Value:
        """Make a constant, under the name or one that is free."""
        return Value.of_array(self.unused_name(name), np.asarray(values, dtype))

    def add_node(
        self,
        op: str,
        name: str,
        inputs: Iterable[Value | float],
        attrs: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        output: Value | Iterable[Value] | None = None,
    ) -> Value:
        """Add a node and return its first output, whose type and shape are inferred.

        It stands at the end until sort().

        Args:
            op: ONNX operator.
            name: the node's name, made unique; its new outputs take it too.
            inputs: what it reads; a number becomes a constant of the first value's type.
            attrs: attributes.
            domain: operator domain; a new one is imported as version 1.
            output: what it makes instead of one new value (several, of some operators); names stay.
        """
        output = output or Value(self.unused_name(f"{name}_out"))
        made = [output] if isinstance(output, Value) else list(output)
        read: list[Value] = []
        for value in inputs:
            if not isinstance(value, Value):
                value = self.constant(f"{name}_by", value, read[0].dtype or np.float32)
            read.append(value)
        node = Node(op, self.unused_name(name), read, made, attrs, domain)
        self.opsets.setdefault(domain, 1)
        self.nodes.append(node)
        self.infer_node(node)
        return made[0]

    def slice(self, value: Value, name: str, first: int, last: int, axis: int) -> Value:
        """Add a Slice that takes `first` to `last` of one axis."""
        bounds = [
            self.constant(f"{name}_{label}", [number], np.int64)
            for label, number in (("start", first), ("end", last), ("axis", axis), ("step", 1))
        ]
        return self.add_node("Slice", name, [value, *bounds])

    def replace(self, old: Value, new: Value) -> Value:
        """Make every reader of `old` read `new`; a graph output keeps its name.

        The node that made `old` is left unread, so that sort() drops it.

        Returns:
            The value that now carries the data: `new`, or `old` where that is a graph output (the
            node of `new` then makes it).
        """
        for node in old.readers:
            node.replace_input(old, new)
        if not old.is_output:
            return new
        if old.producer is not None:
            producer = old.producer
            producer.outputs = [Value() if v is old else v for v in producer.outputs]
        producer_of_new = new.producer
        if producer_of_new is None or new.is_output:
            # An input, a constant or another output cannot take a second name.
            self.add_node("Identity", f"{old.name}_identity", [new], output=old)
            return new
        producer_of_new.outputs = [old if v is new else v for v in producer_of_new.outputs]
        for node in new.readers:
            node.replace_input(new, old)
        return old

    def inline(self, node: Node, branch: str) -> None:
        """Put the nodes of a graph inside a node in its place: of the branch that an If takes.

        Args:
            node: the node; it is left unread, so that sort() drops it.
            branch: attribute that holds the graph, one without inputs.
        """
        inner: onnx.GraphProto = node.attrs[branch]
        values = {value.name: value for value in node.captured}
        captured, node.captured = node.captured, ()
        for value in captured:
            value.is_output = value in self._outputs or value.is_captured
        for tensor in inner.initializer:
            values[tensor.name] = Value.of_tensor(tensor)
            values[tensor.name].name = self.unused_name(tensor.name)

        def of(name: str) -> Value:
            if name and name not in values:
                values[name] = Value(self.unused_name(name))
            return values[name] if name else Value()

        self._read_nodes(inner, of)
        for old, info in zip(node.outputs, inner.output, strict=True):
            self.replace(old, of(info.name))

    def rename(self, value: Value, name: str) -> None:
        """Rename a value; another one of that name gives it up."""
        if value.name == name:
            return
        other = self.values().get(name)
        if other is not None:
            other.name = self.unused_name(f"{name}_before")
        value.name = name
        self._names.add(name)

    def sort(self) -> None:
        """Drop the nodes that no output depends on, and put the others in order."""
        needed = self._needed()
        order: dict[Node, None] = {}
        seen: set[Node] = set()
        for start in self.nodes:
            path = [start] if start in needed else []
            while path:
                seen.add(path[-1])
                waiting = [n for n in path[-1].sources if n not in seen]
                if waiting:
                    path.append(waiting[0])
                else:
                    order.setdefault(path.pop())
        for node in self.nodes:
            if node not in needed:
                node.inputs = node.captured = ()
        self.nodes = list(order)

    def _needed(self, after: Collection[str] = ()) -> set[Node]:
        """Collect the nodes that the outputs need, and values of these names do not stand for."""
        needed: set[Node] = set()
        stack = [*self._outputs]
        while stack:
            node = (value := stack.pop()).producer
            if node is not None and node not in needed and value.name not in after:
                needed.add(node)
                stack += (*node.inputs, *node.captured)
        return needed

    def upgrade(self, least: int = MIN_OPSET) -> None:
        """Convert the operators to an opset of at least `least` where they are older.

        Raises:
            ModelError: onnx's converter cannot (it knows no plugins).
        """
        onnx_ = require("onnx", purpose="converting the model's opset")
        if self.opset >= least:
            return
        with ModelError.instead_of(
            Exception,  # the converter raises RuntimeError and its own errors
            f"opset {self.opset}, which onnx cannot convert to {least}",
            expected=f"opset {least} or newer",
            fix=f"export the model with --opset {least}",
        ):
            converted = onnx_.version_converter.convert_version(self.to_model(), least)
        metadata = self.metadata
        self._read(converted)
        self.metadata = metadata

    def copy(self, *, after: Collection[str] = ()) -> Graph:
        """Return a graph of its own with the same nodes and names; constants are shared.

        Nodes that the outputs need for the values `after` (names) alone are left out.
        """
        twin = object.__new__(Graph)
        twin.__dict__.update(self.__dict__)
        made: dict[Value, Value] = {}

        def of(value: Value) -> Value:
            if value not in made:
                new = made[value] = object.__new__(Value)
                new.__dict__.update(value.__dict__)
                new._readers, new._captors, new.producer = {}, {}, None
            return made[value]

        twin.nodes = []
        kept = self._needed(after) if after else set(self.nodes)
        for node in filter(kept.__contains__, self.nodes):
            inputs, outputs = map(of, node.inputs), map(of, node.outputs)
            new = Node(node.op, node.name, inputs, outputs, node.attrs, node.domain)
            new.attrs = {k: list(v) if isinstance(v, list) else v for k, v in node.attrs.items()}
            new._attr_types, new.captured = node._attr_types, [of(v) for v in node.captured]
            twin.nodes.append(new)
        twin.inputs = [of(value) for value in self.inputs]
        twin._outputs = tuple(of(value) for value in self._outputs)
        twin.metadata, twin.opsets = dict(self.metadata), dict(self.opsets)
        twin._names, twin._numbers = set(self._names), dict(self._numbers)
        return twin

    # ---- shapes

    def infer_shapes(self) -> None:
        """Infer every shape and type, once: rewrites keep them up to date.

        Raises:
            ModelError: the shapes contradict each other.
        """
        if self._inferred:
            return
        values = self.values()
        light = self._light_model()
        light.graph.value_info.extend(self._noted)
        for found in infer_model(light):
            value = values.get(found.name)
            if value is not None and found.type.HasField("tensor_type"):
                value.elem_type, value.shape = read_type(found.type.tensor_type)
        self._inferred = True

    def forget_shapes(self) -> None:
        """Drop every inferred shape, so that infer_shapes() works them out again."""
        for node in self.nodes:
            for value in node.outputs:
                if not value.is_output:
                    value.shape = None
        self._inferred, self._noted = False, []

    def infer_node(self, node: Node) -> None:
        """Infer type and shape of what one node makes; what is not found out stays."""
        types: dict[str, tuple[int, Shape | None]] = {
            v.name: (v.elem_type, v.shape) for v in node.inputs
        }
        numbers = {value.name: value.small_values for value in node.inputs}
        small = {name: values for name, values in numbers.items() if values is not None}
        found = infer_node(node.to_proto(), types, small, self.opsets)
        for value in node.outputs:
            value.elem_type, shape = found.get(value.name, (value.elem_type, None))
            if shape is None:
                continue
            known = value.shape if value.shape and len(value.shape) == len(shape) else shape
            value.shape = tuple(
                n if isinstance(n, int) else k for n, k in zip(shape, known, strict=True)
            )

    # ---- protobuf

    def to_model(self) -> onnx.ModelProto:
        """Return the graph as a model that holds its weights: to save, or for ONNX Runtime."""
        model = self._frame()
        constants = {value.name: value for value in self._outputs if value.is_constant}
        for node in self.nodes:
            model.graph.node.append(node.to_proto())
            constants.update((v.name, v) for v in (*node.inputs, *node.captured) if v.is_constant)
            model.graph.value_info.extend(
                v.to_value_info()
                for v in node.outputs
                if v.name and v.elem_type and not v.is_output
            )
        model.graph.initializer.extend(value.to_tensor() for value in constants.values())
        return model

    def check(self, *, rewritten: bool = True) -> None:
        """Let onnx check the graph, after inferring all shapes of a rewritten one anew.

        Raises:
            ModelError: it is not valid ONNX: as it was read, or by a defect of a rewrite.
        """
        checker = require("onnx.checker", purpose="checking the model")
        if rewritten:
            self.forget_shapes()
            self.infer_shapes()
        light = self._light_model()
        if not rewritten:
            for output in light.graph.output:
                # Exporters leave shapes out that onnx asks for; a pass may find them.
                output.type.tensor_type.shape.SetInParent()
        try:
            checker.check_model(light)
        except checker.ValidationError as error:
            found = "surgery wrote an invalid graph" if rewritten else "an invalid graph"
            way_out = "leave the last pass out and report it with the model"
            raise ModelError(
                f"{found} ({error})",
                expected="a valid ONNX model",
                fix=way_out if rewritten else "export the model again",
            ) from error

    def _frame(self) -> onnx.ModelProto:
        """Return a model without nodes and constants."""
        onnx_ = require("onnx", purpose="writing the model")
        model: onnx.ModelProto = onnx_.ModelProto()
        model.CopyFrom(self._header)
        del model.opset_import[:]
        model.opset_import.extend(onnx_.helper.make_opsetid(d, v) for d, v in self.opsets.items())
        for key, text in self.metadata.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, text
        model.graph.name = self.name
        model.graph.input.extend(value.to_value_info() for value in self.inputs)
        model.graph.output.extend(value.to_value_info() for value in self._outputs)
        return model

    def _light_model(self) -> onnx.ModelProto:
        """Return a model whose large constants are inputs: onnx serialises it for every check."""
        model = self._frame()
        model.graph.node.extend(node.to_proto() for node in self.nodes)
        for value in self.values().values():
            if value.small_values is not None:
                model.graph.initializer.append(value.to_tensor())
            elif value.is_constant:
                model.graph.input.append(value.to_value_info())
        return model

    def _read(self, model: onnx.ModelProto) -> None:
        onnx_ = require("onnx", purpose="reading a model's graph")
        check_functions(model)
        if model.functions:
            inliner = require("onnx.inliner", purpose="reading a model's graph")
            model = inliner.inline_local_functions(model)
        self._header = onnx_.ModelProto()
        for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(self._header, field, getattr(model, field))
        self._header.graph.doc_string = model.graph.doc_string
        self._header.ir_version = max(model.ir_version, _IR_VERSION)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.opsets = {
            "" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import
        }
        graph, folder = model.graph, self.path.parent if self.path else None
        check_graph(model)
        self.name = graph.name
        self._inferred = False
        values: dict[str, Value] = {
            tensor.name: Value.of_tensor(tensor, folder) for tensor in graph.initializer
        }
        for sparse in graph.sparse_initializer:
            values[sparse.values.name] = Value.of_array(sparse.values.name, dense(sparse, folder))

        def of(name: str) -> Value:
            return values.setdefault(name, Value(name)) if name else Value()

        self.inputs = []
        for info in graph.input:
            if info.name not in values:
                values[info.name] = Value(info.name, *read_type(info.type.tensor_type))
                sizes = [d for d in values[info.name].shape or () if isinstance(d, int)]
                if not all(size and is_sound(size) for size in sizes):
                    raise ValueError(f"input '{info.name}' of size {sizes}")
                self.inputs.append(values[info.name])
        self._outputs = ()
        self.outputs = [of(info.name) for info in graph.output]
        for info, value in zip(graph.output, self.outputs, strict=True):
            if not value.is_constant and value not in self.inputs:
                value.elem_type, value.shape = read_type(info.type.tensor_type)
        self.nodes = []
        self._names, self._numbers = set(), {}
        self._read_nodes(graph, of)
        self._names |= values.keys()
        if self._unsorted() is not None:
            self.sort()  # some exporters write nodes before those that they read from
            if (node := self._unsorted()) is not None:
                raise ValueError(f"node '{node.name}' reads what follows from it")
        foreign = {
            value.name
            for node in self.nodes
            if not has_schema(node.op, node.domain)
            for value in node.outputs
        }
        self._noted = [
            Value(info.name, *read_type(info.type.tensor_type)).to_value_info()
            for info in graph.value_info
            if info.name in foreign
        ]

    def _unsorted(self) -> Node | None:
        """Return the first node that stands before one that it reads from."""
        done: set[Node] = set()
        for node in self.nodes:
            if not done.issuperset(node.sources):
                return node
            done.add(node)
        return None

    def _read_nodes(self, graph: onnx.GraphProto, of: Callable[[str], Value]) -> None:
        """Add the nodes of a graph; `of` gives the value of each name in it."""
        folder = self.path.parent if self.path else None
        for index, proto in enumerate(graph.node):
            tensor = constant_tensor(proto)
            if tensor is not None and not of(proto.output[0]).is_output:
                of(proto.output[0]).hold(tensor, folder)
                continue
            node = Node.of_proto(proto, [of(n) for n in proto.input], [of(n) for n in proto.output])
            node.captured = [
                of(name) for inner in inner_graphs(proto) for name in free_names(inner)
            ]
            for captured in node.captured:
                captured.is_output = True
            node.name = self.unused_name(node.name or f"{node.op}_{index}")
            if not node.domain and is_plugin(node.op):
                node.domain = PLUGIN_DOMAIN
                self.opsets.setdefault(PLUGIN_DOMAIN, 1)
            self.nodes.append(node)
