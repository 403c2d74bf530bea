# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""FrameRing: slots for images in memory that two processes share.

The memory is a memfd: it has no name, so nothing is left behind in /dev/shm whatever becomes of
the processes, and the limit of a container's /dev/shm does not apply. Its first page holds one
byte a slot: 0 free, 1 taken. The writer alone turns 0 into 1, the reader alone 1 into 0, so the
bytes need no lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref

import numpy as np
import numpy.typing as npt

_PAGE = mmap.PAGESIZE
_FREE, _TAKEN = 0, 1

#: A memory that shrinks would end the process that reads it (SIGBUS).
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

#: Slots of a ring beside the Stream's queue: one that is being written, one in the detector, one
#: that is being delivered, one that is being drawn, and one to spare.
EXTRA_SLOTS = 5


def whole_pages(size: int) -> int:
    """Return bytes rounded up to whole pages."""
    return -(-size // _PAGE) * _PAGE


class _View(weakref.ref[npt.NDArray[np.uint8]]):
    """An array that somebody holds, and its slot; cheaper than weakref.finalize."""

    __slots__ = ("ring", "slot")

    ring: FrameRing
    slot: int


#: Those that somebody holds, by their id(): a reference to an array has no hash either.
_VIEWS: dict[int, _View] = {}


def _let_go(view: weakref.ref[npt.NDArray[np.uint8]], views: dict[int, _View] = _VIEWS) -> None:
    gone = views.pop(id(view))
    gone.ring._flags[gone.slot] = _FREE


def _is_sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # no memfd
        return False


class FrameRing:
    """Slots of equal size.

    Args:
        slots: number of slots, at most a page's bytes.
        slot_bytes: bytes of each one, 0 if they lie elsewhere; rounded up to whole pages.
        fd: file descriptor of a ring that another process made, which stays the caller's; None
            makes a new ring.

    Attributes:
        fd: descriptor of a new ring, for the other process, until close_fd(); else -1.

    Raises:
        ValueError: too many slots, or a descriptor of other memory than a ring's.
        OSError: there is no room.
    """

    def __init__(self, slots: int, slot_bytes: int, fd: int | None = None) -> None:
        if not 1 <= slots <= _PAGE:
            raise ValueError(f"{slots} slots; expected 1 to {_PAGE}")
        self.slots = slots
        self.slot_bytes = whole_pages(slot_bytes)
        size = _PAGE + slots * self.slot_bytes
        self.fd = -1
        if fd is None:
            fd = self.fd = os.memfd_create(
                "yolox_trt_frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            )
        try:
            if self.fd >= 0:
                os.ftruncate(fd, size)
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            elif not _is_sealed(fd):
                raise ValueError("shared memory whose size may change")
            memory = mmap.mmap(fd, size)  # with a descriptor of its own
        except BaseException:
            self.close_fd()
            raise
        # The mapping lives as long as arrays on it do.
        self._memory: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self._flags = self._memory[:slots]
        self._next = 0

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All slots, uint8 (slots * slot_bytes,), page-aligned."""
        return self._memory[_PAGE:]

    @property
    def taken(self) -> bool:
        """Whether a slot is in use."""
        return bool(self._flags.any())

    def write(self, data: npt.NDArray[np.uint8]) -> int | None:
        """Copy bytes into a free slot and take it; None if every slot is in use.

        Args:
            data: uint8 (size,), at most slot_bytes long.
        """
        slot = self.free_slot()
        if slot is not None:
            start = _PAGE + slot * self.slot_bytes
            np.copyto(self._memory[start : start + data.size], data)
            self.take(slot)
        return slot

    def free_slot(self) -> int | None:
        """Return a slot that may be written, which take() takes; None if every one is in use."""
        for step in range(self.slots):
            slot = (self._next + step) % self.slots
            if self._flags[slot] == _FREE:
                return slot
        return None

    def take(self, slot: int) -> None:
        """Take a slot that was written."""
        # The message that tells the reader of the slot follows this store through a socket, whose
        # system calls order the memory accesses on every architecture.
        self._flags[slot] = _TAKEN
        self._next = (slot + 1) % self.slots

    def view(self, slot: int, size: int) -> npt.NDArray[np.uint8]:
        """Return the bytes of a taken slot; the slot is free again when nobody holds this array.

        Slices of it do not hold it (NumPy gives them the ring's memory as their base): a Frame
        that is kept does.

        Args:
            slot: its number.
            size: bytes that were written.

        Returns:
            uint8 (size,), read-only.

        Raises:
            ValueError: there is no such slot, or it is smaller.
        """
        if not (0 <= slot < self.slots and 0 <= size <= self.slot_bytes):
            raise ValueError(f"{size} bytes of slot {slot}, of {self.slots} x {self.slot_bytes}")
        start = _PAGE + slot * self.slot_bytes
        # An array of its own, with the ring's memory as its base: it is what is waited for.
        data = self._memory[start : start + size]
        data.flags.writeable = False
        view = _View(data, _let_go)
        view.ring, view.slot = self, slot
        _VIEWS[id(view)] = view
        return data

    def release(self, slot: int) -> None:
        """Make a slot free of which nobody has been told."""
        self._flags[slot] = _FREE

    def close_fd(self) -> None:
        """Close the descriptor of a new ring; the memory stays until its last view has gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
