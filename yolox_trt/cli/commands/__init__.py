# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""All commands, in the order of the help. Their modules import nothing slow or optional."""

from yolox_trt.cli.command import Command
from yolox_trt.cli.commands.build import Build
from yolox_trt.cli.commands.cache import CacheClear, CacheList, CachePrune
from yolox_trt.cli.commands.dla_check import DlaCheck
from yolox_trt.cli.commands.inspect_model import Inspect
from yolox_trt.cli.commands.int8 import Calibrate, Quantize, Translate
from yolox_trt.cli.commands.models import ModelsFetch, ModelsList
from yolox_trt.cli.commands.optimize import Optimize
from yolox_trt.cli.commands.plan import Plan
from yolox_trt.cli.commands.soak import SoakCommand
from yolox_trt.cli.commands.training import Distill, Export, Train

COMMANDS: tuple[type[Command], ...] = (
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
    "models": "List and fetch published models.",
    "cache": "List and remove built TensorRT engines. After each build the engines used longest "
    "ago are removed where the cache has grown over its limits.",
}

#: Modules with commands that are not yet of the class Command.
UNCONVERTED: tuple[str, ...] = (
    "yolox_trt.cli.commands.ros",
    "yolox_trt.cli.commands.evaluation",
)
