# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The report of `yolox_trt compare`: one HTML file with tables and plots, nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.optional import require
from yolox_trt.evaluation.compare import Variant

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d8dee4; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.best { background: #e6f4ea; }
img { max-width: 100%; }
p.note { color: #57606a; }
"""


#: Columns of the first table, and what stands in them.
_COLUMNS = (
    "form", "mAP", "against FP32", "mAP50", "small", "medium", "large",
    "operations outside INT8", "ONNX MB", "CPU ms (simulated)",
)  # fmt: skip


def write_report(
    path: str | Path, variants: Sequence[Variant], *, title: str, notes: Sequence[str] = ()
) -> None:
    """Write the report.

    Args:
        path: HTML file to write.
        variants: what compare returned, FP32 first.
        title: names the model.
        notes: lines under the title (data, machine, versions).
    """
    reference = variants[0].metrics
    int8 = [v for v in variants if v.float_macs == 0.0]
    best = max(int8, key=lambda v: v.metrics.mean_ap, default=None)
    forms = []
    for variant in variants:
        m = variant.metrics
        forms.append(
            (
                variant.form,
                f"{m.mean_ap:.4f}",
                f"{m.mean_ap - reference.mean_ap:+.4f}" if variant is not variants[0] else "",
                f"{m.map50:.4f}",
                *(f"{v:.3f}" if v >= 0 else "-" for v in (m.map_small, m.map_medium, m.map_large)),
                f"{100 * variant.float_macs:.1f} %",
                f"{variant.size / 1e6:.2f}",
                f"{variant.inference * 1e3:.1f}",
            )
        )
    ours = best.metrics.per_class if best else {}
    classes = [
        (name, f"{ap:.3f}", f"{ours.get(name, -1):.3f}")
        for name, ap in sorted(reference.per_class.items(), key=lambda item: -item[1])
    ]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        "<h2>Accuracy, size, time</h2>",
        _table(_COLUMNS, forms, marked=variants.index(best) if best else None),
        "<p class='note'>The best form with everything in INT8 is marked. INT8 is simulated by "
        "Q/DQ in ONNX Runtime: the accuracy is that of TensorRT's arithmetic up to rounding, the "
        "time says nothing about TensorRT.</p>",
        "<h2>mAP of each form</h2>",
        _accuracy_plot(variants),
        "<h2>Error of each layer's output against FP32</h2>",
        _line_plot(
            variants, _layers, "layer with weights, in the order of the network", "relative error"
        ),
        "<h2>Activation ranges</h2>",
        _line_plot(
            variants,
            _ranges,
            "percent of the tensors, smallest range first",
            "range (largest magnitude)",
        ),
        "<h2>Average precision of each class</h2>",
        _table(("class", "FP32", "best INT8"), classes),
        "</html>",
    ]
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], marked: int | None = None
) -> str:
    lines = ["<tr>", *(f"<th>{html.escape(cell)}</th>" for cell in headings)]
    for number, row in enumerate(rows):
        lines.append("<tr class='best'>" if number == marked else "<tr>")
        lines += [f"<td>{html.escape(cell)}</td>" for cell in row]
    return f"<table>{''.join(lines)}</table>"


def _plot(draw: Callable[[Any], None], width: float, height: float) -> str:
    """Return a plot as an image within HTML; `draw` is given its axes."""
    require("matplotlib", purpose="the report's plots").use("Agg")
    pyplot = require("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot.close(figure)
    return f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _accuracy_plot(variants: Sequence[Variant]) -> str:
    def draw(axes: Any) -> None:
        values = [v.metrics.mean_ap for v in variants]
        bars = axes.barh([v.form for v in variants][::-1], values[::-1], color="#2a78d6")
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.axvline(values[0], color="#57606a", linestyle="--", linewidth=1)
        axes.set_xlabel("mAP (IoU 0.50:0.95); dashed: FP32")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08)

    return _plot(draw, 10, 0.32 * len(variants) + 1)


def _line_plot(
    variants: Sequence[Variant], points: Callable[[Variant], tuple[Any, Any]], x: str, y: str
) -> str:
    """Draw the best form of each family: more lines than these cannot be told apart."""
    families: dict[str, Variant] = {}
    for variant in variants:
        if variant.float_macs == 0.0:
            family = variant.form.partition(",")[0]
            pair = families.get(family, variant), variant
            families[family] = max(pair, key=lambda v: v.metrics.mean_ap)

    def draw(axes: Any) -> None:
        for variant in list(families.values())[:4]:
            axes.plot(*points(variant), linewidth=1.5, label=variant.form)
        axes.set(xlabel=x, ylabel=y, yscale="log")
        axes.grid(alpha=0.3)
        axes.legend()

    return _plot(draw, 10, 4)


def _layers(variant: Variant) -> tuple[Any, Any]:
    return range(1, len(variant.layer_errors) + 1), list(variant.layer_errors.values())


def _ranges(variant: Variant) -> tuple[Any, Any]:
    assert variant.ranges is not None
    ranges = np.sort([variant.ranges.amax(name) for name in variant.ranges])
    return np.linspace(0, 100, len(ranges)), ranges
