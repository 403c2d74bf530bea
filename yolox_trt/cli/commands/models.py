# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt models list` and `models fetch`: published models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.files import cache_folder, sha256_of
from yolox_trt.core.option import option, path_option


@dataclass(frozen=True, kw_only=True)
class _ModelsCommand(Command):
    cache: Path | None = path_option(
        metavar="FOLDER",
        help="Folder of the models (default: $YOLOX_TRT_CACHE/models, else "
        "~/.cache/yolox_trt/models).",
    )


@dataclass(frozen=True, kw_only=True)
class ModelsList(_ModelsCommand, name="models list", has_json=True):
    """List published models, and which of them are in the cache."""

    def run(self, output: Output) -> int:
        from yolox_trt.engines import model_zoo

        folder = self.cache or cache_folder("models")
        headings = ("name", "what", "licence", "in the cache")
        rows, document = [], []
        for model in model_zoo.MODELS.values():
            path, digest = folder / model.name / model.onnx.name, model.onnx.sha256
            state = "-"
            if path.is_file():
                state = "yes" if not digest or sha256_of(path) == digest else "damaged"
            rows.append((model.name, model.summary, model.licence, state))
            document.append(dict(zip(headings, rows[-1], strict=True)) | {"sha256": digest})
        output.table(f"Models; cache: {folder}", headings, rows)
        output.json(document)
        return 0


@dataclass(frozen=True, kw_only=True)
class ModelsFetch(_ModelsCommand, name="models fetch"):
    """Fetch a published model into the cache, and check it.

    Examples:
        yolox_trt models fetch yolox-s
    """

    model: str = option(flag="NAME", help="One of `yolox_trt models list`.")

    def run(self, output: Output) -> int:
        from yolox_trt.engines import model_zoo

        model = model_zoo.find(self.model)
        with output.progress() as progress:
            paths = model_zoo.fetch(model, folder=self.cache, on_progress=progress)
        for path in paths.values():
            output.print(str(path))
        return 0
