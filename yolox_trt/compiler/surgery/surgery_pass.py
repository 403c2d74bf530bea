# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SurgeryPass: one named rewrite of a graph. Rule: one that looks at each node by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from yolox_trt.compiler.surgery.options import SurgeryOptions
from yolox_trt.core.errors import ModelError
from yolox_trt.core.option import options_of
from yolox_trt.graph.damaged import DAMAGE
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.values import Node


@dataclass
class PassLog:
    """What a pass did.

    Attributes:
        name: of the pass.
        changes: one line for each change of the graph.
        notes: what the pass saw and left alone, with the reason.
        difference: relative difference of the predictions to the original model's after it; None
            where nothing changed or it was not measured.
    """

    name: str
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    difference: float | None = None

    def change(self, text: str) -> None:
        """Note a change of the graph."""
        self.changes.append(text)

    def note(self, text: str) -> None:
        """Note something that was left alone, and why."""
        self.notes.append(text)


class SurgeryPass(ABC):
    """A rewrite that leaves the network's function as it was (up to float rounding).

    Subclasses set `name` (the word on the command line) and `summary`, and write `rewrite`.

    Args:
        options: what the surgery is asked for; None for the defaults.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def __init__(self, options: SurgeryOptions | None = None) -> None:
        self.options = options or SurgeryOptions()

    @property
    def is_wanted(self) -> bool:
        """Whether the options ask for the pass."""
        return True

    def run(self, graph: Graph) -> PassLog:
        """Apply the pass to a graph, whose shapes are known afterwards too.

        Raises:
            ModelError: the graph cannot take the pass; it may be changed half way.
        """
        graph.infer_shapes()
        log = PassLog(self.name)
        with ModelError.instead_of(
            DAMAGE,
            f"a model that pass {self.name} cannot follow",
            expected="nodes whose inputs, attributes and constants fit each other",
            fix=("export the model again, or set ", options_of(SurgeryOptions)["skip"],
                 f" to {self.name}"),
        ):  # fmt: skip
            self.rewrite(graph, log)
        graph.sort()
        return log

    @abstractmethod
    def rewrite(self, graph: Graph, log: PassLog) -> None:
        """Edit the graph; a pass that writes no change to the log is taken to have made none."""


class Rule(SurgeryPass):
    """A pass that is one rule, applied to each node of some operators: pattern, check, rewrite."""

    ops: ClassVar[tuple[str, ...]]

    @abstractmethod
    def pattern(self, node: Node) -> Any | None:
        """Return what the rule needs to know of a node; None where it is not meant."""

    def check(self, graph: Graph, node: Node, match: Any) -> str:
        """Return why a node is left as it is, "" where it is rewritten."""
        return ""

    @abstractmethod
    def apply(self, graph: Graph, node: Node, match: Any) -> str:
        """Rewrite a node; return what became of it, for the report."""

    def rewrite(self, graph: Graph, log: PassLog) -> None:
        for node in graph.find(*self.ops):
            match = self.pattern(node)
            if match is None:
                continue
            reason = self.check(graph, node, match)
            if reason:
                log.note(f"{node.name}: {reason}")
            else:
                log.change(f"{node.name}: {self.apply(graph, node, match)}")
