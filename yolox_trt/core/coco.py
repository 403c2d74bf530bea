# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""COCO label files: read and checked, and the files of their images found."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolox_trt.core.documents import read_json
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError, Message
from yolox_trt.core.limits import LIMITS

Entry = dict[str, Any]

_MEND = "mend the label file"


def read_label_file(path: Path, *, fix: Message) -> Any:
    """Read a JSON file; an error gives `fix` as what mends it.

    Raises:
        ConfigurationError: it cannot be read.
    """
    found = f"label file '{path}' that cannot be read"
    with ConfigurationError.instead_of(FILE_ERRORS, found, expected="a JSON file", fix=fix):
        return read_json(path, LIMITS.annotation_bytes, LIMITS.annotation_values)


def read_instances(
    path: Path,
    parts: Sequence[str] = ("images", "categories", "annotations"),
    *,
    sizes: bool = False,
    fix: Message,
) -> dict[str, Any]:
    """Read COCO instances: whole ids, names, and the area and iscrowd that tools leave out.

    Args:
        path: the label file.
        parts: those that it must have; others are returned as they are.
        sizes: whether images must have a height and a width.
        fix: what mends it where it is no such file.

    Raises:
        ConfigurationError: the file cannot be read or lacks a part, has no image or no category,
            or an entry lacks something or has an id twice.
    """
    truth = read_label_file(path, fix=fix)
    if not isinstance(truth, dict) or not set(parts) <= truth.keys():
        raise ConfigurationError(
            f"'{path}'",
            expected=f"COCO instances: an object with {', '.join(parts)}",
            fix=fix,
        )
    checked = dict(truth)
    for part in parts:
        entries = truth[part]
        if not isinstance(entries, list) or not (entries or part == "annotations"):
            raise ConfigurationError(
                f"{part} = {entries!r:.80} in '{path}'", expected="a list of them", fix=_MEND
            )
        read, content = _ENTRIES["sized images" if sizes and part == "images" else part]
        checked[part] = []
        for index, entry in enumerate(entries):
            found = f"{part}[{index}] of '{path}'"
            with ConfigurationError.instead_of(FILE_ERRORS, found, expected=content, fix=_MEND):
                checked[part].append({**entry, **read(entry)})
    for part in set(parts) - {"annotations"}:  # nothing reads the ids of annotations
        id_, count = Counter(entry["id"] for entry in checked[part]).most_common(1)[0]
        if count > 1:
            raise ConfigurationError(
                f"{count} {part} with id {id_} in '{path}'", expected="an id for each", fix=_MEND
            )
    return checked


def _whole(value: Any, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """Return a whole number in its range, which by default is that of 64 bits."""
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{str(value)[:40]}, which is not from {low} to {high}")
    return number


def _image(entry: Entry) -> Entry:
    return {"id": _whole(entry["id"]), "file_name": name_below(entry["file_name"])}


def name_below(name: Any) -> str:
    """Return a file's name that another file gives: an image's, in a label file.

    Raises:
        ValueError: it leads out of the folder to which it belongs.
    """
    path = Path(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{path}' leads out of the folder")
    return str(name)


def _sized_image(entry: Entry) -> Entry:
    height, width = (_whole(entry[side], 1, 2**31 - 1) for side in ("height", "width"))
    return {**_image(entry), "height": height, "width": width}


def _category(entry: Entry) -> Entry:
    return {"id": _whole(entry["id"]), "name": str(entry["name"])}


def _annotation(entry: Entry) -> Entry:
    bbox = [float(v) for v in entry["bbox"]]
    _, _, width, height = bbox
    if not all(map(math.isfinite, bbox)):
        raise ValueError(f"bbox {bbox}")
    area = float(width * height if entry.get("area") is None else entry["area"])
    if not math.isfinite(area):
        raise ValueError(f"area {area}")
    return {
        "image_id": _whole(entry["image_id"]),
        "category_id": _whole(entry["category_id"]),
        "bbox": bbox,
        "area": area,
        "iscrowd": _whole(entry.get("iscrowd") or 0, 0, 1),
    }


#: Part of a COCO label file -> what reads an entry of it, and what that must have.
_ENTRIES: dict[str, tuple[Callable[[Entry], Entry], str]] = {
    "images": (_image, "an id and a file_name"),
    "sized images": (_sized_image, "an id, a file_name, a height and a width"),
    "categories": (_category, "an id and a name"),
    "annotations": (_annotation, "an image_id, a category_id and a bbox [x, y, width, height]"),
}


def find_images(
    names: Sequence[str], folders: Sequence[Path], *, flat: bool = False, fix: Message
) -> list[Path]:
    """Return the file of each name, in the first of the folders that has it.

    Args:
        names: paths relative to the folders.
        folders: where to look.
        flat: take a file without the folders in its name where there is none with them: some label
            files name the folder of the whole set.
        fix: what mends it where there is none.

    Raises:
        ConfigurationError: there are no names, or some have no file.
    """

    def file_of(name: str) -> Path | None:
        forms = (name, Path(name).name) if flat else (name,)
        paths = (folder / form for form in forms for folder in folders)
        return next(filter(os.path.isfile, paths), None)  # False for names that no file can have

    found = {name: file_of(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing or not names:
        raise ConfigurationError(
            f"{len(missing)} of {len(names)} images missing"
            + (f", such as {missing[0]}, in {', '.join(map(str, folders))}" if missing else ""),
            expected="at least one image, and every one that is listed",
            fix=fix,
        )
    return [path for name in names if (path := found[name])]
