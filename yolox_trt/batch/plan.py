# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Plan: from sources to parts, each of which is worked on, written and retried as a whole."""

from __future__ import annotations

import glob
import hashlib
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from yolox_trt.batch.options import SourceOptions
from yolox_trt.batch.places import Place, is_remote, place_of, reaching, read_place
from yolox_trt.core.coco import find_images, read_instances
from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.images import BAG_SUFFIXES, IMAGE_SUFFIXES, VIDEO_SUFFIXES
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.progress import Progress, no_progress
from yolox_trt.ros.messages.transports import BY_TYPE
from yolox_trt.ros.tools.bag import ImageBag

BAG, VIDEO, IMAGES = "bag", "video", "images"
#: Behind every time of recording, and before it: a span that leaves nothing out.
_FIRST, _END = 0, 2**63 - 1
_EXPECTED = (
    "a bag, a video, an image, a folder of one of these, a COCO set, a pattern, or a .txt file "
    "with one of them a line"
)


@dataclass(frozen=True)
class Part:
    """A piece of one source.

    Attributes:
        source: the bag, video, folder or COCO set.
        kind: BAG, VIDEO or IMAGES.
        number: its place among the parts of the source, from 0 on.
        frames: how many are in it, as far as that is known before; 0 where it is not.
        span: times of recording in a bag, first and behind the last, nanoseconds.
        topics: image topics of a bag; empty for all.
        files: images.
        image_ids: of a COCO set's images.
        state: what the source was like when it was planned: bytes of its files.
    """

    source: str
    kind: str
    number: int = 0
    frames: int = 0
    span: tuple[int, int] = (_FIRST, _END)
    topics: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    image_ids: tuple[int, ...] = ()
    state: str = ""

    @property
    def id(self) -> str:
        """Name of its files: for people its source and number, and a hash of everything else."""
        content = (self.source, self.kind, self.number, self.span, self.topics, self.files)
        digest = hashlib.sha256(repr((*content, self.image_ids, self.state)).encode()).hexdigest()
        stem = re.sub(r"[^\w.-]", "_", Path(self.source).stem)[-60:]
        return f"{stem}-{digest[:12]}-{self.number:05d}"


def plan_parts(
    sources: Sequence[str], options: SourceOptions, *, on_progress: Progress = no_progress
) -> list[Part]:
    """Cut sources into parts, in the order of the sources.

    A bag is cut at times of recording, so that each message is in one part; one with H.264 or HEVC
    is one part. A bag that cannot be opened is a part all the same, which fails when it is worked
    on: the others are not held up.

    Args:
        sources: see _EXPECTED; paths, or addresses that fsspec knows.
        options: how.
        on_progress: told of every source.

    Raises:
        ConfigurationError: a source does not exist, or is none; told before any is opened.
        MissingDependencyError: the package of a scheme is missing.
    """
    read: set[str] = set()
    found = _gathered([each for source in sources for each in _expanded(source, read)])
    parts: list[Part] = []
    for done, (place, kind) in enumerate(found, start=1):
        parts += _parts_of(place, kind, options)
        on_progress("planning", done, len(found))
    unique = {part.id: part for part in parts}  # a source that is named twice is read once
    return list(unique.values())


def _gathered(found: Sequence[tuple[Place, str]]) -> list[tuple[Place, str]]:
    """Bring the images that are named one by one together, those of a folder at its first one.

    A row of the results is found again by its source, part and frame: a folder is one source,
    however its images were named. Those of a folder that is named itself are left to it.
    """
    whole = {str(place) for place, _ in found if not isinstance(place, list)}
    folders: dict[str, dict[str, Place]] = {}
    for place, _ in found:
        for file in place if isinstance(place, list) else ():
            folders.setdefault(str(file.parent), {})[str(file)] = file
    gathered = []
    for place, kind in found:
        if not isinstance(place, list):
            gathered.append((place, kind))
            continue
        for folder in dict.fromkeys(str(file.parent) for file in place):
            files = folders.pop(folder, None)
            if files and folder not in whole:
                gathered.append((list(files.values()), kind))
    return gathered


