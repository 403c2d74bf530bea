# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Picture: a linted graph as an SVG drawing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from yolox_trt.compiler.dla.layered_layout import Box, LayeredLayout
from yolox_trt.compiler.dla.report import DlaReport, NodeVerdict

_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Tanh", "HardSwish", "Sigmoid"})
_LABELS = {"Clip": "ReLU6 / Clip", "Relu": "ReLU", "LeakyRelu": "LeakyReLU", "PRelu": "PReLU"}
_FONT = 12.0
_SMALL = 10.5
_CHAR = 0.56  # mean width of a character, in font sizes (sans serif)
_LINE = 15.0
_MARGIN = 24.0
_COLOURS = {
    # fill, border, text
    "dla": ("#e6f4d7", "#5a8f00", "#24420a"),
    "dla-fp16": ("#d9f0ee", "#16857c", "#0b3f3b"),
    "gpu": ("#fde3dd", "#d0401f", "#6b1d0b"),
    "io": ("#eceff4", "#69758a", "#2b3444"),
}


@dataclass
class _Group:
    """Nodes drawn as one box: a convolution with its activation, or a single node."""

    nodes: list[NodeVerdict]
    title: str
    lines: list[str] = field(default_factory=list)
    kind: str = "dla"
    note: str = ""


def draw(report: DlaReport) -> str:
    """Draw a report: one box for each layer, coloured by device, with the rule that it breaks.

    A convolution and its activation share a box if they share a device. Thick red lines are tensors
    that go from one device to the other. Folded and dropped nodes are left out.

    Returns:
        The SVG document.
    """
    groups, edges, labels = _groups(report)
    boxes = []
    for group in groups:
        longest = max(
            len(group.title) * _FONT * 1.06,
            len(group.note) * _SMALL * 1.1,
            *(len(line) * _SMALL for line in group.lines),
        )
        height = 10.0 + _LINE * (1 + len(group.lines) + bool(group.note))
        boxes.append(Box(max(longest * _CHAR + 20.0, 96.0), height))
    layout = LayeredLayout(boxes, edges)
    layout.place()
    header = _header(report)
    top = _MARGIN + 20.0 * len(header) + 34.0
    width = max(layout.width + 2 * _MARGIN, 760.0)
    left = (width - layout.width) / 2
    height = top + layout.height + _MARGIN
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
    out.append(f'<g transform="translate({left:.1f} {top:.1f})">')
    for (source, target), route in zip(edges, layout.routes, strict=True):
        # The network's own input lies in a buffer of the caller: not drawn as a crossing.
        crosses = {_device(groups[source]), _device(groups[target])} == {"gpu", "dla"}
        out.append(_line(route, crosses))
        if crosses and (moved := labels.get((source, target))):
            x, y = route[0]
            out.append(
                f'<text x="{x + 5:.1f}" y="{y + 11:.1f}" font-size="9.5" fill="#d0401f">'
                f"{escape(moved)}</text>"
            )
    for group, box in zip(groups, boxes, strict=True):
        out += _box(group, box)
    out.append("</g></svg>")
    return "\n".join(out) + "\n"


def _device(group: _Group) -> str:
    return "gpu" if group.kind == "gpu" else "io" if group.kind == "io" else "dla"


