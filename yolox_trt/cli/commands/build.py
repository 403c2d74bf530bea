# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt build`: build a TensorRT engine and report on it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.compiler.tensorrt.options import BuildOptions
from yolox_trt.core.documents import read_json
from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.files import write_atomically
from yolox_trt.core.option import Kind, again, nested, option, options_of, parse_path, path_option
from yolox_trt.core.output_paths import OutputFile
from yolox_trt.engines.engine_file import CacheOptions

if TYPE_CHECKING:
    from yolox_trt.compiler.tensorrt.report import BuildReport
    from yolox_trt.engines.engine_file import EngineFile

_CACHE = options_of(CacheOptions)["engine_cache"]


@dataclass(frozen=True, kw_only=True)
class Build(Command, name="build", has_json=True):
    """Build a TensorRT engine for the GPU or a DLA core.

    What the installed TensorRT cannot do is refused before the build, with the way round.
    docs/tensorrt.md has the table.

    Examples:
        yolox_trt build yolox_s.onnx --precision fp16 --max-batch 4
        yolox_trt build dla.onnx --device dla0 --precision int8 --calibration-cache dla.cache
    """

    model: Path = option(parse=parse_path, flag="MODEL", help="ONNX file.")
    output: Path | None = path_option(
        flag="--output -o",
        parse=OutputFile(),
        help="Engine to write, and FILE.json beside it (default: into the cache).",
    )
    engine_cache: Path | None = again(_CACHE, flag="--cache")
    layers: bool = option(False, help="List every layer of the engine.")
    layer_info: Path | None = path_option(
        parse=OutputFile(".json"), help="Write what the engine inspector tells."
    )
    list_layers: bool = option(False, help="List the network's layers and stop.")
    profile: int | None = option(
        None,
        kind=Kind.INTEGER,
        minimum=1,
        metavar="RUNS",
        help="Run the engine so many times and time each layer.",
    )
    precisions: Path | None = path_option(
        flag="--layer-precisions",
        metavar="FILE.json",
        help="Layer names and precisions, as `yolox_trt translate --precisions` writes them; "
        "--layer-precision goes before it.",
    )
    build: BuildOptions = nested(BuildOptions)

    def run(self, output: Output) -> int:
        from yolox_trt.compiler.tensorrt.build import EngineBuilder
        from yolox_trt.compiler.tensorrt.load_engine import cached_engine
        from yolox_trt.compiler.tensorrt.plan import BuildPlan
        from yolox_trt.compiler.tensorrt.report import BuildReport, layer_information
        from yolox_trt.engines.cache import EngineCache
        from yolox_trt.engines.engine_file import write_engine
        from yolox_trt.engines.trt_api import load_api

        if self.output is not None and self.engine_cache is not None:
            raise ConfigurationError("--output with --cache", expected="one", fix="drop one")
        options = self._options()
        if self.list_layers:
            names = EngineBuilder(BuildPlan(self.model, options)).layer_names()
            output.print("\n".join(names))
            output.json(names)
            return 0
        with output.progress() as bar:
            title = f"{self.model.stem} on {options.device}"

            def show(fraction: float, phase: str) -> None:
                bar(title, fraction, 1.0, phase)

            if self.output is not None:
                plan = BuildPlan(self.model, options)
                built = EngineBuilder(plan, show).build()
                file = write_engine(self.output, built, plan.fingerprint)
                source = "built"
            else:
                cache = EngineCache(self.engine_cache)
                entry = cached_engine(self.model, options, cache, show, fit_batch=False)
                file = entry.file
                source = f"built ({entry.reason})" if entry.built else "found in the cache"
        report = BuildReport.from_dict(file.details.get("report", {}))
        _show_report(output, report, every=self.layers)
        output.print(f"Engine {source}: {file.path}")
        if self.layer_info is not None:
            layers = layer_information(load_api(options.flavour), file, options.device)
            write_atomically(self.layer_info, layers.encode())
        document = {**file.details["report"], "fingerprint": file.fingerprint.to_dict()}
        if self.profile is not None:
            document["layer_times_ms"] = self._profile(output, file, self.profile)
        output.json(document)
        return 0

    def _options(self) -> BuildOptions:
        """Return the build options with the precisions of the file."""
        if self.precisions is None:
            return self.build
        with ConfigurationError.instead_of(
            (OSError, ValueError, AttributeError),
            (options_of(Build)["precisions"], f" {self.precisions} cannot be read"),
            expected="a JSON object of layer names and precisions",
            fix="yolox_trt translate MODEL --precisions FILE writes it",
        ):
            chosen = {str(k): str(v) for k, v in read_json(self.precisions).items()}
        return dataclasses.replace(
            self.build, layer_precisions=chosen | dict(self.build.layer_precisions)
        )

    def _profile(self, output: Output, file: EngineFile, runs: int) -> list[dict[str, Any]]:
        from yolox_trt.engines.tensorrt import TensorRTEngine

        with TensorRTEngine(file, device=self.build.device) as engine:
            times = engine.profile_layers(engine.max_batch, runs)
        total = sum(times.values()) or 1.0
        rows = [
            (layer, f"{ms:.4f}", f"{100.0 * ms / total:.1f}")
            for layer, ms in sorted(times.items(), key=lambda entry: -entry[1])
        ]
        output.table(
            f"Layer times, mean of {runs} runs, batch {engine.max_batch}",
            ("layer", "ms", "%"),
            [*rows, ("total", f"{total:.4f}", "100.0")],
        )
        return [{"layer": layer, "ms": ms} for layer, ms in times.items()]


def _show_report(output: Output, report: BuildReport, *, every: bool) -> None:
    output.table("Engine", (), report.summary())
    # With a DLA, what went to the GPU is what people look for.
    strays = [n for n in report.layers if n.device == "gpu" and report.device.startswith("dla")]
    shown = report.layers if every else strays
    if shown:
        title = "Layers" if every else "Layers that are not on the DLA"
        output.table(
            f"{title} ({report.layers_source})",
            ("layer", "kind", "device", "in", "out", "ONNX nodes"),
            [
                (n.name, n.kind, n.device, n.input_type, n.output_type, ", ".join(n.onnx_nodes))
                for n in shown
            ],
        )
