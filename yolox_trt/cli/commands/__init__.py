# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""All commands, in the order of the help. Their modules import nothing slow or optional."""

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands.bench import BENCHMARKS, BenchAll
from yolox_trt.cli.commands.build import Build
from yolox_trt.cli.commands.cache import CacheClear, CacheList, CachePrune
from yolox_trt.cli.commands.dla_check import DlaCheck
from yolox_trt.cli.commands.evaluation import Compare, Detect, Evaluate
from yolox_trt.cli.commands.inspect_model import Inspect
from yolox_trt.cli.commands.int8 import Calibrate, Quantize, Translate
from yolox_trt.cli.commands.models import ModelsFetch, ModelsList
from yolox_trt.cli.commands.optimize import Optimize
from yolox_trt.cli.commands.plan import Plan
from yolox_trt.cli.commands.ros import Demo, Parameters, Publish, Replay, Up
from yolox_trt.cli.commands.soak import SoakCommand
from yolox_trt.cli.commands.training import Distill, Export, Train

COMMANDS: tuple[type[Command], ...] = (
    Demo,
    Up,
    Replay,
    Publish,
    Parameters,
    Detect,
    Evaluate,
    Compare,
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
    Export,
)

#: Help of the groups of commands.
GROUPS: dict[str, str] = {
    "bench": "Run a benchmark and print its table.",
    "models": "List and fetch published models.",
    "cache": "List and remove built TensorRT engines. After each build the engines used longest "
    "ago are removed where the cache has grown over its limits.",
}
