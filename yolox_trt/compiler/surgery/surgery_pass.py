# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""SurgeryPass: one named rewrite of a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from yolox_trt.graph.model_graph import ModelGraph

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        model: the rewritten model; the given one where nothing changed.
        changes: one line for each change.
        notes: what the pass saw and left alone, with the reason.
    """

    model: onnx.ModelProto
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class PassLog:
    """Lines that a rewrite writes while it works."""

    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def change(self, text: str) -> None:
        """Note a change of the graph."""
        self.changes.append(text)

    def note(self, text: str) -> None:
        """Note something that was left alone, and why."""
        self.notes.append(text)


class SurgeryPass(ABC):
    """A rewrite that leaves the network's function as it was (up to float rounding).

    Subclasses set `name` (the word on the command line) and `summary`, and write `rewrite`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Apply the pass to a model; the model given is not changed.

        Raises:
            ModelError: the graph cannot take the pass.
        """
        graph = ModelGraph(model)
        log = PassLog()
        self.rewrite(graph, log)
        if not log.changes:
            return PassResult(model, notes=tuple(log.notes))
        return PassResult(graph.to_model(), tuple(log.changes), tuple(log.notes))

    @abstractmethod
    def rewrite(self, graph: ModelGraph, log: PassLog) -> None:
        """Edit the graph; a pass that writes no change to the log is taken to have made none."""
