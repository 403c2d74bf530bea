# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Limits: how much of what comes from outside is taken. No other module states one.

What a user may have to raise is an option group of its own, which commands and nodes offer; the
rest is in `Limits`, whose one instance is `LIMITS`. docs/security.md lists them all, made by
`limits_table`. What exceeds a limit is refused before memory is taken for it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from yolox_trt.core.errors import ConfigurationError, FrameError
from yolox_trt.core.option import OptionGroup, option, options_of

#: Environment variable in place of the parameter `max_megapixels`, for files and bags.
MEGAPIXELS_VARIABLE = "YOLOX_TRT_MAX_MEGAPIXELS"

#: Bytes of a pixel of the widest encoding (16 bits, four channels).
_WIDEST_PIXEL = 8


@dataclass(frozen=True, kw_only=True)
class ImageLimits(OptionGroup):
    """How large an image may be: one in a message, a file, a video or a bag."""

    max_megapixels: float = option(
        64.0,
        above=0.0,
        maximum=1024.0,
        unit="megapixels",
        help="Largest image, decoded or not; a larger one is refused. Raw or encoded, it has at "
        "most 8 bytes for each of these pixels.",
    )

    @classmethod
    def of_environment(cls) -> ImageLimits:
        """Return the limits for files and bags, which $YOLOX_TRT_MAX_MEGAPIXELS raises.

        Raises:
            ConfigurationError: the variable holds something else than a number in range.
        """
        text = os.environ.get(MEGAPIXELS_VARIABLE)
        if text is None:
            return cls()
        with ConfigurationError.instead_of(
            ValueError, f"{MEGAPIXELS_VARIABLE}={text}", expected="a number of megapixels"
        ):
            return cls(max_megapixels=float(text))

    @property
    def max_bytes(self) -> int:
        """Most bytes of an image as it arrives, raw or encoded."""
        return int(self.max_megapixels * 1e6) * _WIDEST_PIXEL

    def check(self, *, size: int, height: int = 0, width: int = 0) -> None:
        """Refuse an image that is too large.

        Args:
            size: its bytes as it arrived.
            height: rows.
            width: columns.

        Raises:
            FrameError: it exceeds a limit.
        """
        # For each image: what an error needs is looked up when there is one.
        most = self.max_megapixels * 1e6
        if height * width <= most and size <= most * _WIDEST_PIXEL:
            return
        largest = options_of(ImageLimits)["max_megapixels"]
        if height * width > most:
            found, expected = f"{width}x{height} pixels", f"{self.max_megapixels:g} megapixels"
        else:
            found, expected = f"{size} bytes", f"{self.max_bytes} bytes"
        raise FrameError(
            f"an image of {found}",
            expected=f"{expected} at most",
            fix=(
                *("send or store a smaller one, or raise ", largest),
                f" (for files and bags: the environment variable {MEGAPIXELS_VARIABLE})",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Limits(OptionGroup):
    """Limits that nothing raises, as whatever is meant well stays far below them."""

    name_characters: int = option(
        256,
        unit="characters",
        help="A name from outside, such as a frame_id, an encoding or a class.",
    )
    node_name_characters: int = option(
        100,
        unit="characters",
        help="A camera node's name: ROS 2 takes 247 characters for a name together with its "
        "namespace and a topic or service below it.",
    )
    cameras: int = option(64, unit="cameras", help="Camera nodes of one process.")
    parameter_entries: int = option(
        1000,
        unit="entries",
        help="A list that a message sets a ROS parameter to; a new camera's parameters.",
    )
    parameter_characters: int = option(
        4096, unit="characters", help="A text, or one of a list, that a message sets it to."
    )
    label_file_bytes: int = option(1 << 20, unit="bytes", help="A file of class names.")
    text_characters: int = option(
        2000,
        unit="characters",
        help="A value of YAML, and a line of a log or of /diagnostics that repeats such text.",
    )
    jpeg_scans: int = option(
        64,
        unit="scans",
        help="Scans of a JPEG that has several; each costs as much as decoding it.",
    )
    jpeg_segments: int = option(
        1000, unit="segments", help="Segments of a JPEG before the one that states its size."
    )
    tiff_tags: int = option(1000, unit="tags", help="Tags of a TIFF image.")
    png_chunks: int = option(100_000, unit="chunks", help="Chunks of a PNG image.")
    video_units: int = option(1000, unit="NAL units", help="Parts of a packet of H.264 or HEVC.")
    video_header_bytes: int = option(
        4096, unit="bytes", help="What is read of a video's header (SPS)."
    )
    video_packets: int = option(
        60,
        unit="packets",
        help="Packets of a video that wait for their decoder; beyond it they are given up to the "
        "next keyframe.",
    )
    message_bytes: int = option(
        1 << 16, unit="bytes", help="A message between multi_camera and an ingest process."
    )
    document_depth: int = option(
        64,
        unit="levels",
        help="Nesting of a JSON or YAML document, file, parameter or metadata; "
        "lists of sources that name one another.",
    )
    json_bytes: int = option(
        64 << 20, unit="bytes", help="A JSON file, a calibration cache, a list of images."
    )
    json_values: int = option(
        8_000_000, unit="values", help="Values of a JSON document, its keys counted, too."
    )
    annotation_bytes: int = option(
        1 << 30, unit="bytes", help="A data set's annotations; COCO's largest file has 449 MB."
    )
    annotation_values: int = option(
        100_000_000, unit="values", help="Values of a data set's annotations, keys counted, too."
    )
    yaml_bytes: int = option(
        256 << 10, unit="bytes", help="A YAML file: parameters, or a plan with measured times."
    )
    yaml_values: int = option(
        20_000, unit="values", help="Values of a YAML document, its aliases written out."
    )
    bag_chunk_bytes: int = option(
        256 << 20,
        unit="bytes",
        help="What is unpacked of a bag at a time, beside one image of `max_megapixels`.",
    )
    bag_metadata_bytes: int = option(4 << 20, unit="bytes", help="A bag's metadata.yaml.")
    bag_parts: int = option(
        10_000, unit="parts", help="Parts of a bag, which `yolox_trt batch` works on one by one."
    )
    result_bytes: int = option(
        1 << 30, unit="bytes", help="What `yolox_trt batch` has written of a part."
    )
    result_values: int = option(
        100_000_000, unit="values", help="Values of what `yolox_trt batch` has written of a part."
    )
    scratch_bytes: int = option(
        64 << 30,
        unit="bytes",
        help="A video or a bag that is copied or unpacked into the folder for temporary files; "
        "and half of what is free there.",
    )
    download_bytes: int = option(2 << 30, unit="bytes", help="A file that is downloaded.")
    graph_nodes: int = option(
        100_000, unit="nodes", help="Nodes of an ONNX model, its functions written out."
    )
    threads: int = option(1024, unit="threads", help="Threads that an option of a command sets.")
    batch: int = option(1024, unit="images", help="Images of one run of an ONNX model on the CPU.")
    tensor_size: int = option(
        1 << 26,
        unit="values",
        help="A tensor of an ONNX model along one axis, and a constant that is computed or sparse.",
    )
    folded_bytes: int = option(
        1 << 30, unit="bytes", help="Constants that are computed of an ONNX model, all together."
    )
    ring_bytes: int = option(
        1 << 30,
        unit="bytes",
        help="Shared memory for one camera's images, with ingest processes; the same once more on "
        "a GPU.",
    )
    answer_seconds: float = option(
        5.0,
        unit="s",
        help="Until a camera or a web server that is a source answers, and until who has connected "
        "to the dashboard has sent a request.",
    )
    connections: int = option(
        256, unit="connections", help="Connections to the dashboard at a time."
    )
    transfer_seconds: float = option(
        60.0, unit="s", help="Until an image from the web has arrived."
    )
    tracks: int = option(
        400,
        unit="tracks",
        help="Tracks of one camera at a time, each box that was seen once in `track_seconds` among "
        "them; beyond it they begin anew.",
    )
    zone_corners: int = option(
        1000, unit="corners", help="Corners of a camera's `include_zones`, or `exclude_zones`."
    )
    held_bytes: int = option(
        1 << 30,
        unit="bytes",
        help="Images that a list of `yolox_trt.Detector`'s results holds; later ones are let go.",
    )


LIMITS = Limits()


def is_name(text: str) -> bool:
    """Tell whether a name from outside is printable and short enough to be used as it is."""
    return len(text) <= LIMITS.name_characters and text.isprintable()


def printable(text: str) -> str:
    r"""Return text from outside as one line that no terminal takes for commands.

    Line feeds, escape sequences and other control characters are written as in Python source, as
    \n and \x1b are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def clean_text(text: str, longest: int = LIMITS.text_characters) -> str:
    """Return text from outside for a log, /diagnostics, an error or a result: printable, and short.

    Args:
        text: any text.
        longest: characters that are kept of it; more are replaced by their number.
    """
    if len(text) > longest:
        text = f"{text[:longest]}... ({len(text)} characters)"
    return printable(text)


class LineFormatter(logging.Formatter):
    """Formats a record's message as one clean line; a traceback follows as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line."""
        return clean_text(super().formatMessage(record))


def limits_table() -> str:
    """Return the table of all limits in docs/security.md."""
    raised = f"the camera's parameter; `{MEGAPIXELS_VARIABLE}` for files and bags"
    lines = ["| limit | default | raised by | what it limits |", "|---|---|---|---|"]
    for group, by in ((ImageLimits, raised), (Limits, "")):
        lines += [
            f"| `{each.name}` | {each.default:,} {each.unit} | {by} | {each.help} |"
            for each in options_of(group).values()
        ]
    return "\n".join(lines) + "\n"
