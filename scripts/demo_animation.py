# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Draw docs/images/demo.webp: the demonstration's four moving cameras, with what is found in them.

PYTHONPATH=. .venv/bin/python scripts/demo_animation.py docs/images/demo.webp
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

import yolox_trt
from yolox_trt.core.images import read_image
from yolox_trt.ros.tools.demo_camera import ROUND, MovingPicture

_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")
_HEIGHT, _WIDTH = 200, 300
_RATE = 3.0
_BORDER = 4


def main(path: str) -> None:
    """Write two rounds of the movement, which bring each camera back to where it began."""
    folder = Path(skimage.__file__).parent / "data"
    pictures = [MovingPicture(read_image(folder / n), _HEIGHT, _WIDTH) for n in _PHOTOGRAPHS]
    frames = []
    with yolox_trt.Detector() as detector:
        for number in range(int(2 * ROUND * _RATE)):
            views = []
            for picture in pictures:
                canvas = np.empty((_HEIGHT, _WIDTH, 3), np.uint8)
                picture.draw(number / _RATE, canvas)
                result = detector(canvas)
                view = np.pad(result.plot(), ((_BORDER, 0), (_BORDER, 0), (0, 0)))
                views.append(view)
            rows = [np.hstack(views[i : i + 2]) for i in (0, 2)]
            frames.append(Image.fromarray(np.vstack(rows)[..., ::-1]))
    milliseconds = round(1000 / _RATE)
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=milliseconds,
        loop=0,
        quality=28,
        method=6,
    )


if __name__ == "__main__":
    main(sys.argv[1])
