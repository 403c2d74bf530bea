# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Picture: a linted graph as an SVG drawing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from xml.sax.saxutils import escape

import numpy as np

from yolox_trt.compiler.dla.report import DlaReport, NodeVerdict

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Tanh", "HardSwish", "Sigmoid"})
_LABELS = {"Clip": "ReLU6 / Clip", "Relu": "ReLU", "LeakyRelu": "LeakyReLU", "PRelu": "PReLU"}
_FONT = 12.0
_SMALL = 10.5
_CHAR = 0.56  # mean width of a character, in font sizes (sans serif)
_LINE = 15.0
_MARGIN = 24.0
_GAP_X, _GAP_Y = 18.0, 30.0
_SWEEPS = 24
_COLOURS = {
    # fill, border, text
    "dla": ("#e6f4d7", "#5a8f00", "#24420a"),
    "dla-fp16": ("#d9f0ee", "#16857c", "#0b3f3b"),
    "gpu": ("#fde3dd", "#d0401f", "#6b1d0b"),
    "io": ("#eceff4", "#69758a", "#2b3444"),
}
_Edge = tuple["_Box", "_Box"]


@dataclass(eq=False)
class _Place:
    """Where a line passes the boxes of a rank, or a box stands: its centre and size in pixels."""

    width: float = 14.0
    height: float = 0.0
    rank: int = 0
    x: float = 0.0
    y: float = 0.0
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)


@dataclass(eq=False)
class _Box(_Place):
    """Nodes drawn as one box: a convolution with its activation, a single node, or an input."""

    nodes: Sequence[NodeVerdict] = ()
    kind: str = "io"
    title: str = ""
    lines: list[str] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        longest = max(
            len(self.title) * _FONT * 1.06,
            len(self.note) * _SMALL * 1.1,
            *(len(line) * _SMALL for line in self.lines),
        )
        self.width = max(longest * _CHAR + 20.0, 96.0)
        self.height = 10.0 + _LINE * (1 + len(self.lines) + bool(self.note))


def draw(report: DlaReport) -> str:
    """Draw a report: one box for each layer, coloured by device, with the rule that it breaks.

    A convolution and its activation share a box if they share a device. Thick red lines are tensors
    that go from one device to the other. Folded and dropped nodes are left out.

    Returns:
        The SVG document.
    """
    boxes, edges = _boxes_and_edges(report)
    routes = _arrange(boxes, edges)
    header = _header(report)
    places = [place for route in routes for place in route] or boxes
    left = min((p.x - p.width / 2 for p in places), default=0.0)
    drawn = max((p.x + p.width / 2 for p in places), default=0.0) - left
    top = _MARGIN + 20.0 * len(header) + 34.0
    width = max(drawn + 2 * _MARGIN, 760.0)
    height = top + max((p.y + p.height / 2 for p in places), default=0.0) + _MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    for i, text in enumerate(header):
        weight = ' font-weight="bold"' if i == 0 else ""
        size = 16 if i == 0 else 12
        out.append(
            f'<text x="{_MARGIN}" y="{_MARGIN + 12 + 20 * i:.0f}" font-size="{size}"{weight} '
            f'fill="#222222">{escape(text)}</text>'
        )
    out += _legend(_MARGIN, top - 26.0)
    out.append(f'<g transform="translate({(width - drawn) / 2 - left:.1f} {top:.1f})">')
    for (pair, moved), route in zip(edges.items(), routes, strict=True):
        # The network's own input lies in a buffer of the caller: not drawn as a crossing.
        crosses = {box.kind.partition("-")[0] for box in pair} == {"gpu", "dla"}
        points = _points(route)
        out.append(_line(points, crosses))
        if crosses and moved:
            x, y = points[0]
            out.append(
                f'<text x="{x + 5:.1f}" y="{y + 11:.1f}" font-size="9.5" fill="#d0401f">'
                f"{escape(moved)}</text>"
            )
    for box in boxes:
        out += _draw_box(box)
    out.append("</g></svg>")
    return "\n".join(out) + "\n"


