# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the room compiler: optimize, dla-check, inspect, and those of INT8 and building."""

from __future__ import annotations

import argparse

from yolox_trt.cli.commands import int8 as int8_cli


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands; what they need is imported when they run."""
    int8_cli.add_parsers(subparsers)
