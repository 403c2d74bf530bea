# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""LayeredLayout: places boxes of a directed acyclic graph, top to bottom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

_SWEEPS = 12
_DUMMY_WIDTH = 14.0


@dataclass
class Box:
    """A box to place; the layout sets x and y (its centre) and rank.

    Attributes:
        width: in pixels.
        height: in pixels.
        rank: layer from the top.
        x: centre.
        y: centre.
    """

    width: float
    height: float
    rank: int = 0
    x: float = 0.0
    y: float = 0.0


@dataclass
class LayeredLayout:
    """Sugiyama's method: ranks by longest path, barycentre ordering, straightened long edges.

    Edges over several ranks go through invisible boxes, which keep lines from crossing boxes.
    (K. Sugiyama, S. Tagawa, M. Toda, "Methods for Visual Understanding of Hierarchical System
    Structures", IEEE Trans. SMC 11(2), 1981.)

    Attributes:
        boxes: in topological order.
        edges: (from, to) indices into boxes.
        gap_x: least space between neighbours.
        gap_y: space between ranks.
        routes: after place(): for each edge its points from the source's bottom to the target's
            top.
        width: after place(): of the drawing.
        height: after place(): of the drawing.
    """

    boxes: list[Box]
    edges: list[tuple[int, int]]
    gap_x: float = 18.0
    gap_y: float = 30.0
    routes: list[list[tuple[float, float]]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0

    def place(self) -> None:
        """Set every box's position and every edge's route."""
        real = len(self.boxes)
        self._rank(real)
        boxes = list(self.boxes)
        chains: list[list[int]] = []
        links: list[tuple[int, int]] = []
        for source, target in self.edges:
            chain = [source]
            for rank in range(boxes[source].rank + 1, boxes[target].rank):
                boxes.append(Box(_DUMMY_WIDTH, 0.0, rank))
                chain.append(len(boxes) - 1)
            chain.append(target)
            chains.append(chain)
            links += list(itertools.pairwise(chain))
        above: list[list[int]] = [[] for _ in boxes]
        below: list[list[int]] = [[] for _ in boxes]
        for a, b in links:
            below[a].append(b)
            above[b].append(a)
        layers: list[list[int]] = [[] for _ in range(max((b.rank for b in boxes), default=0) + 1)]
        for i, box in enumerate(boxes):
            layers[box.rank].append(i)
        self._order(layers, above, below)
        self._columns(boxes, layers, above, below, real)
        y = 0.0
        tallest = [max((boxes[i].height for i in layer), default=0.0) for layer in layers]
        for layer, tall in zip(layers, tallest, strict=True):
            for i in layer:
                boxes[i].y = y + tall / 2
            y += tall + self.gap_y
        left = min((b.x - b.width / 2 for b in boxes), default=0.0)
        for box in boxes:
            box.x -= left
        self.width = max((b.x + b.width / 2 for b in boxes), default=0.0)
        self.height = max(y - self.gap_y, 0.0)
        for chain in chains:
            first, last = boxes[chain[0]], boxes[chain[-1]]
            points = [(first.x, first.y + first.height / 2)]
            for i in chain[1:-1]:
                # Straight beside the boxes of the ranks in between.
                half = tallest[boxes[i].rank] / 2
                points += [(boxes[i].x, boxes[i].y - half), (boxes[i].x, boxes[i].y + half)]
            points.append((last.x, last.y - last.height / 2))
            self.routes.append(points)

    def _rank(self, real: int) -> None:
        for source, target in self.edges:
            # Boxes are in topological order and edges are sorted by their source.
            self.boxes[target].rank = max(self.boxes[target].rank, self.boxes[source].rank + 1)
        # Sources go down to just above their first reader, so that no line is longer than needed.
        first: dict[int, int] = {}
        for source, target in self.edges:
            first[source] = min(first.get(source, 1 << 30), self.boxes[target].rank)
        has_input = {target for _, target in self.edges}
        for i in range(real):
            if i not in has_input and i in first:
                self.boxes[i].rank = first[i] - 1

    def _order(
        self, layers: list[list[int]], above: list[list[int]], below: list[list[int]]
    ) -> None:
        place = {i: p for layer in layers for p, i in enumerate(layer)}
        best, fewest = [list(layer) for layer in layers], self._crossings(layers, below, place)
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            neighbours = above if down else below
            for layer in layers if down else reversed(layers):
                centre = {
                    i: (
                        sum(place[k] for k in neighbours[i]) / len(neighbours[i])
                        if neighbours[i]
                        else float(place[i])
                    )
                    for i in layer
                }
                layer.sort(key=lambda i: (centre[i], place[i]))
                for p, i in enumerate(layer):
                    place[i] = p
            crossings = self._crossings(layers, below, place)
            if crossings < fewest:
                best, fewest = [list(layer) for layer in layers], crossings
        for layer, order in zip(layers, best, strict=True):
            layer[:] = order

    @staticmethod
    def _crossings(layers: list[list[int]], below: list[list[int]], place: dict[int, int]) -> int:
        total = 0
        for layer in layers:
            ends: list[int] = []
            for i in layer:
                targets = sorted(place[k] for k in below[i])
                total += sum(1 for t in targets for e in ends if e > t)
                ends += targets
        return total

    def _columns(
        self,
        boxes: list[Box],
        layers: list[list[int]],
        above: list[list[int]],
        below: list[list[int]],
        real: int,
    ) -> None:
        for layer in layers:
            x = 0.0
            for i in layer:
                boxes[i].x = x + boxes[i].width / 2
                x += boxes[i].width + self.gap_x
            for i in layer:
                boxes[i].x -= x / 2
        for sweep in range(_SWEEPS * 2):
            down = sweep % 2 == 0
            for layer in layers if down else reversed(layers):
                wanted, weights = [], []
                for i in layer:
                    near = (above if down else below)[i] or (below if down else above)[i]
                    middle = sum(boxes[k].x for k in near) / len(near) if near else boxes[i].x
                    wanted.append(middle)
                    # Straight long lines first, then boxes.
                    weights.append(1.0 if i < real else 3.0)
                gaps = [
                    (boxes[a].width + boxes[b].width) / 2 + self.gap_x
                    for a, b in itertools.pairwise(layer)
                ]
                for i, x in zip(layer, _spread(wanted, weights, gaps), strict=True):
                    boxes[i].x = x


def _spread(
    wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]
) -> list[float]:
    """Return the positions nearest to `wanted` (weighted squares) that keep order and gaps.

    With the gaps taken off this is isotonic regression, solved by pooling adjacent violators.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, float, int]] = []
    for w, weight, offset in zip(wanted, weights, offsets, strict=True):
        pools.append((w - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, wa, na), (b, wb, nb) = pools[-2:]
            pools[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    flat = [value for value, _, count in pools for _ in range(count)]
    return [value + offset for value, offset in zip(flat, offsets, strict=True)]
