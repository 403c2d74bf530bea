# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What Autoware's image_projection_based_fusion asks of the objects of a camera, as a stand-in.

Written from its documentation: a message is matched with a scan whose stamp, moved by the camera's
offset, is at most 10 ms away (fusion_common.param.yaml: `rois_timestamp_noise_window` and its kin);
`frame_id` must be known to TF; regions of interest are compared with projected points, which lie
within the image; the tracker's table `can_assign_matrix` has ten labels, 0 to 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolox_trt.ros.messages.images import stamp_to_ns

#: Largest distance of a message's stamp from that of the scan with the camera's offset.
MATCH_NS = 10_000_000
LARGEST_LABEL = 9


@dataclass
class FusionStandIn:
    """Takes messages of one camera, and says why it would not fuse one.

    Attributes:
        size: (width, height) of the camera's images.
        frames: frame ids that TF knows.
        scans_ns: stamps of the scans with the camera's offset.
        fused: the messages that were taken, by the index of their scan.
    """

    size: tuple[int, int]
    frames: Sequence[str]
    scans_ns: Sequence[int]
    fused: dict[int, Any] = field(default_factory=dict)

    def refuse(self, message: Any) -> str:
        """Take a message; return why not, "" where it is taken."""
        if message.header.frame_id not in self.frames:
            return f"no transform for '{message.header.frame_id}'"
        stamp = stamp_to_ns(message.header.stamp)
        matching = [
            index for index, scan in enumerate(self.scans_ns) if abs(stamp - scan) <= MATCH_NS
        ]
        if not matching:
            return f"no scan within {MATCH_NS} ns of {stamp}"
        for number, item in enumerate(message.feature_objects):
            if reason := self._refuse_object(item):
                return f"object {number}: {reason}"
        self.fused[matching[0]] = message
        return ""

    def _refuse_object(self, item: Any) -> str:
        roi, perceived = item.feature.roi, item.object
        width, height = self.size
        if not (0 < roi.width <= width - roi.x_offset and 0 < roi.height <= height - roi.y_offset):
            return f"roi {roi} outside of {width}x{height}"
        if len(perceived.classification) != 1:
            return f"{len(perceived.classification)} classes"
        (classified,) = perceived.classification
        if classified.label > LARGEST_LABEL:
            return f"label {classified.label} beyond the tracker's table"
        if classified.probability != 1.0:
            return f"probability {classified.probability} of its class"
        if not 0.0 < perceived.existence_probability <= 1.0:
            return f"existence probability {perceived.existence_probability}"
        return ""


def fields_of(message: Any) -> Mapping[str, Any]:
    """Return the fields of a message by name."""
    return {name: getattr(message, name) for name in message.get_fields_and_field_types()}
