# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Names for what is added to a graph."""

from __future__ import annotations

from collections.abc import Container


def unused_name(base: str, taken: Container[str]) -> str:
    """Return `base`, or the first of `base`_1, `base`_2, ... that is not in `taken`."""
    name, number = base, 1
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name
