# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Options are checked when they are made, without PyTorch, and errors hold the option."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.option import options_of
from yolox_trt.training.options import (
    AugmentOptions,
    DistillOptions,
    ExportOptions,
    RunOptions,
    TrainOptions,
)


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        (RunOptions, {"size": (80, 80)}, r"`size` = 80x80.*multiples of 32"),
        (RunOptions, {"size": (64, 96)}, r"`size` = 64x96.*square.*96x96"),
        (RunOptions, {"batch": 0}, "`batch` = 0"),
        (RunOptions, {"batch": 10**12}, "`batch` = 1000000000000.*1 to 65536"),
        (RunOptions, {"size": (320000, 320000)}, "multiples of 32 up to 8192"),
        (RunOptions, {"seed": 10**22}, "`seed` = 10000000000000000000000.*0 to"),
        (DistillOptions, {"canvas": 10**6}, "`canvas` = 1000000.*2 to 8192"),
        (RunOptions, {"learning_rate": math.nan}, "`learning_rate` = nan"),
        (RunOptions, {"average": 2.0}, r"`average` = 2\.0.*expected.*0 to "),
        (TrainOptions, {"steps": -1}, "`steps` = -1"),
        (DistillOptions, {"steps": -1}, "`steps` = -1"),
        (DistillOptions, {"seconds": 0.0}, r"`seconds` = 0\.0"),
        (DistillOptions, {"blend_until": 1.5}, r"`blend_until` = 1\.5"),
        (
            DistillOptions,
            {"augment": AugmentOptions(plain=0.8)},
            r"`plain` = 0\.8 and `mosaic` = 0\.5.*lower `plain` or `mosaic`",
        ),
        (AugmentOptions, {"mixup": 1.5}, r"`mixup` = 1\.5"),
        (ExportOptions, {"size": (0, 0)}, r"`size` = 0x0.*positive multiples of 32"),
        (ExportOptions, {"size": (-32, 32)}, "positive multiples of 32"),
        (ExportOptions, {"size": (100, 64)}, r"`size` = 100x64.*positive multiples of 32"),
        (ExportOptions, {"batch": 0}, "`batch` = 0"),
        (ExportOptions, {"opset": 99}, r"`opset` = 99.*9 to 20"),
    ],
)
def test_wrong_options_are_named(group: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        group(**options)


def test_another_default_keeps_range_and_help() -> None:
    general, own = (
        options_of(RunOptions)["learning_rate"],
        options_of(DistillOptions)["learning_rate"],
    )
    assert (general.default, own.default) == (0.01, 0.002)
    assert (general.help, general.above, general.group) == (own.help, own.above, own.group)


def test_they_need_no_pytorch() -> None:
    code = "import sys, yolox_trt.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
