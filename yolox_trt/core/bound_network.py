# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""BoundNetwork: what every engine and detector has to say of itself."""

from __future__ import annotations

from yolox_trt.core.device import Device
from yolox_trt.core.model_spec import ModelSpec


class BoundNetwork:
    """A network bound to one Device: base of the engines and detectors of this package.

    A subclass sets the three attributes in its __init__.
    """

    _device: Device
    _spec: ModelSpec
    _max_batch: int

    @property
    def device(self) -> Device:
        """Where it runs (or, simulated, pretends to)."""
        return self._device

    @property
    def spec(self) -> ModelSpec:
        """What its network takes and gives."""
        return self._spec

    @property
    def max_batch(self) -> int:
        """Largest batch of one call."""
        return self._max_batch