def _expanded(
    text: str, read: set[str], lists: tuple[str, ...] = ()
) -> Iterator[tuple[Place, str]]:
    """Yield the bags, videos, image folders and images that a source names, with their kinds.

    Args:
        text: the source.
        read: the lists that are done: what they name counts once. This one is added.
        lists: the lists through which it is named, from the first one on.
    """
    place = place_of(text)
    with reaching(place):
        exists = place.exists()
    if glob.has_magic(text) and not exists:  # a name may have brackets of its own
        anchor, pattern = _split_pattern(text)
        with reaching(text):
            matches = sorted(place_of(anchor).glob(pattern), key=str)
        known = [each for each in matches if each.is_dir() or _kind_of_file(each)]
        if not known:
            raise ConfigurationError(
                f"pattern '{place}', which matches nothing", expected=_EXPECTED, fix="check it"
            )
        images = [each for each in known if _kind_of_file(each) == IMAGES]
        if images:
            yield images, IMAGES
        for each in known:
            if each not in images:
                yield from _expanded(str(each), read, lists)
        return
    if not exists:
        raise ConfigurationError(
            f"source '{place}', which does not exist", expected=_EXPECTED, fix="check the path"
        )
    with reaching(place):
        is_folder = place.is_dir()
    if is_folder:
        yield from _in_folder(place)
    elif place.suffix.lower() == ".txt":
        yield from _in_list(place, read, lists)
    elif kind := _kind_of_file(place):
        yield ([place] if kind == IMAGES else place), kind
    else:
        raise ConfigurationError(
            f"source '{place}', a file of another kind", expected=_EXPECTED, fix="convert it"
        )


def _split_pattern(text: str) -> tuple[str, str]:
    parts = text.split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    anchor = "/".join(parts[:first])
    return (anchor or ("/" if text.startswith("/") else ".")), "/".join(parts[first:])


def _kind_of_file(place: Place) -> str:
    suffix = place.suffix.lower()
    if suffix in BAG_SUFFIXES:
        return BAG
    return VIDEO if suffix in VIDEO_SUFFIXES else IMAGES if suffix in IMAGE_SUFFIXES else ""


def _in_folder(folder: Place) -> Iterator[tuple[Place, str]]:
    with reaching(folder):
        # A pipe, which an archive may hold, waits for a writer when it is opened.
        inside = sorted((each for each in folder.iterdir() if not each.is_fifo()), key=str)
    if folder / "metadata.yaml" in inside:
        yield folder, BAG
        return
    if label_file(folder) is not None:
        yield folder, IMAGES
        return
    images = [each for each in inside if _kind_of_file(each) == IMAGES]
    if images:
        yield folder, IMAGES
    others = [each for each in inside if _kind_of_file(each) in (BAG, VIDEO)]
    with reaching(folder):
        bags = [each for each in inside if each.is_dir() and (each / "metadata.yaml").is_file()]
    for each in sorted([*others, *bags], key=str):
        yield each, BAG if each in bags else _kind_of_file(each)
    if not images and not others and not bags:
        raise ConfigurationError(
            f"folder '{folder}' without images, videos and bags", expected=_EXPECTED,
            fix="name another folder, or a pattern such as FOLDER/**/*.jpg",
        )  # fmt: skip


