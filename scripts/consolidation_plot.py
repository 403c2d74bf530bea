# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/consolidation.png of what `yolox_trt bench consolidation --json` wrote.

.venv/bin/python scripts/consolidation_plot.py consolidation.json docs/images/consolidation.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from yolox_trt.core.documents import parse_json

_PANELS = (
    ("gpu_mb", "GPU memory, GB", 1e-3),
    ("rss_mb", "memory (RSS), GB", 1e-3),
    ("cpu_percent", "CPU, cores", 1e-2),
    ("worst_p99_ms", "p99 of the worst camera, ms", 1.0),
)
_SEPARATE, _SHARED = "#b8b8b8", "#1f6f8b"


def main(source: str, target: str) -> None:
    """Draw a row of panels for each way that was measured, through ROS and without it."""
    figures = parse_json(Path(source).read_text())["figures"]
    ways = [way for way in ("ROS", "") if any(each["through"] == way for each in figures)]
    figure, rows = plt.subplots(
        len(ways), len(_PANELS), figsize=(11, 2.3 * len(ways)), squeeze=False, layout="constrained"
    )
    for way, panels in zip(ways, rows, strict=True):
        mine = [each for each in figures if each["through"] == way]
        for (key, title, unit), axes in zip(_PANELS, panels, strict=True):
            _bars(axes, mine, key, unit)
            axes.set_title(title, fontsize=9)
        panels[0].set_ylabel("through ROS" if way else "without ROS", fontsize=9)
    figure.legend(
        *rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    figure.savefig(target, dpi=110)


def _bars(axes: Any, figures: list[dict[str, Any]], key: str, unit: float) -> None:
    """Draw two bars for each number of cameras: a process each, and one process."""
    cameras = sorted({each["cameras"] for each in figures})
    for place, colour, label, shared in (
        (-0.2, _SEPARATE, "a process for each camera", False),
        (0.2, _SHARED, "one process for all", True),
    ):
        # The last of the forms with one process: with ingest processes, where there are any.
        rows = [e for e in figures if (e["form"].split()[0] == "1") == shared and e[key]]
        values = {each["cameras"]: each[key] * unit for each in rows}
        heights = [values[number] for number in cameras]
        bars = axes.bar([i + place for i in range(len(cameras))], heights, 0.38, color=colour)
        bars.set_label(label)
        texts = [f"{v:.2g}" if v < 10 else f"{v:.0f}" for v in heights]
        axes.bar_label(bars, texts, fontsize=7, rotation=90, padding=2)
    axes.set_xticks(range(len(cameras)), cameras, fontsize=8)
    axes.set_xlabel("cameras", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
