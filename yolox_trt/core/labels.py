# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Class names: the COCO list, label files, and files that map classes to numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import read_at_most
from yolox_trt.core.limits import LIMITS

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
        path: text file, UTF-8; empty lines at the end are left out. No more of its content than
            names that are valid leaves this function: an error names the line, and not its text.
        num_classes: classes of the model, checked where given.

    Raises:
        ConfigurationError: the file cannot be read or is too large, it has no or another number
            of names, or one of them is empty, too long, or not printable.
    """
    text = _read(path, "label file", expected="a text file with one class name a line")
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    for number, name in enumerate(names, 1):
        if not _is_name(name):
            raise ConfigurationError(
                f"line {number} of label file '{path}'",
                expected=f"a class name of 1 to {LIMITS.name_characters} printable characters",
            )
    if not names or num_classes not in (None, len(names)):
        raise ConfigurationError(
            f"{len(names)} names in label file '{path}'",
            expected=f"{num_classes or 'at least 1'}, a line for each class of the model",
        )
    return names


def load_rows(
    path: str | Path, columns: Sequence[str], *, expected: str
) -> list[tuple[int, tuple[str, ...]]]:
    """Read a CSV file as Autoware writes them: a header line, and comments from `#` on.

    Args:
        path: text file, UTF-8. Errors name its lines, and not what is in them.
        columns: names of the columns; there are no others.
        expected: what a line should hold, for the error.

    Returns:
        Number and fields of each line, without white space around them.

    Raises:
        ConfigurationError: the file cannot be read or is too large, or a line has another number of
            fields.
    """
    header = ",".join(columns)
    lines = _read(path, "CSV file", expected=f"a header line and lines {header}").splitlines()
    rows = []
    for number, line in enumerate(lines[1:], 2):
        fields = tuple(field.strip() for field in line.partition("#")[0].split(","))
        if not any(fields):
            continue
        if len(fields) != len(columns):
            raise csv_error(path, number, f"{header}: {expected}")
        rows.append((number, fields))
    return rows


def csv_error(path: str | Path, line: int, expected: str) -> ConfigurationError:
    """Make the error of a line of a CSV file."""
    return ConfigurationError(f"line {line} of CSV file '{path}'", expected=expected)


def load_remap(
    path: str | Path, class_names: Sequence[str], *, most: int, what: str
) -> tuple[int, ...]:
    """Read what each class of a model becomes, as Autoware's remap files say it (`name,id`).

    Args:
        path: CSV file; it may name classes that the model does not have.
        class_names: names of the model's classes.
        most: largest number; -1 is allowed everywhere.
        what: what the numbers are, for the error.

    Returns:
        A number for each class.

    Raises:
        ConfigurationError: the file cannot be read, a line is wrong, or a class is missing.
    """
    expected = f"name,id: a class name, and {what} from 0 to {most}, or -1 for none"
    numbers: dict[str, int] = {}
    for line, (name, text) in load_rows(path, ("name", "id"), expected=expected):
        number = int(text) if re.fullmatch(r"-?[0-9]{1,4}", text) else most + 1
        if not _is_name(name) or not -1 <= number <= most or numbers.get(name, number) != number:
            raise csv_error(path, line, expected)
        numbers[name] = number
    for name in class_names:
        if name not in numbers:
            raise ConfigurationError(
                f"no line for the model's class '{name}' in CSV file '{path}'",
                expected="a line for each of " + ", ".join(class_names[:12]),
                fix="add the line, or give the file that belongs to the model",
            )
    return tuple(numbers[name] for name in class_names)


def _is_name(text: str) -> bool:
    return 0 < len(text) <= LIMITS.name_characters and text.isprintable()


def _read(path: str | Path, what: str, *, expected: str) -> str:
    with ConfigurationError.instead_of(
        (OSError, ValueError), f"{what} '{path}' that cannot be read", expected=expected
    ):
        return read_at_most(path, LIMITS.label_file_bytes).decode("utf-8-sig")
