# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`yolox_trt completion`."""

from __future__ import annotations

from dataclasses import dataclass

from yolox_trt.cli.command import Command
from yolox_trt.cli.output import Output
from yolox_trt.core.option import option


@dataclass(frozen=True, kw_only=True)
class Completion(Command, name="completion", needs=("argcomplete",)):
    """Print what lets a shell complete commands, options and their values.

    Append it to the shell's start-up file (~/.bashrc, ~/.zshrc), or write it to
    ~/.config/fish/completions/yolox_trt.fish. In this shell alone: eval "$(yolox_trt completion
    bash)".

    Examples:
        yolox_trt completion bash
    """

    shell: str = option(flag="SHELL", choices=("bash", "zsh", "fish"), help="The shell.")

    def run(self, output: Output) -> int:
        from argcomplete.shell_integration import shellcode

        print(shellcode(["yolox_trt"], shell=self.shell))
        return 0
