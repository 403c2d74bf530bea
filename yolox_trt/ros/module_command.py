# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of a process that runs a module of this package."""

from __future__ import annotations

import sys
from pathlib import Path

import yolox_trt

# `python -m` looks for every module in the current folder first, where others' files may lie.
# Python's own -P is there from 3.11 on. The package is the one that this process has: it may run
# from a checkout, beside an installed one.
_RUN = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; "
    "import yolox_trt; del sys.path[0]; import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: object) -> list[str]:
    """Return what runs a module as `python -m` does, but for files of the current folder.

    The process has the same yolox_trt as this one.

    Args:
        module: its name.
        arguments: its command line, turned into text.
    """
    root = str(Path(yolox_trt.__file__).resolve().parents[1])
    return [sys.executable, "-c", _RUN, root, module, *map(str, arguments)]