def _arrange(boxes: Sequence[_Box], edges: Collection[_Edge]) -> list[list[_Place]]:
    """Place the boxes in ranks from top to bottom; return the way of each edge, box to box.

    A box is a rank below the last that it reads from. In each rank, boxes and passing lines stand
    as near as they fit to the middle of what they are connected with, and in that order; sweeping
    down and up several times untangles most lines.
    """
    sources: dict[_Box, list[_Box]] = {box: [] for box in boxes}
    for source, target in edges:
        sources[target].append(source)
    for box in TopologicalSorter(sources).static_order():
        box.rank = max((source.rank + 1 for source in sources[box]), default=0)
    for box in boxes:
        # Inputs go down to just above their first reader, so that no line is longer than needed.
        readers = [target.rank for source, target in edges if source is box]
        if not sources[box] and readers:
            box.rank = min(readers) - 1
    routes: list[list[_Place]] = []
    for source, target in edges:
        passing = [_Place(rank=rank) for rank in range(source.rank + 1, target.rank)]
        routes.append([source, *passing, target])
        for upper, lower in itertools.pairwise(routes[-1]):
            upper.below.append(lower)
            lower.above.append(upper)
    ranks: dict[int, dict[_Place, None]] = {}
    for place in [*boxes, *itertools.chain(*routes)]:
        ranks.setdefault(place.rank, {})[place] = None
    layers = [list(ranks[rank]) for rank in sorted(ranks)]
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            _align(layer, down=sweep % 2 == 0)
    y = 0.0
    for layer in layers:
        tallest = max(place.height for place in layer)
        for place in layer:
            place.y = y + tallest / 2
            if not isinstance(place, _Box):
                place.height = tallest  # a line goes straight down beside the boxes
        y += tallest + _GAP_Y
    return routes


def _align(layer: list[_Place], *, down: bool) -> None:
    """Order a rank by its neighbours' middle, and move it there as far as there is room."""

    def middle(place: _Place) -> float:
        near = (place.above or place.below) if down else (place.below or place.above)
        return sum(other.x for other in near) / len(near) if near else place.x

    layer.sort(key=middle)
    widths = np.array([place.width + _GAP_X for place in layer])
    offsets = np.cumsum(widths) - widths / 2
    # Without the widths any positions that do not fall will do: the nearest such to the wanted.
    wanted = np.array([middle(place) for place in layer]) - offsets
    risen, fallen = np.maximum.accumulate(wanted), np.minimum.accumulate(wanted[::-1])[::-1]
    for place, x in zip(layer, (risen + fallen) / 2 + offsets, strict=True):
        place.x = float(x)


def _points(route: Sequence[_Place]) -> list[tuple[float, float]]:
    """Return the corners of a line, from the first place's bottom to the last one's top."""
    ends = [(p.x, p.y + sign * p.height / 2) for p in route for sign in (-1, 1)]
    return ends[1:-1]


def _boxes_and_edges(report: DlaReport) -> tuple[list[_Box], dict[_Edge, str]]:
    """Return the boxes, and their connections with the size of what is transferred there."""
    drawn = [n for n in report.nodes if n.device in ("dla", "gpu")]
    alias: dict[str, str] = {}
    for node in report.nodes:
        if node.device == "dropped" and node.inputs and node.outputs:
            alias[node.outputs[0]] = alias.get(node.inputs[0], node.inputs[0])
    readers: dict[str, list[NodeVerdict]] = {}
    for node in drawn:
        for name in node.inputs:
            readers.setdefault(alias.get(name, name), []).append(node)
    taken: set[str] = set()
    boxes: list[_Box] = []
    maker: dict[str, _Box] = {}
    for node in drawn:
        if node.name in taken:
            continue
        members, activation = [node], ""
        if node.op in ("Conv", "ConvTranspose", "BatchNormalization"):
            members, activation = _with_activation(node, readers)
        taken.update(m.name for m in members)
        boxes.append(_describe(report, members, activation))
        maker.update((name, boxes[-1]) for m in members for name in m.outputs)
    sizes = {t.tensor: f"{t.size / 2**20:.2f} MiB" for t in report.transfers}
    edges: dict[_Edge, str] = {}
    for box in list(boxes):
        for name in (alias.get(name, name) for member in box.nodes for name in member.inputs):
            if name not in maker:  # an input of the network
                maker[name] = _Box(title=name)
                boxes.append(maker[name])
            if maker[name] is not box:
                edges[maker[name], box] = sizes.get(name, edges.get((maker[name], box), ""))
    return boxes, edges


def _with_activation(
    node: NodeVerdict, readers: dict[str, list[NodeVerdict]]
) -> tuple[list[NodeVerdict], str]:
    members, activation = [node], ""
    following = readers.get(node.outputs[0], [])

    def together(*others: NodeVerdict) -> bool:
        return all(o.device == node.device and o.subgraph == node.subgraph for o in others)

    if len(following) == 2 and {n.op for n in following} == {"Sigmoid", "Mul"}:
        gate, product = sorted(following, key=lambda n: n.op == "Mul")
        if readers.get(gate.outputs[0]) == [product] and together(gate, product):
            return [node, gate, product], "SiLU"
    if len(following) == 1 and following[0].op in _ACTIVATIONS and together(following[0]):
        members.append(following[0])
        activation = _LABELS.get(following[0].op, following[0].op)
    return members, activation


