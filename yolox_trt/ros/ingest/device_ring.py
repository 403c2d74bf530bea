# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""DeviceRing: slots for images in a GPU's memory that two processes share.

Which slots are in use stands in host memory, as FrameRing has it. No event crosses the processes:
the writer waits for its copy before it tells of a slot, and the reader gives a slot back when its
Detector has waited for the call that read it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from yolox_trt.core.encodings import check_buffer, lookup_on_device
from yolox_trt.core.frame import Frame
from yolox_trt.detectors.device_memory import (
    ExportedMemory,
    ImportedMemory,
    bus_id,
    device_at,
    lent_array,
)
from yolox_trt.kernels.cuda.descriptors import SOURCE_MARGIN
from yolox_trt.ros.ingest.frame_ring import FrameRing, whole_pages

_NO_DATA = np.empty(0, np.uint8)


class DeviceRing:
    """The reader's end, to which the memory belongs. It must outlive the writer's.

    Args:
        slots: number of slots.
        slot_bytes: bytes of each one; rounded up to whole pages.
        device: CUDA device ordinal.

    Raises:
        OutOfMemoryError, EngineError: the GPU's memory cannot be had, or not be shared.
        OSError: there is no room for the slots' flags.
    """

    def __init__(self, slots: int, slot_bytes: int, device: int) -> None:
        self.slots = slots
        self.slot_bytes = whole_pages(slot_bytes)
        # So that the kernels read the last slot in place, as they do the others.
        self._memory = ExportedMemory(slots * self.slot_bytes + SOURCE_MARGIN, device)
        self._flags = FrameRing(slots, 0)

    @property
    def fd(self) -> int:
        """Descriptor of the slots' flags, for the writer, until close_fd(); else -1."""
        return self._flags.fd

    def close_fd(self) -> None:
        """Close the descriptor."""
        self._flags.close_fd()

    @property
    def fields(self) -> dict[str, Any]:
        """What DeviceRingWriter needs beside the descriptor: JSON values."""
        return {
            "slots": self.slots,
            "slot_bytes": self.slot_bytes,
            "handle": self._memory.handle.hex(),
            "bus_id": bus_id(self._memory.device),
        }

    def frame(self, slot: int, fields: dict[str, Any]) -> Frame:
        """Return the image in a taken slot; it is free again when nobody holds the image's array.

        Args:
            slot: its number.
            fields: of the Frame; the rows lie one right after the other.

        Raises:
            ValueError: there is no such slot, or it is smaller than the image.
            FrameError: the fields do not fit together, or no kernel reads the encoding.
        """
        height, width, step = fields["height"], fields["width"], fields["step"]
        layout = lookup_on_device(fields["encoding"])
        rows = int(height * layout.rows_per_height)
        check_buffer(layout, height, width, step, self.slot_bytes)
        size = rows * step
        if not (0 <= slot < self.slots and size <= self.slot_bytes):
            raise ValueError(f"{size} bytes of slot {slot}, of {self.slots} x {self.slot_bytes}")
        if step != width * layout.bytes_per_pixel:
            raise ValueError(f"rows of {step} bytes for {width} pixels of {layout.name}")
        array = lent_array(
            self._memory.address + slot * self.slot_bytes,
            (rows, width) if layout.channels == 1 else (rows, width, layout.channels),
            device=self._memory.device,
            owner=(self, self._flags.view(slot, 0)),
        )
        return Frame(data=_NO_DATA, device_array=array, **fields | {"encoding": layout.name})


class DeviceRingWriter:
    """The writer's end.

    Args:
        fd: descriptor of the slots' flags, which stays the caller's.
        slots, slot_bytes, handle, bus_id: the DeviceRing's fields.

    Raises:
        YoloxTrtError: there is no such GPU here, or its memory cannot be opened.
    """

    def __init__(self, fd: int, *, slots: int, slot_bytes: int, handle: str, bus_id: str) -> None:
        self.slot_bytes = slot_bytes
        self._flags = FrameRing(slots, 0, fd)
        self._memory = ImportedMemory(bytes.fromhex(handle), device_at(bus_id))

    def write(self, array: Any) -> int | None:
        """Copy an image that is complete into a free slot and take it; None if there is none.

        Args:
            array: uint8 cupy.ndarray on the ring's GPU, at most slot_bytes large.

        Raises:
            EngineError: CUDA cannot copy it.
        """
        slot = self._flags.free_slot()
        if slot is not None:
            self._memory.write(slot * self.slot_bytes, array)
            self._flags.take(slot)
        return slot

    def release(self, slot: int) -> None:
        """Make a slot free of which nobody has been told."""
        self._flags.release(slot)

    def close(self) -> None:
        """Let go of the memory; slots of which the reader has been told stay as they are."""
        self._memory.close()
