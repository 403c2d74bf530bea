# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BatchLimits: how many frames share a call where memory has become short."""

from __future__ import annotations

import logging

from yolox_trt.executor.device_state import DeviceState, LoadedModel
from yolox_trt.executor.ledger import Ledger


class BatchLimits:
    """Lowers the limit of a model's batch when memory is short, and raises it again.

    Args:
        recovery: seconds after which a limit that was lowered doubles again.
        ledger: where each change is entered.
    """

    def __init__(self, recovery: float, ledger: Ledger) -> None:
        self._recovery = recovery
        self._ledger = ledger

    def of(self, state: DeviceState, model: LoadedModel, now: float) -> int:
        """Return the most frames of one call now."""
        shrunk = model.batch_limit < model.max_batch
        if shrunk and now - model.limited_at > self._recovery:
            limit = min(model.max_batch, model.batch_limit * 2)
            self._set(state, model, limit, "memory may suffice again", now)
        return model.batch_limit

    def shrink(self, state: DeviceState, model: LoadedModel, limit: int, now: float) -> None:
        """Take fewer frames from now on, at least one: memory was short."""
        self._set(state, model, max(1, limit), "out of memory", now)

    def _set(
        self, state: DeviceState, model: LoadedModel, limit: int, why: str, now: float
    ) -> None:
        model.batch_limit, model.limited_at = limit, now
        text = f"{state.name}: batch of {model.name} is {limit} now ({why})"
        mark = f"batch {limit} ({why})"
        self._ledger.happened(now, text, level=logging.WARNING, device=state.name, mark=mark)
