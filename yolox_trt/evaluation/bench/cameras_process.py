# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`bench cameras` as one of several processes that are measured in the same time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.documents import parse_json
from yolox_trt.evaluation.bench.cameras import measure_cameras
from yolox_trt.evaluation.options import CamerasOptions, NamedModelOptions

#: Of what it prints: once it works, and before its figures.
READY, FIGURES = "READY", "FIGURES "
#: Seconds between two looks for the window.
_LOOK = 0.05


class _Window:
    """Begin and end of the measurement, in a file that another process writes.

    Args:
        path: "begin end" in seconds of time.monotonic().
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bounds: tuple[float, float] | None = None
        self._looked = 0.0

    def __call__(self, now: float) -> tuple[float, float] | None:
        """Return them; None while the file is not there."""
        if self._looked == 0.0:
            print(READY, flush=True)
        if self._bounds is None and now > self._looked + _LOOK:
            self._looked = now
            if self._path.exists():
                begin, end = map(float, self._path.read_text().split())
                self._bounds = begin, end
        return self._bounds


def main() -> int:
    """Measure; the argument is JSON, as bench_consolidation writes it."""
    given: dict[str, Any] = parse_json(sys.argv[1])
    device = given["device"]
    detector = NamedModelOptions(
        model=Path(given["model"]),
        device=Device.parse(device) if device else None,
        engine=given["engine"],
        precision=given["precision"],
    )
    options = CamerasOptions(detector=detector, rate=given["rate"], size=tuple(given["size"]))
    window = _Window(Path(given["window"]))
    cameras, max_batch = given["cameras"], given["max_batch"]
    figures = measure_cameras(options, cameras, max_batch, overlap=True, window=window)
    print(FIGURES + json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
