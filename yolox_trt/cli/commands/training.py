# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt train`, `distill` and `export`.

PyTorch takes seconds to import, so each command's own parser is made when the command runs; here
stand the names and one line of help.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence

from yolox_trt.core.optional import require

#: Command, module with main(argv), help.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("train", "yolox_trt.training.train", "train a detector on labelled images (COCO)"),
    ("distill", "yolox_trt.training.distill", "make a ReLU6 detector from a SiLU one, no labels"),
    ("export", "yolox_trt.training.export", "write a trained detector as ONNX"),
)


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command `yolox_trt`."""
    for name, module, text in COMMANDS:
        parser = subparsers.add_parser(name, help=text, add_help=False)
        parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        # Options go to the module's own parser, --help included.
        parser.prefix_chars = "\0"
        parser.set_defaults(run=_runner(module, name))


def _runner(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        require("torch", purpose=f"`yolox_trt {name}`")
        main: Callable[[Sequence[str]], int] = importlib.import_module(module).main
        return main(args.rest)

    return run
