# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Regression over many bags: each through the real multi_camera process, one report of all."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolox_trt import __version__
from yolox_trt.batch.job import Job, Outcome, Worker
from yolox_trt.batch.manifest import Manifest, Record
from yolox_trt.batch.places import read_place
from yolox_trt.batch.plan import BAG, Part
from yolox_trt.core.documents import parse_json, read_yaml
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.files import sha256_of, write_atomically
from yolox_trt.core.limits import LIMITS
from yolox_trt.core.shipped_files import default_model
from yolox_trt.evaluation.options import ToleranceOptions
from yolox_trt.evaluation.regression import (
    Change,
    Results,
    compare,
    expectation_text,
    read_expectation,
    results_of,
)
from yolox_trt.ros.tools.domains import own_domain
from yolox_trt.ros.tools.options import RegressOptions

_DOMAIN = "ROS_DOMAIN_ID"


@dataclass(frozen=True)
class RegressJob(Job):
    """Replays a bag through multi_camera, as `yolox_trt regress` does.

    Attributes:
        options: what detects; the bag is that of the part.
    """

    options: RegressOptions
    suffix = ".json"

    def description(self) -> Mapping[str, Any]:
        """Return the configuration, the arguments, the version, and the hashes of what they name.

        A model that was replaced under its name is another one.
        """
        config = self.options.config
        texts = [argument.rpartition(":=")[2] for argument in self.options.arguments]
        if config is not None:
            texts += [str(config), *_texts(read_yaml(config))]
        files = {str(default_model()), *filter(_is_file, texts)}
        return {
            "job": "regress",
            "arguments": list(self.options.arguments),
            "files": {path: sha256_of(Path(path)) for path in sorted(files)},
            "version": __version__,
        }

    @contextlib.contextmanager
    def open(self) -> Iterator[_Regression]:
        """Take a ROS domain: workers side by side must not hear one another's cameras.

        multi_camera is started for each bag.
        """
        given = os.environ.get(_DOMAIN)
        os.environ[_DOMAIN] = str(own_domain())
        try:
            yield _Regression(self.options)
        finally:
            del os.environ[_DOMAIN]
            if given is not None:
                os.environ[_DOMAIN] = given


def _texts(document: Any) -> Iterator[str]:
    """Return every text of a YAML document, keys aside."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, Mapping):
        yield from itertools.chain.from_iterable(map(_texts, document.values()))
    elif isinstance(document, list):
        yield from itertools.chain.from_iterable(map(_texts, document))


def _is_file(text: str) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a text that is no path at all
        return Path(text).is_file()
    return False


class _Regression(Worker):
    def __init__(self, options: RegressOptions) -> None:
        self._options = options

    def work(self, part: Part) -> Outcome:
        from yolox_trt.ros.tools.regress import run_regress

        begin = time.perf_counter()
        bag = Path(part.source)
        lines: list[str] = []
        logs = self._options.logs
        options = replace(self._options, bag=bag, logs=logs and logs / part.id)
        found = run_regress(options, say=lines.append)
        text = expectation_text(found, {"bag": bag.name, "version": __version__})
        images = sum(map(len, found.values()))
        return Outcome(part, text.encode(), images, seconds=time.perf_counter() - begin)


def whole_bags(parts: list[Part]) -> list[Part]:
    """Return a part for each bag: a drive is replayed from its beginning.

    Raises:
        ConfigurationError: a source is no bag of this machine.
    """
    for part in parts:
        if part.kind != BAG or "://" in part.source:
            raise ConfigurationError(
                f"source '{part.source}'",
                expected="bags on a disk of this machine (and of every other one of a cluster)",
                fix="name bags alone, or copy them",
            )
    bags = [Part(part.source, BAG, state=part.state) for part in parts if part.number == 0]
    names = [Path(bag.source).stem for bag in bags]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"several bags called {twice[0]}",
            expected="a name for each: its expectation is called like it",
            fix="rename one, or run them in groups",
        )
    return bags


@dataclass(frozen=True)
class Verdict:
    """A bag against its expectation.

    Attributes:
        bag: its path.
        results: what was found; empty where it failed.
        changes: from the expectation.
        error: why there are no results, or no expectation.
        updated: whether the expectation was written anew.
    """

    bag: str
    results: Results
    changes: tuple[Change, ...] = ()
    error: str = ""
    updated: bool = False


def expectation_path(folder: Path, bag: str) -> Path:
    """Return the place of a bag's expectation: FOLDER/BAG.json."""
    return folder / f"{Path(bag).stem}.json"


def verdicts(
    manifest: Manifest, parts: list[Part], folder: Path, tolerances: ToleranceOptions, update: bool
) -> list[Verdict]:
    """Hold the results of all bags against their expectations, or make these of them."""
    return [
        _verdict(manifest, manifest.records[part.id], folder, tolerances, update) for part in parts
    ]


def _verdict(
    manifest: Manifest, record: Record, folder: Path, tolerances: ToleranceOptions, update: bool
) -> Verdict:
    bag, path = record["source"], expectation_path(folder, record["source"])
    if record["error"]:
        return Verdict(bag, {}, error=record["error"])
    with ConfigurationError.instead_of(
        FILE_ERRORS,
        f"results '{manifest.place_of(record)}' that cannot be read",
        expected="what `yolox_trt batch regress` has written",
        fix="remove the folder of the output, and run again",
    ):
        data = read_place(manifest.place_of(record), LIMITS.result_bytes)
        found = results_of(parse_json(data.decode())["cameras"])
    if update:
        write_atomically(path, data)
        return Verdict(bag, found, updated=True)
    try:
        expected = read_expectation(path)
    except ConfigurationError as error:
        return Verdict(bag, found, error=str(error))
    return Verdict(bag, found, tuple(compare(expected, found, tolerances)))
