# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files of a timeline: Perfetto traces, and Gantt pictures with a lane for each device."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import write_atomically
from yolox_trt.core.optional import require
from yolox_trt.executor.timeline import BatchSpan, Mark, Timeline

#: Suffixes that dump_timeline() writes as pictures; .json is the trace.
PICTURES = (".png", ".svg", ".pdf")
#: Bars narrower than this share of the axis carry no text.
LABEL_SHARE = 0.022
#: Narrower ones have no edge, which would hide them.
EDGE_SHARE = 0.001
#: Longest texts of events beside their lines.
EVENT_LENGTH = 48
#: Events closer together than this share of the axis are written as one.
EVENT_SPACING = 0.02


def dump_timeline(
    timeline: Timeline,
    path: str | Path,
    seconds: float = 5.0,
    *,
    until: float | None = None,
    devices: Iterable[Device] = (),
    title: str = "",
) -> list[Path]:
    """Write the last seconds of a timeline to a file.

    Args:
        timeline: the record, such as InferenceExecutor.timeline.
        path: the suffix decides: .json is a trace for https://ui.perfetto.dev or
            chrome://tracing; .png, .svg and .pdf are Gantt pictures; no suffix writes both
            <path>.json and <path>.png.
        seconds: how much of the end of the record, more than 0.
        until: end of what is shown, in seconds of the executor's clock; None: the last entry.
        devices: lanes that are shown even if nothing ran there.
        title: headline of the picture.

    Returns:
        The files written.

    Raises:
        ConfigurationError: another suffix, or seconds not above 0.
        MissingDependencyError: a picture was asked for and matplotlib is not installed.
        OSError: a file cannot be written; then there is none.
    """
    target = Path(path)
    if not seconds > 0.0:
        raise ConfigurationError(
            f"seconds = {seconds}", expected="more than 0", fix="set `seconds`"
        )
    if target.suffix and target.suffix not in (".json", *PICTURES):
        raise ConfigurationError(
            f"a timeline file with the suffix '{target.suffix}'",
            expected=f".json, {', '.join(PICTURES)}, or none (trace and picture)",
            fix="change the file's name",
        )
    targets = [target]
    if not target.suffix:
        targets = [target.with_name(target.name + s) for s in (".json", ".png")]
    first, last = timeline.extent()
    last = last if until is None else until
    since = max(first, last - seconds)
    lanes = [str(device) for device in devices]
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in targets:
        if file.suffix == ".json":
            write_atomically(file, json.dumps(timeline.trace(since, lanes)).encode())
        else:
            draw_gantt(file, timeline, since=since, until=last, devices=lanes, title=title)
    return targets


