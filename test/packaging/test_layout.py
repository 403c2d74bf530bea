# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""How the sources and their tests are laid out."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PACKAGE = HERE.parent / "yolox_trt"
LONGEST_MODULE = 600

#: Modules without a test module of their name -> the test module in which they are tested. Patterns
#: are matched from the first line on.
TESTED_IN = {
    "api/result": "api/test_detector.py",
    "api/writers": "cli/test_detect_command.py",
    # A command is a declaration; what holds for all commands is tested at once.
    "cli/commands/*": "cli/test_commands.py",
    "core/coco": "evaluation/test_dataset.py",
    # What is seen through a report is tested by the report.
    # One run goes through all of them.
    "batch/frames": "batch/test_plan.py",
    "batch/*": "batch/test_run.py",
    "compiler/dla/limits": "compiler/dla/test_rules.py",
    "compiler/dla/node_checks": "compiler/dla/test_rules.py",
    "compiler/dla/*": "compiler/dla/test_linter.py",
    "compiler/inspect/*": "compiler/inspect/test_inspector.py",
    "compiler/int8/calibration_cache": "compiler/int8/test_dynamic_ranges.py",
    "compiler/int8/histogram": "compiler/int8/test_algorithms.py",
    "compiler/int8/layers": "compiler/int8/test_qdq.py",
    "compiler/int8/options": "cli/test_int8_commands.py",
    # Passes of a few lines share a test module, and what all passes do is tested by the pipeline.
    "compiler/surgery/open_batch": "compiler/surgery/test_pipeline.py",
    "compiler/surgery/options": "compiler/surgery/test_pipeline.py",
    "compiler/surgery/report": "compiler/surgery/test_pipeline.py",
    "compiler/surgery/surgery_pass": "compiler/surgery/test_pipeline.py",
    "compiler/surgery/convolutions": "compiler/surgery/test_batch_norm_fusion.py",
    # One build goes through all of them: against stand-ins of each version, and with TensorRT-RTX.
    "compiler/tensorrt/load_engine": "compiler/tensorrt/test_build_rtx.py",
    "compiler/tensorrt/progress": "compiler/tensorrt/test_options.py",
    "compiler/tensorrt/*": "compiler/tensorrt/test_build_versions.py",
    "core/check": "doctor/test_examination.py",
    "core/contention": "executor/test_placement.py",
    "core/encodings": "core/test_frame.py",
    "core/roi": "core/test_letterbox.py",
    "core/shipped_files": "compiler/tensorrt/test_build_rtx.py",
    "core/*": "core/test_values.py",
    "detectors/host_memory": "detectors/test_cuda.py",
    "detectors/staging": "detectors/test_cuda.py",
    "detectors/options": "detectors/test_factory.py",
    "detectors/*": "detectors/test_overlap.py",
    "doctor/*": "doctor/test_examination.py",
    "engines/cudla/engine": "engines/cudla/test_hybrid.py",
    "engines/cudla/library": "engines/cudla/test_loadable.py",
    "engines/cudla/module": "engines/cudla/test_loadable.py",
    "engines/cudla/nvsci": "engines/cudla/test_standalone.py",
    "engines/cuda_driver": "engines/test_onnxruntime_cuda.py",
    "engines/download": "engines/test_model_zoo.py",
    "engines/engine": "engines/test_onnxruntime.py",
    "engines/engine_file": "engines/test_cache.py",
    "engines/file_lock": "engines/test_cache_pruning.py",
    # They need a GPU: here their names and arguments are tested.
    "evaluation/bench/*": "cli/test_bench_commands.py",
    "evaluation/coco_metrics": "evaluation/test_evaluate.py",
    "evaluation/compare_report": "evaluation/test_compare.py",
    "evaluation/options": "evaluation/test_dataset.py",
    "evaluation/pacing": "evaluation/bench/test_cameras.py",
    # The scheduler, and the executor with its workers, are tested as wholes.
    "executor/placement/*": "executor/test_placement.py",
    "executor/stream_result": "executor/test_inference_executor.py",
    "executor/supervisor": "executor/test_faults.py",
    "executor/worker": "executor/test_faults.py",
    "executor/*": "executor/test_scheduler.py",
    "graph/head": "graph/test_spec.py",
    "graph/batch_axis": "graph/test_batch.py",
    "graph/predictions": "graph/test_batch.py",
    "graph/scatter": "graph/test_batch.py",
    "graph/shape_walk": "graph/test_batch.py",
    "graph/fixed_size": "compiler/surgery/test_fixed_shape.py",
    "graph/*": "graph/test_graph.py",
    "kernels/cuda/*": "kernels/cuda/test_preprocess.py",
    "kernels/reference/color": "kernels/reference/test_preprocess.py",
    "kernels/reference/finished": "kernels/test_forms.py",
    "kernels/reference/decode": "kernels/reference/test_postprocess.py",
    "planning/*": "planning/test_plan.py",
    # They need no ROS, so that their tests run where there is a GPU and no ROS.
    "ros/ingest/device_ring": "detectors/test_device_memory.py",
    "ros/ingest/shared_memory_sink": "detectors/test_device_memory.py",
    # Nodes and tools are tested as processes that talk to each other.
    "ros/dashboard/*": "ros/dashboard/test_server.py",
    "ros/error_text": "ros/nodes/test_parameters.py",
    "ros/ingest/*": "ros/ingest/test_pool.py",
    "ros/messages/*": "ros/nodes/test_camera_outputs.py",
    "ros/nodes/*": "ros/nodes/test_multi_camera.py",
    "ros/tools/bag_types": "ros/tools/test_bag.py",
    "ros/tools/bench*": "cli/test_bench_commands.py",
    "ros/tools/demo_camera": "ros/tools/test_demo.py",
    "ros/tools/*": "ros/tools/test_sources.py",
    "tracking/options": "tracking/test_tracker.py",
    "training/captured_step": "training/test_distiller.py",
    "training/layers": "training/test_weights.py",
    "training/yolox": "training/test_weights.py",
    "training/checkpoint": "training/test_export.py",
    "training/image_store": "training/test_augment.py",
}


