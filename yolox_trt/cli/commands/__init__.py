# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""All commands, in the order of the help. Their modules import nothing slow or optional."""

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands.batch import (
    BatchCalibrate,
    BatchDetect,
    BatchEvaluate,
    BatchQuery,
    BatchRegress,
    BatchScale,
)
from yolox_trt.cli.commands.bench import BENCHMARKS, BenchAll
from yolox_trt.cli.commands.build import Build
from yolox_trt.cli.commands.cache import CacheClear, CacheList, CachePrune
from yolox_trt.cli.commands.completion import Completion
from yolox_trt.cli.commands.dashboard import Dashboard
from yolox_trt.cli.commands.detect import Detect
from yolox_trt.cli.commands.dla_check import DlaCheck
from yolox_trt.cli.commands.doctor import Doctor
from yolox_trt.cli.commands.evaluation import Compare, Evaluate
from yolox_trt.cli.commands.inspect_model import Inspect
from yolox_trt.cli.commands.int8 import Calibrate, Quantize, Translate
from yolox_trt.cli.commands.models import ModelsFetch, ModelsList
from yolox_trt.cli.commands.optimize import Optimize
from yolox_trt.cli.commands.plan import Plan
from yolox_trt.cli.commands.ros import Demo, Parameters, Publish, Regress, Replay, Up
from yolox_trt.cli.commands.soak import SoakCommand
from yolox_trt.cli.commands.training import Distill, Export, Qat, Train

COMMANDS: tuple[type[Command], ...] = (
    Demo,
    Up,
    Replay,
    Publish,
    Regress,
    Parameters,
    Dashboard,
    Doctor,
    Completion,
    Detect,
    Evaluate,
    Compare,
    BatchDetect,
    BatchEvaluate,
    BatchCalibrate,
    BatchRegress,
    BatchQuery,
    BatchScale,
    BenchAll,
    *BENCHMARKS,
    ModelsList,
    ModelsFetch,
    CacheList,
    CachePrune,
    CacheClear,
    Optimize,
    DlaCheck,
    Inspect,
    Calibrate,
    Quantize,
    Translate,
    Build,
    Plan,
    SoakCommand,
    Train,
    Distill,
    Qat,
    Export,
)

#: Help of the groups of commands.
GROUPS: dict[str, str] = {
    "batch": "Work over thousands of recordings, here or on a Ray cluster.",
    "bench": "Run a benchmark and print its table.",
    "models": "List and fetch published models.",
    "cache": "List and remove built TensorRT engines.",
}
