# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that no ingest process sends."""

from __future__ import annotations

from typing import Any

import pytest

from yolox_trt.ros.ingest.message_fields import check_message, frame_fields

RING = {"kind": "ring", "generation": 1, "slots": 2, "slot_bytes": 4096}
#: Of a JPEG of 3x4 that was decoded at half its size.
FRAME: dict[str, Any] = {
    **{"height": 2, "width": 2, "encoding": "bgr8", "step": 6, "stamp_ns": -1, "frame_id": "f"},
    **{"received_ns": 1, "reduction": 2, "full_size": [3, 4]},
}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (RING | {"kind": "none"}, "a message of the kind 'none'"),
        (RING | {"slots": None}, "a message 'ring' whose slots is None"),
        (RING | {"slots": True}, "slots is True"),
        (RING | {"slots": 0.5}, "slots is 0.5"),
        (RING | {"generation": {}}, "generation is {}"),
        (RING | {"generation": 1 << 63}, "generation is 9223372036854775808"),
        ({"kind": "ring"}, "generation is None"),
        ({"kind": "lost", "count": -1}, "count is -1"),
        ({"kind": "refused", "reason": ["why"]}, r"reason is \['why'\]"),
        ({"kind": "alive", "cameras": ["front"]}, r"cameras is \['front'\]"),
        ({"kind": "frame", "generation": 1, "slot": 0, "size": 0, "frame": []}, r"frame is \[\]"),
    ],
)
def test_a_message_with_other_values_is_refused(message: dict[str, Any], reason: str) -> None:
    check_message(RING)
    with pytest.raises(ValueError, match=reason):
        check_message(message)


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 1 << 2000},
        {"width": -2},
        {"encoding": "none"},
        {"stamp_ns": 10**9 << 31},
        {"stamp_ns": 0.5},
        {"frame_id": "a\x1b[2J"},
        {"frame_id": "x" * 300},
        {"reduction": 0},
        {"reduction": 1},
        {"full_size": [100_000, 100_000]},
        {"full_size": [3.0, 4]},
        {"full_size": [3]},
        {"full_size": "34"},
    ],
    ids=str,
)
def test_a_frame_that_no_result_could_tell_of_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a frame "):
        frame_fields(FRAME | wrong)


def test_a_frame_of_a_reduced_image_has_the_size_of_its_source() -> None:
    """As a tuple, which JSON does not have: sizes are looked up."""
    assert frame_fields(FRAME | {"other": 1}) == FRAME | {"full_size": (3, 4)}
    assert frame_fields(FRAME | {"reduction": 1, "full_size": None})["full_size"] is None