def modules() -> list[Path]:
    """List the modules of the package, relative to it."""
    entries = {"__init__.py", "__main__.py"}
    return [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py") if p.name not in entries]


def test_every_module_is_tested_by_a_module_of_its_name_or_a_listed_one() -> None:
    homeless, used = [], set()
    for module in modules():
        if (HERE / module.parent / f"test_{module.name}").is_file():
            continue
        name = module.with_suffix("").as_posix()
        pattern = next((pattern for pattern in TESTED_IN if fnmatch(name, pattern)), None)
        if pattern is None:
            homeless.append(name)
        else:
            used.add(pattern)
    assert homeless == [], "give them a test module of their name, or list where they are tested"
    assert [pattern for pattern in TESTED_IN if pattern not in used] == [], "no longer needed"
    assert [path for path in TESTED_IN.values() if not (HERE / path).is_file()] == []


def test_no_module_is_too_long_to_be_read_at_once() -> None:
    lines = {path: len((PACKAGE / path).read_text().splitlines()) for path in modules()}
    assert {str(path): count for path, count in lines.items() if count > LONGEST_MODULE} == {}


def test_every_folder_of_tests_is_a_package() -> None:
    """Without __init__.py, two test modules of one name could not be collected in one run."""
    folders = {path.parent for path in HERE.rglob("*.py")}
    plain = [folder for folder in folders if not (folder / "__init__.py").is_file()]
    # A package `packaging` on the path would hide the library.
    assert plain == [HERE / "packaging"]


def test_no_package_of_the_tests_hides_a_library() -> None:
    """Whoever has test/ on the path first, as Ray's workers may have it, imports the library."""
    code = "import packaging.version as library; print(library.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not Path(done.stdout.strip()).is_relative_to(HERE)


def test_no_test_module_imports_another() -> None:
    """What they share is in test/support."""
    offenders = []
    for path in HERE.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = ["." * node.level + (node.module or "")]
            else:
                continue
            offenders += [
                f"{path.relative_to(HERE)}:{node.lineno} imports {module}"
                for module in modules
                if module.startswith((".", "test.", "test_"))
            ]
    assert offenders == []
