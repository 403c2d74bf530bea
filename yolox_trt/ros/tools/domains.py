# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""ROS domains of this machine that nobody else uses."""

from __future__ import annotations

import functools
import random
import socket
from pathlib import Path

#: Domains that are safe on Linux. A participant binds UDP ports that its domain's number
#: determines: 250 for each domain, from 7400 on.
DOMAINS = range(1, 102)
_FIRST_PORT, _PORTS = 7400, 250

#: Sockets whose names keep domains for this process.
_kept: list[socket.socket] = []


@functools.cache
def own_domain() -> int:
    """Return a ROS_DOMAIN_ID that is this process's until it ends; the same at each call.

    Other processes that ask here get other ones, so that those at work side by side do not hear one
    another; and one whose ports nobody has bound is taken before others.
    """
    free = free_domains()
    others = [domain for domain in DOMAINS if domain not in free]
    for domains in (free, others):
        random.SystemRandom().shuffle(domains)
    for domain in (*free, *others):
        if _keep(domain):
            return domain
    return (free or others)[0]


def free_domains() -> list[int]:
    """Return the domains that nobody on this machine uses, as far as their ports tell."""
    bound = set()
    for table in (Path("/proc/net/udp"), Path("/proc/net/udp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # the system does not tell
            continue
        bound |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    used = {(port - _FIRST_PORT) // _PORTS for port in bound}
    return [domain for domain in DOMAINS if domain not in used]


def _keep(domain: int) -> bool:
    """Keep a domain by a name that one process alone can have, and that goes with it."""
    if not hasattr(socket, "AF_UNIX"):
        return False
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0yolox_trt/ros_domain/{domain}")  # Linux's abstract names: no file
    except (OSError, ValueError):
        name.close()
        return False
    _kept.append(name)
    return True
