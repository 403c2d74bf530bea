# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile inputs by Hypothesis: the same few in the tests, new ones in `make fuzz`.

What a test tries is kept in a file while it is tried, so that it is known where the process dies.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from yolox_trt.core.errors import YoloxTrtError
from yolox_trt.core.limits import LIMITS
from yolox_trt.ros.error_text import error_text

#: Set by `make fuzz`: the folder of what it finds.
VARIABLE = "YOLOX_TRT_FUZZ"
_FOLDER = os.environ.get(VARIABLE)
#: Examples of `make fuzz` for each one in the tests.
_MORE = 20
#: Longest time of one example in `make fuzz`.
_DEADLINE = timedelta(seconds=20)

#: Numbers at the ends of what a field holds.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 32000)


def examples(count: int) -> settings:
    """Return how many examples a test tries.

    In the tests they are derandomised: the same ones as long as the same modules are loaded, whose
    constants Hypothesis tries, too.
    """
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    if _FOLDER:
        return settings(
            max_examples=count * _MORE,
            deadline=_DEADLINE,
            print_blob=True,
            suppress_health_check=slow,
        )
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=slow,
    )


def keep(data: Any) -> None:
    """Write what is tried now into a file, in `make fuzz`."""
    if _FOLDER:
        name = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].split()[0]
        content = data if isinstance(data, bytes) else repr(data).encode()
        (Path(_FOLDER) / f"last_{name}").write_bytes(content)


@st.composite
def damaged(draw: st.DrawFn, *bases: bytes) -> bytes:
    """Return one of the inputs, with some of its bytes changed, put in, left out or repeated."""
    data = bytearray(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(0, 5))):
        # Headers are at the start.
        at = draw(st.integers(0, 63) | st.integers(0, max(len(data) - 1, 0)))
        action = draw(st.sampled_from(("number", "bytes", "insert", "remove", "repeat", "cut")))
        if action == "number":
            size, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(_ORDERS))
            number = draw(st.sampled_from(_EDGES)) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, order)
        elif action in ("bytes", "insert"):
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + (len(new) if action == "bytes" else 0)] = new
        elif action == "cut":
            del data[at:]
        else:
            length = draw(st.integers(1, 64))
            data[at : at + length] = b"" if action == "remove" else data[at : at + length] * 2
    return bytes(data)


_ORDERS = ("big", "little")


def check_refusal(error: YoloxTrtError) -> None:
    """Check that an error can be shown: one line, printable, not too long."""
    text = error_text(error)
    assert text.isprintable()
    assert len(text) <= LIMITS.text_characters + 50
    assert error.found
