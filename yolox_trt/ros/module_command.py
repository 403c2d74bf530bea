# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of a process that runs a module of this package."""

from __future__ import annotations

import sys

# `python -m` looks for every module in the current folder first, where others' files may lie.
# Python's own -P is there from 3.11 on.
_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: object) -> list[str]:
    """Return what runs a module as `python -m` does, but for files of the current folder.

    Args:
        module: its name.
        arguments: its command line, turned into text.
    """
    return [sys.executable, "-c", _RUN, module, *map(str, arguments)]