def _describe(report: DlaReport, members: list[NodeVerdict], activation: str) -> _Box:
    first, last = members[0], members[-1]
    title = " ".join(p for p in (first.op, first.detail) if p)
    if activation:
        title += f" + {activation}"
    shape = "" if last.shape is None else "x".join(str(d) for d in last.shape)
    lines = [shape] if shape else []
    if first.device == "gpu":
        lines += [f"{v.rule}: {v.found}" for v in first.reasons[:2]]
        mends = list(dict.fromkeys(v.mended_by for v in first.reasons if v.mended_by))
        note = f"mended by {', '.join(mends)}" if mends else "no pass mends it"
        return _Box(nodes=members, kind="gpu", title=title, lines=lines, note=note)
    if len(report.subgraphs) > 1:
        lines = [f"{shape}  ·  DLA subgraph {first.subgraph}"]
    kind = "dla-fp16" if any(m.precision != report.precision for m in members) else "dla"
    return _Box(nodes=members, kind=kind, title=title, lines=lines)


def _header(report: DlaReport) -> list[str]:
    gpu, dla = len(report.fallback_nodes), len(report.dla_nodes)
    verdict = "runs on the DLA as a whole" if report.passes else "falls back to the GPU in parts"
    inner = [t for t in report.transfers if not t.boundary]
    moved = sum(t.size for t in inner) / 2**20
    lines = [
        f"{report.model}: {verdict}",
        f"TensorRT {report.tensorrt}, {report.precision.upper()}, {report.soc} · {dla} nodes on "
        f"the DLA in {len(report.subgraphs)} subgraphs, {gpu} on the GPU · {len(inner)} transfers "
        f"between them, {moved:.2f} MiB a run",
    ]
    if report.mending_passes:
        lines.append("yolox_trt optimize --target dla mends: " + ", ".join(report.mending_passes))
    return lines


def _legend(x: float, y: float) -> list[str]:
    out = []
    for kind, text in (
        ("dla", "DLA"),
        ("dla-fp16", "DLA, part of it in FP16"),
        ("gpu", "GPU fallback"),
        ("io", "input"),
    ):
        fill, border, _ = _COLOURS[kind]
        out.append(
            f'<rect x="{x}" y="{y}" width="14" height="14" rx="3" fill="{fill}" '
            f'stroke="{border}"/><text x="{x + 20}" y="{y + 11.5}" font-size="12" '
            f'fill="#333333">{text}</text>'
        )
        x += 40 + len(text) * 6.8
    out.append(
        f'<path d="M {x} {y + 7} h 26" stroke="#d0401f" stroke-width="3"/>'
        f'<text x="{x + 32}" y="{y + 11.5}" font-size="12" fill="#333333">'
        "transfer between GPU and DLA</text>"
    )
    return out


def _line(route: list[tuple[float, float]], crosses: bool) -> str:
    colour, width = ("#d0401f", 3.0) if crosses else ("#8a93a0", 1.3)
    path = [f"M {route[0][0]:.1f} {route[0][1]:.1f}"]
    for (ax, ay), (bx, by) in itertools.pairwise(route):
        middle = (ay + by) / 2
        path.append(f"C {ax:.1f} {middle:.1f} {bx:.1f} {middle:.1f} {bx:.1f} {by:.1f}")
    x, y = route[-1]
    head = f"M {x - 4:.1f} {y - 6:.1f} L {x:.1f} {y:.1f} L {x + 4:.1f} {y - 6:.1f}"
    return (
        f'<path d="{" ".join(path)} {head}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
    )


def _draw_box(box: _Box) -> list[str]:
    fill, border, text = _COLOURS[box.kind]
    x, y = box.x - box.width / 2, box.y - box.height / 2
    names = ", ".join(n.name for n in box.nodes)
    out = [
        f"<g><title>{escape(names or box.title)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{border}" stroke-width="1.4"/>'
    ]
    lines = [(box.title, _FONT, "bold", text)]
    lines += [(line, _SMALL, "normal", text) for line in box.lines]
    if box.note:
        lines.append((box.note, _SMALL, "bold", "#5b5b5b"))
    for i, (content, size, weight, colour) in enumerate(lines):
        out.append(
            f'<text x="{box.x:.1f}" y="{y + 15.5 + _LINE * i:.1f}" font-size="{size}" '
            f'font-weight="{weight}" text-anchor="middle" fill="{colour}">{escape(content)}</text>'
        )
    out.append("</g>")
    return out
