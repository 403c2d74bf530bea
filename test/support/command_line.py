# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as a user types them."""

from __future__ import annotations

from yolox_trt.cli import main as cli


def call(*words: object) -> int:
    """Run a command line; errors are raised, where `cli.main` prints them."""
    arguments = cli.parse(cli.make_parser(), [str(word) for word in words])
    return cli.run(arguments.command, arguments)
