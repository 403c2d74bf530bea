# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Class names: the COCO list and label files."""

from __future__ import annotations

from pathlib import Path

from yolox_trt.core.errors import ConfigurationError

#: The 80 classes of COCO detection, in the order of YOLOX's outputs.
COCO_CLASSES: tuple[str, ...] = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,
    stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,
    backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,
    baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,
    banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,
    bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
    refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace(
        "\n    ", ""
    ).split(",")
)

#: COCO's category ids (1..90 with gaps) in the order of COCO_CLASSES.
COCO_CATEGORY_IDS: tuple[int, ...] = tuple(
    i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Return COCO's names for 80 classes, else () (a class is then called by its number)."""
    return COCO_CLASSES if num_classes == len(COCO_CLASSES) else ()


def load_class_names(path: str | Path, num_classes: int | None = None) -> tuple[str, ...]:
    """Read a label file: one class name a line, in the order of the network's classes.

    Args:
        path: text file, UTF-8; empty lines at the end are left out.
        num_classes: classes of the model, checked where given.

    Raises:
        ConfigurationError: the file cannot be read, or it has no or another number of names.
    """
    with ConfigurationError.instead_of(
        (OSError, UnicodeDecodeError),
        f"label file '{path}' that cannot be read",
        expected="a text file with one class name a line",
    ):
        text = Path(path).read_text(encoding="utf-8-sig")
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names or num_classes not in (None, len(names)):
        raise ConfigurationError(
            f"{len(names)} names in label file '{path}'",
            expected=f"{num_classes or 'at least 1'}, a line for each class of the model",
        )
    return names
