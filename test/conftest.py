# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of all tests. Its place puts test/ on the import path, for the package `support`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with models, images and annotations (YOLOX_TRT_DATA); the test skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("YOLOX_TRT_DATA", default))
    if not path.is_dir():
        pytest.skip("no data folder: set YOLOX_TRT_DATA")
    return path