def draw_gantt(
    path: Path,
    timeline: Timeline,
    *,
    since: float,
    until: float,
    devices: Iterable[str] = (),
    title: str = "",
) -> None:
    """Draw a part of a timeline: calls, with dropped frames under the lanes, and events.

    Args:
        path: .png, .svg or .pdf.
        timeline: the record.
        since: left edge, in seconds of the executor's clock.
        until: right edge.
        devices: lanes that are shown even if nothing ran there.
        title: headline; "" names the devices' loads.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    spans, drops, events = timeline.spans(since), timeline.drops(since), timeline.events(since)
    require("matplotlib", purpose="pictures of timelines")
    # The classes themselves, not pyplot: no global state, and any thread may draw.
    figure_class = require("matplotlib.figure").Figure
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg
    patches = require("matplotlib.patches")
    colormaps = require("matplotlib").colormaps

    lanes = sorted({*devices, *(s.device for s in spans)}, key=lane_order)
    names = sorted({*(n for s in spans for n in s.streams), *(d.lane for d in drops)})
    slots = len(lanes) + bool(drops)
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    colors = {name: palette(i % palette.N) for i, name in enumerate(names)}
    length = max(until - since, 1e-6)
    unit, factor = ("ms", 1e3) if length <= 2.0 else ("s", 1.0)

    figure = figure_class(figsize=(14.0, 1.6 + 0.8 * slots), layout="constrained")
    canvas(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0.0, length * factor)
    busy: dict[str, float] = defaultdict(float)
    for span in spans:
        busy[span.device] += max(0.0, min(span.end, until) - max(span.start, since))
    _draw_calls(axes, spans, lanes, colors, lambda t: (min(max(t, since), until) - since) * factor)
    row = len(lanes)
    if drops:
        axes.scatter(
            [(d.time - since) * factor for d in drops],
            [row] * len(drops),
            marker="x",
            s=30,
            c=[colors[d.lane] for d in drops],
            zorder=3,
        )
    for at, text in _event_labels(events, since, length):
        axes.axvline(at * factor, color="0.25", linewidth=0.8, linestyle=":")
        axes.annotate(text, (at * factor, -0.55), rotation=15, fontsize=7, va="bottom")
    labels = [f"{lane}\n{100.0 * busy[lane] / length:.0f} %" for lane in lanes]
    ticks = list(range(len(lanes)))
    if drops:
        labels.append(f"dropped\n{len(drops)}")
        ticks.append(row)
    axes.set_yticks(ticks, labels)
    axes.set_ylim(row + (0.5 if drops else -0.4), -0.6)
    axes.set_xlabel(f"time in {unit}")
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # A figure's title, not the axes': events write above the axes.
    figure.suptitle(title or "Calls by device; below each name its load in this window", y=1.05)
    handles = [patches.Patch(color=colors[name], label=name) for name in names]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(8, len(handles)),
            frameon=False,
            fontsize=9,
        )
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=130, bbox_inches="tight")
    write_atomically(path, picture.getvalue())


def _event_labels(events: Sequence[Mark], since: float, length: float) -> list[tuple[float, str]]:
    """Return (seconds from the left edge, text); events at nearly the same time share a text."""
    groups: list[list[Mark]] = []
    for event in sorted(events, key=lambda e: e.time):
        if groups and event.time - groups[-1][0].time < EVENT_SPACING * length:
            groups[-1].append(event)
        else:
            groups.append([event])
    labels = []
    for group in groups:
        text = f"{group[0].lane}: {group[0].text}"
        text = text if len(text) <= EVENT_LENGTH else text[:EVENT_LENGTH] + "..."
        more = f"  (+{len(group) - 1} more)" if len(group) > 1 else ""
        labels.append((group[0].time - since, text + more))
    return labels


def _draw_calls(
    axes: Any,
    spans: Sequence[BatchSpan],
    lanes: Sequence[str],
    colors: dict[str, Any],
    to_axis: Callable[[float], float],
) -> None:
    """Draw calls; a batch is cut into as many rows as it has frames.

    All of them are two collections: a bar of its own for each takes minutes and much memory.
    """
    boxes: dict[bool, list[Any]] = {False: [], True: []}
    faces: dict[bool, list[Any]] = {False: [], True: []}
    edges: dict[bool, list[float]] = {False: [], True: []}
    length = axes.get_xlim()[1]
    for span in spans:
        left, right = to_axis(span.start), to_axis(span.end)
        share, height = (right - left) / length, 0.7 / len(span.streams)
        for i, name in enumerate(span.streams):
            bottom = lanes.index(span.device) - 0.35 + i * height
            top = bottom + height
            boxes[span.failed].append([(left, bottom), (right, bottom), (right, top), (left, top)])
            faces[span.failed].append(colors[name])
            edges[span.failed].append(0.6 if span.failed or share > EDGE_SHARE else 0.0)
            if share > LABEL_SHARE:
                text = name if len(name) <= 12 else name[:11] + "."
                middle = ((left + right) / 2, (bottom + top) / 2)
                axes.annotate(text, middle, ha="center", va="center", fontsize=7, clip_on=True)
    for failed, polygons in boxes.items():
        collection = require("matplotlib.collections").PolyCollection(
            polygons,
            facecolors=faces[failed],
            edgecolors="red" if failed else "white",
            hatch="///" if failed else None,
            linewidths=edges[failed],
        )
        axes.add_collection(collection, autolim=False)


def lane_order(name: str) -> tuple[int, str]:
    """Return a key that sorts devices' names: GPU, DLA, CPU."""
    return ("gpu", "dla", "cpu").index(name[:3]), name
