# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Copy four photographs, which scikit-image carries free of rights, into a folder."""

import shutil
import sys
from pathlib import Path

import skimage

source = Path(skimage.__file__).parent / "data"
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png"):
    shutil.copy(source / name, folder)
