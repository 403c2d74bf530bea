# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Placement policies: which device serves which stream."""

from collections.abc import Callable

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.executor.placement.balanced import BalancedPlacement
from yolox_trt.executor.placement.dynamic import DynamicPlacement
from yolox_trt.executor.placement.problem import (
    PlacementPolicy,
    PlacementProblem,
    StreamDemand,
)
from yolox_trt.executor.placement.static import StaticPlacement

_POLICIES: dict[str, Callable[[], PlacementPolicy]] = {
    policy.name: policy for policy in (StaticPlacement, BalancedPlacement, DynamicPlacement)
}


def create_policy(policy: str | PlacementPolicy) -> PlacementPolicy:
    """Return the policy of a name (a policy is handed back as it is).

    Raises:
        ConfigurationError: no policy has the name.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in _POLICIES:
        raise ConfigurationError.unknown("placement policy", policy, _POLICIES)
    return _POLICIES[policy]()


__all__ = [
    "BalancedPlacement",
    "DynamicPlacement",
    "PlacementPolicy",
    "PlacementProblem",
    "StaticPlacement",
    "StreamDemand",
    "create_policy",
]
