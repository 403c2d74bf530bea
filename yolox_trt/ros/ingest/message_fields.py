# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What an ingest process may say to the executor's process: its messages' fields, and their values.

Decoders of what comes from outside run in ingest processes: nothing that one says is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from yolox_trt.core.encodings import ENCODINGS
from yolox_trt.core.limits import is_name

#: Types that a value may have, or the integers that it may be.
_Values: TypeAlias = "type | tuple[type, ...] | range"

_NUMBER = range(1 << 63)
#: Nanoseconds that a header's stamp can tell, whose seconds have 32 bits.
_STAMP = range(-(10**9 << 31), 10**9 << 31)

#: Fields of each kind of message, beside the kind and the camera.
_FIELDS: dict[str, dict[str, _Values]] = {
    "alive": {"cameras": dict},
    "deaf": {},
    "ring": dict.fromkeys(("generation", "slots", "slot_bytes"), _NUMBER),
    "frame": {**dict.fromkeys(("generation", "slot", "size"), _NUMBER), "frame": dict},
    "refused": {"reason": str},
    "full": {},
    "lost": {"count": _NUMBER},
    "failed": {"reason": str},
    "device_ring_wanted": {
        **dict.fromkeys(("generation", "slots", "slot_bytes"), _NUMBER),
        "bus_id": str,
    },
    "device_ring_closed": {"generation": _NUMBER, "reason": str},
}

#: What is told of a Frame beside its bytes.
FRAME_FIELDS: dict[str, _Values] = {
    **dict.fromkeys(("height", "width", "step", "received_ns"), _NUMBER),
    **dict.fromkeys(("encoding", "frame_id"), str),
    "stamp_ns": _STAMP,
    "reduction": range(1, 9),
    "full_size": (list, type(None)),
}


def _check(what: str, fields: Mapping[str, Any], expected: Mapping[str, _Values]) -> None:
    for name, values in expected.items():
        value = fields.get(name)
        if not (
            type(value) is int and value in values
            if isinstance(values, range)
            else isinstance(value, values)
        ):
            raise ValueError(f"{what} whose {name} is {value!r}")


def check_message(message: Mapping[str, Any]) -> None:
    """Raise ValueError for a message that no ingest process sends.

    Args:
        message: its kind is a string.
    """
    kind = message["kind"]
    if kind not in _FIELDS:
        raise ValueError(f"a message of the kind '{kind}'")
    _check(f"a message '{kind}'", message, _FIELDS[kind])


def frame_fields(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a Frame holds beside its bytes.

    Raises:
        ValueError: no Frame of an ingest process is like that.
    """
    _check("a frame", told, FRAME_FIELDS)
    fields = {name: told.get(name) for name in FRAME_FIELDS}
    for name, known in (
        ("encoding", fields["encoding"] in ENCODINGS),
        ("frame_id", is_name(told["frame_id"])),  # each result repeats it
    ):
        if not known:
            raise ValueError(f"a frame whose {name} is {told[name]!r}")
    size, full_size = [told["height"], told["width"]], fields["full_size"]
    if full_size is not None:
        # Pictures of it are made in that size, which must not be larger than the image allows.
        if not (
            all(type(each) is int for each in full_size)
            and [-(-each // told["reduction"]) for each in full_size] == size
        ):
            raise ValueError(f"a frame of {size} whose full_size is {full_size}")
        fields["full_size"] = tuple(full_size)  # JSON has no tuples
    return fields