def _groups(
    report: DlaReport,
) -> tuple[list[_Group], list[tuple[int, int]], dict[tuple[int, int], str]]:
    drawn = [n for n in report.nodes if n.device in ("dla", "gpu")]
    alias: dict[str, str] = {}
    for node in report.nodes:
        if node.device == "dropped" and node.inputs and node.outputs:
            alias[node.outputs[0]] = alias.get(node.inputs[0], node.inputs[0])
    readers: dict[str, list[NodeVerdict]] = {}
    for node in drawn:
        for name in node.inputs:
            readers.setdefault(alias.get(name, name), []).append(node)
    produced = {name for node in drawn for name in node.outputs}
    taken: set[str] = set()
    groups: list[_Group] = []
    for node in drawn:
        if node.name in taken:
            continue
        members = [node]
        activation = ""
        if node.op in ("Conv", "ConvTranspose", "BatchNormalization"):
            members, activation = _with_activation(node, readers)
        taken.update(m.name for m in members)
        groups.append(_describe(report, members, activation))
    index = {m.name: i for i, g in enumerate(groups) for m in g.nodes}
    outputs_of = {name: index[n.name] for n in drawn for name in n.outputs}
    sizes = {t.tensor: t for t in report.transfers}
    edges: dict[tuple[int, int], None] = {}
    labels: dict[tuple[int, int], str] = {}
    # Inputs and outputs of the network as boxes of their own.
    entering = sorted({a for n in drawn for a in n.inputs if alias.get(a, a) not in produced})
    shift = len(entering)
    inputs = [_Group([], name, kind="io") for name in entering]
    for i, group in enumerate(groups):
        for member in group.nodes:
            for name in member.inputs:
                source_name = alias.get(name, name)
                if source_name in produced:
                    source = outputs_of[source_name] + shift
                else:
                    source = entering.index(name)
                if source == i + shift:
                    continue
                edges[source, i + shift] = None
                transfer = sizes.get(source_name)
                if transfer is not None:
                    labels[source, i + shift] = f"{transfer.size / 2**20:.2f} MiB"
    ordered = [*inputs, *groups]
    # Groups are in the order of their first node: their last may read a later group.
    return _topological(ordered, list(edges), labels)


def _topological(
    groups: list[_Group], edges: list[tuple[int, int]], labels: dict[tuple[int, int], str]
) -> tuple[list[_Group], list[tuple[int, int]], dict[tuple[int, int], str]]:
    waiting = [0] * len(groups)
    below: dict[int, list[int]] = {}
    for source, target in edges:
        waiting[target] += 1
        below.setdefault(source, []).append(target)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        i = ready.pop(0)
        order.append(i)
        for target in below.get(i, []):
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    place = {old: new for new, old in enumerate(order)}
    moved = sorted((place[a], place[b]) for a, b in edges if a in place and b in place)
    return (
        [groups[i] for i in order],
        moved,
        {(place[a], place[b]): text for (a, b), text in labels.items()},
    )


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


def _describe(report: DlaReport, members: list[NodeVerdict], activation: str) -> _Group:
    first, last = members[0], members[-1]
    title = " ".join(p for p in (first.op, first.detail) if p)
    if activation:
        title += f" + {activation}"
    shape = "" if last.shape is None else "x".join(str(d) for d in last.shape)
    kind = "gpu" if first.device == "gpu" else "dla"
    if kind == "dla" and any(m.precision != report.precision for m in members):
        kind = "dla-fp16"
    group = _Group(members, title, [shape] if shape else [], kind)
    if kind == "gpu":
        for violation in first.reasons[:2]:
            group.lines.append(f"{violation.rule.id}: {violation.found}")
        mends = list(dict.fromkeys(v.mended_by for v in first.reasons if v.mended_by))
        group.note = f"mended by {', '.join(mends)}" if mends else "no pass mends it"
    elif len(report.subgraphs) > 1:
        group.lines[:] = [f"{shape}  ·  DLA subgraph {first.subgraph}"]
    return group


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


def _box(group: _Group, box: Box) -> list[str]:
    fill, border, text = _COLOURS[group.kind]
    x, y = box.x - box.width / 2, box.y - box.height / 2
    names = ", ".join(n.name for n in group.nodes)
    out = [
        f"<g><title>{escape(names or group.title)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{border}" stroke-width="1.4"/>'
    ]
    lines = [(group.title, _FONT, "bold", text)]
    lines += [(line, _SMALL, "normal", text) for line in group.lines]
    if group.note:
        lines.append((group.note, _SMALL, "bold", "#5b5b5b"))
    for i, (content, size, weight, colour) in enumerate(lines):
        out.append(
            f'<text x="{box.x:.1f}" y="{y + 15.5 + _LINE * i:.1f}" font-size="{size}" '
            f'font-weight="{weight}" text-anchor="middle" fill="{colour}">{escape(content)}</text>'
        )
    out.append("</g>")
    return out