def _in_list(file: Place, read: set[str], lists: tuple[str, ...]) -> Iterator[tuple[Place, str]]:
    lists = (*lists, str(file.resolve()))
    if lists[-1] in lists[:-1]:
        raise ConfigurationError(
            f"list '{lists[-1]}', which names itself: {' -> '.join(lists)}",
            expected=_EXPECTED,
            fix=f"take it out of '{lists[-2]}'",
        )
    if lists[-1] in read:
        return
    read.add(lists[-1])
    if len(lists) > LIMITS.document_depth:
        raise ConfigurationError(
            f"list '{lists[-1]}', named through {len(lists) - 1} others",
            expected=f"at most {LIMITS.document_depth} lists that name one another",
            fix="put the sources into one list",
        )
    with reaching(file):
        data = read_place(file, LIMITS.json_bytes)
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    for line in dict.fromkeys(lines):
        if line and not line.startswith("#"):
            below = "://" in line or line.startswith(("/", "~"))
            yield from _expanded(line if below else str(file.parent / line), read, lists)


def label_file(folder: Place) -> Place | None:
    """Return the one instances_*.json of a folder that is a COCO set; None for another folder."""
    with reaching(folder):
        found = sorted(
            {*folder.glob("instances_*.json"), *folder.glob("annotations/instances_*.json")},
            key=str,
        )
    return found[0] if len(found) == 1 else None


def _parts_of(place: Place, kind: str, options: SourceOptions) -> list[Part]:
    if kind == BAG:
        return _parts_of_bag(place, options)
    if kind == VIDEO:  # which can be read from its beginning alone
        return [Part(str(place), VIDEO, state=_state([place]))]
    files: list[Any]
    ids: list[int] = []
    if isinstance(place, list):
        files, source = place, str(place[0].parent)
    else:
        source, labels = str(place), label_file(place)
        if labels is not None and not is_remote(place):
            files, ids = _labelled(place, labels)
        else:
            with reaching(place):
                inside = sorted(place.iterdir(), key=str)
            files = [each for each in inside if _kind_of_file(each) == IMAGES]
    size = options.part_frames
    return [
        Part(
            source,
            IMAGES,
            number,
            frames=len(files[start : start + size]),
            files=tuple(map(str, files[start : start + size])),
            image_ids=tuple(ids[start : start + size]),
            state=_state(files[start : start + size]),
        )
        for number, start in enumerate(range(0, len(files), size))
    ]


def _labelled(folder: Path, labels: Path) -> tuple[list[Path], list[int]]:
    """Return the images of a COCO set and their ids, in the order of its label file."""
    fix = "mend the label file, or name the folder of its images"
    images = read_instances(labels, ("images",), fix=fix)["images"]
    subset = labels.stem.removeprefix("instances_")
    folders = [folder / "images", folder / subset, folder / "images" / subset, folder]
    names = [image["file_name"] for image in images]
    return find_images(names, folders, fix=fix), [image["id"] for image in images]


def _parts_of_bag(place: Place, options: SourceOptions) -> list[Part]:
    with reaching(place):
        files = sorted(place.iterdir(), key=str) if place.is_dir() else [place]
    whole = Part(str(place), BAG, topics=tuple(options.topic), state=_state(files))
    if is_remote(place) and place.suffix == ".db3":  # SQLite reads files of this machine alone
        return [whole]
    try:
        bag = ImageBag(place, options.topic)
    except YoloxTrtError:  # told when it is the part's turn
        return [whole]
    try:
        frames, (start, end) = len(bag), bag.recorded
        video = any(BY_TYPE[kind].video for kind in bag.types.values())
    finally:
        bag.close()
    if video:  # whose pictures need those before them
        return [replace(whole, frames=frames)]
    # What the bag says of itself may be anything.
    most = min(max(end - start, 1), LIMITS.bag_parts)
    count = min(max(1, -(-frames // options.part_frames)), most)
    cuts = [start + (end - start) * number // count for number in range(1, count)]
    edges = [_FIRST, *cuts, _END]
    return [
        replace(whole, number=number, frames=-(-frames // count), span=span)
        for number, span in enumerate(pairwise(edges))
    ]


def _state(files: Sequence[Place]) -> str:
    """Return the sizes of files: what changes when one is written anew."""
    with reaching(files[0]):
        found = [each.stat() for each in files]
    return " ".join(str(each.st_size) for each in found if not stat.S_ISDIR(each.st_mode))
