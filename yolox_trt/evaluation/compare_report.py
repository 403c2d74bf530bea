# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The report of `yolox_trt compare`: one HTML file with tables and plots, nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolox_trt.core.files import write_atomically
from yolox_trt.core.optional import require
from yolox_trt.evaluation.coco_metrics import CocoMetrics
from yolox_trt.evaluation.compare import Variant
from yolox_trt.evaluation.output_metrics import OutputMetrics

#: Told apart by people who see colours otherwise, too (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
#: Parts of a range that are cut off, and shown, from here on.
_LEAST_CUT = 1e-3

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
    int8 = [v for v in variants if v.float_macs == 0.0]
    best = max(int8, key=lambda v: v.score, default=None)
    columns = list(variants[0].figures)
    forms = [
        (
            variant.form,
            *variant.figures.values(),
            f"{100 * variant.float_macs:.1f} %",
            f"{variant.size / 1e6:.2f}",
            f"{variant.inference * 1e3:.1f}",
        )
        for variant in variants
    ]
    first, ours = (v.metrics.per_class if v else {} for v in (variants[0], best))
    classes = [
        (name, f"{value:.3f}", f"{ours.get(name, -1):.3f}")
        for name, value in sorted(first.items(), key=lambda item: -item[1])
    ]
    is_labelled = isinstance(variants[0].metrics, CocoMetrics)
    what = "Average precision" if is_labelled else "IoU with FP32's classes"
    against = "" if is_labelled else (
        "<p class='note'>There are no labels: FP32's own outputs are what the others are compared "
        "with. An error is ||found - FP32|| / ||FP32||.</p>"
    )  # fmt: skip
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        "<h2>Accuracy, size, time</h2>",
        _table(
            ("form", *columns, "operations outside INT8", "ONNX MB", "CPU ms (simulated)"),
            forms,
            marked=variants.index(best) if best else None,
        ),
        against,
        "<p class='note'>The best form with everything in INT8 is marked. INT8 is simulated by "
        "Q/DQ in ONNX Runtime: the accuracy is that of TensorRT's arithmetic up to rounding, the "
        "time says nothing about TensorRT.</p>",
        f"<h2>Each form: {html.escape(variants[0].score_title)}</h2>",
        _accuracy_plot(variants),
        "<h2>Error of each layer's output against FP32</h2>",
        _layer_plot(variants),
        "<h2>What each algorithm cuts off of the activations' ranges</h2>",
        _range_plot(variants),
        "<p class='note'>Inputs of layers with weights: 1 - range / largest magnitude that was "
        "seen. What lies beyond the range is clipped.</p>",
        *([f"<h2>{what} of each class</h2>",
           _table(("class", "FP32", "best INT8"), classes)] if classes else []),
        "</html>",
    ]  # fmt: skip
    write_atomically(Path(path), "\n".join(parts).encode())


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
    name = variants[0].score_title
    is_error = isinstance(variants[0].metrics, OutputMetrics) and variants[0].score <= 0.0

    def draw(axes: Any) -> None:
        values = [-100.0 * v.score if is_error else v.score for v in variants]
        bars = axes.barh([v.form for v in variants][::-1], values[::-1], color=_COLOURS[0])
        axes.bar_label(bars, fmt="%.3g" if is_error else "%.3f", padding=3)
        if is_error:
            axes.set_xlabel(f"{name} in percent; less is better")
        else:
            axes.axvline(values[0], color="#57606a", linestyle="--", linewidth=1)
            axes.set_xlabel(f"{name}; dashed: FP32")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08)

    return _plot(draw, 10, 0.32 * len(variants) + 1)


def _layer_plot(variants: Sequence[Variant]) -> str:
    """Draw the best form of each family: more lines than these cannot be told apart."""
    families: dict[str, Variant] = {}
    for variant in variants:
        if variant.float_macs == 0.0:
            family = variant.form.partition(",")[0]
            pair = families.get(family, variant), variant
            families[family] = max(pair, key=lambda v: v.score)

    def draw(axes: Any) -> None:
        for variant, colour in zip(list(families.values())[:4], _COLOURS, strict=False):
            errors = list(variant.layer_errors.values())
            places = range(1, len(errors) + 1)
            axes.plot(places, errors, linewidth=1.5, label=variant.form, color=colour)
        axes.set(
            xlabel="layer with weights, in the order of the network",
            ylabel="relative error",
            yscale="log",
        )
        axes.grid(alpha=0.3)
        axes.legend()

    return _plot(draw, 10, 4)


def _range_plot(variants: Sequence[Variant]) -> str:
    """Draw, for each algorithm, how much of the largest magnitude of each tensor is cut off.

    The ranges themselves would hide one another: they span decades, and algorithms differ by parts
    of one. Each curve ends where the tensors begin of which nothing is cut off.
    """
    prefix = "conv inputs, "
    ways = {v.form.removeprefix(prefix): v.ranges for v in variants if v.form.startswith(prefix)}
    whole = next((v.ranges for v in variants if v.form == "all tensors, max"), None)

    def draw(axes: Any) -> None:
        styles = itertools.product(("-", "--", ":"), _COLOURS)
        for (name, ranges), (style, colour) in zip(ways.items(), styles, strict=False):
            if ranges is None or whole is None or "FP16" in name:
                continue
            amaxes = [(ranges.amax(t), whole.amax(t)) for t in ranges if t in whole]
            cut = np.sort([1.0 - amax / largest for amax, largest in amaxes if largest > 0])[::-1]
            percent = 100.0 * np.arange(1, len(cut) + 1) / max(len(cut), 1)
            is_cut = cut >= _LEAST_CUT
            label = name if is_cut.any() else f"{name} (nothing)"
            axes.plot(
                percent[is_cut], cut[is_cut], label=label, color=colour, linestyle=style,
                linewidth=1.7, marker=".", markersize=4,
            )  # fmt: skip
        axes.set(
            xlabel="percent of the tensors, the most cut first",
            ylabel="part cut off",
            yscale="log",
            xlim=(0, 100),
            ylim=(_LEAST_CUT, 1.0),
        )
        axes.grid(alpha=0.3)
        axes.legend()

    return _plot(draw, 10, 4)
