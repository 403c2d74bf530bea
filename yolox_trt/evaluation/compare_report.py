# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The report of `yolox_trt compare`: one HTML file with tables and plots, nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
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
    int8 = [v for v in variants if v.precision == "int8" and v.float_macs == 0.0]
    best = max(int8, key=lambda v: v.metrics.mean_ap, default=None)
    rows = []
    for variant in variants:
        m = variant.metrics
        drop = m.mean_ap - reference.mean_ap
        cells = [
            html.escape(variant.name),
            f"{m.mean_ap:.4f}",
            f"{drop:+.4f}" if variant is not variants[0] else "",
            f"{m.map50:.4f}",
            *(f"{v:.3f}" if v >= 0 else "-" for v in (m.map_small, m.map_medium, m.map_large)),
            f"{100 * variant.float_macs:.1f} %",
            f"{variant.size / 1e6:.2f}",
            f"{variant.inference * 1e3:.1f}",
        ]
        mark = ' class="best"' if variant is best else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    header = "".join(
        f"<th>{name}</th>"
        for name in (
            "form", "mAP", "against FP32", "mAP50", "small", "medium", "large",
            "operations outside INT8", "ONNX MB", "CPU ms (simulated)",
        )
    )  # fmt: skip
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        "<h2>Accuracy, size, time</h2>",
        f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
        "<p class='note'>The best form with everything in INT8 is marked. INT8 is simulated by "
        "Q/DQ in ONNX Runtime: the accuracy is that of TensorRT's arithmetic up to rounding, the "
        "time says nothing about TensorRT.</p>",
        "<h2>mAP of each form</h2>",
        _image(_accuracy_plot(variants)),
        "<h2>Error of each layer's output against FP32</h2>",
        _image(_layer_plot(variants)),
        "<h2>Activation ranges</h2>",
        _image(_range_plot(variants)),
        "<h2>Average precision of each class</h2>",
        _class_table(variants[0], best),
        "</html>",
    ]
    Path(path).write_text("\n".join(parts), encoding="utf-8")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    matplotlib = require("matplotlib", purpose="the report's plots")
    matplotlib.use("Agg")
    pyplot = require("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    return figure, axes


def _image(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    require("matplotlib.pyplot").close(figure)
    return f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _accuracy_plot(variants: Sequence[Variant]) -> Any:
    figure, axes = _figure(10, 0.32 * len(variants) + 1)
    names = [v.name for v in variants][::-1]
    values = [v.metrics.mean_ap for v in variants][::-1]
    bars = axes.barh(names, values, color="#2a78d6")
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.axvline(variants[0].metrics.mean_ap, color="#57606a", linestyle="--", linewidth=1)
    axes.set_xlabel("mAP (IoU 0.50:0.95); dashed: FP32")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08)
    return figure


def _chosen(variants: Sequence[Variant], count: int = 4) -> list[Variant]:
    """The best form of each family: more lines than these cannot be told apart."""
    families: dict[str, Variant] = {}
    for variant in variants:
        if variant.ranges is None or variant.float_macs > 0.0:
            continue
        family = variant.name.partition(",")[0]
        if family not in families or variant.metrics.mean_ap > families[family].metrics.mean_ap:
            families[family] = variant
    return list(families.values())[:count]


def _layer_plot(variants: Sequence[Variant]) -> Any:
    figure, axes = _figure(10, 4)
    for variant in _chosen(variants):
        errors = list(variant.layer_errors.values())
        axes.plot(range(1, len(errors) + 1), errors, linewidth=1.5, label=variant.name)
    axes.set_yscale("log")
    axes.set_xlabel("layer with weights, in the order of the network")
    axes.set_ylabel("relative error")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _range_plot(variants: Sequence[Variant]) -> Any:
    figure, axes = _figure(10, 4)
    for variant in _chosen(variants):
        assert variant.ranges is not None
        values = np.sort([variant.ranges.amax(name) for name in variant.ranges])
        share = np.linspace(0, 100, len(values))
        axes.plot(share, values, linewidth=1.5, label=variant.name)
    axes.set_yscale("log")
    axes.set_xlabel("percent of the tensors, smallest range first")
    axes.set_ylabel("range (largest magnitude)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _class_table(reference: Variant, best: Variant | None) -> str:
    names = [n for n, v in reference.metrics.per_class.items() if v >= 0]
    names.sort(key=lambda n: -reference.metrics.per_class[n])
    header = "<tr><th>class</th><th>FP32</th><th>best INT8</th></tr>"
    rows = []
    for name in names:
        other = best.metrics.per_class.get(name, -1) if best else -1
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{reference.metrics.per_class[name]:.3f}</td>"
            f"<td>{other:.3f}</td></tr>"
        )
    return f"<table>{header}{''.join(rows)}</table>"
