# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from yolox_trt.core.errors import ConfigurationError, YoloxTrtError
from yolox_trt.core.model_spec import PREPROCESSING_PRESETS
from yolox_trt.core.option import from_plain
from yolox_trt.core.postprocess_options import PostprocessOptions
from yolox_trt.detectors.detector import Detector
from yolox_trt.detectors.factory import create_detector
from yolox_trt.detectors.options import ENGINES, DetectorOptions

#: A node's parameter -> the option of these commands.
_OPTIONS = {
    "score_threshold": "--score",
    "nms_threshold": "--nms",
    "class_thresholds": "--class-score",
    "max_detections": "--max-detections",
    "labels": "--labels",
    "max_batch": "--batch",
    "device": "--device",
    "engine": "--engine",
    "precision": "--precision",
    "preprocessing": "--preprocessing",
}
_PARAMETER = re.compile(r"(?:the parameters? )?`(\w+)(?:\[\d+\])?`")


@contextlib.contextmanager
def options_named(**others: str) -> Iterator[None]:
    """Let an error name the command line's option where it names a node's parameter.

    Args:
        others: parameter -> option, where a command has another one than most.
    """

    def option(match: re.Match[str]) -> str:
        name = {**_OPTIONS, **others}.get(match[1])
        return f"`{name}`" if name else match[0]

    try:
        yield
    except YoloxTrtError as error:
        fix = _PARAMETER.sub(option, error.fix)
        raise type(error)(error.found, expected=error.expected, fix=fix) from error


def add_model_arguments(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """Add the model, the device and what a model's graph cannot say.

    Args:
        parser: where to.
        positional: whether the model is a positional argument or the option --model.
    """
    help_text = "ONNX file or built engine (default: the shipped model)"
    if positional:
        parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help=help_text)
    else:
        parser.add_argument("--model", type=Path, metavar="FILE", help=help_text)
    group = parser.add_argument_group("model and device")
    group.add_argument(
        "--device", default="auto", help="auto, cpu, gpu, gpu:N, dla0, dla1 (default: auto)"
    )
    group.add_argument("--engine", default="auto", choices=ENGINES, help="(default: auto)")
    group.add_argument(
        "--precision", default="", choices=("fp32", "fp16", "int8"), help="of a TensorRT engine"
    )
    group.add_argument(
        "--preprocessing",
        choices=sorted(PREPROCESSING_PRESETS),
        help="what the input expects (default: the model's metadata, else bgr)",
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    group.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="for a model that leaves them open",
    )
    group.add_argument(
        "--batch", type=whole_number, metavar="N", help="largest batch (default: the model's)"
    )
    group.add_argument("--threads", type=whole_number, metavar="N", help="of one run on the CPU")


def add_threshold_arguments(
    parser: argparse.ArgumentParser, *, score: float, nms: float, max_detections: int
) -> None:
    """Add the thresholds of decode and NMS, with these defaults."""
    group = parser.add_argument_group("thresholds")
    group.add_argument("--score", type=float, default=score, help="(default: %(default)s)")
    group.add_argument("--nms", type=float, default=nms, help="IoU (default: %(default)s)")
    group.add_argument(
        "--class-score",
        action="append",
        default=[],
        metavar="CLASS=SCORE",
        help="threshold of one class, by name or number; may be given several times",
    )
    group.add_argument(
        "--max-detections", type=int, default=max_detections, help="(default: %(default)s)"
    )
    group.add_argument(
        "--class-agnostic", action="store_true", help="boxes of all classes suppress each other"
    )


def positive_number(text: str) -> float:
    """Read an argument that must be above 0 and finite."""
    value = float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def whole_number(text: str) -> int:
    """Read an argument that counts something: a whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return value


def detector_from(args: argparse.Namespace) -> Detector:
    """Make the Detector that the arguments of add_model_arguments name."""
    with options_named():
        options = from_plain(
            DetectorOptions,
            {
                "device": args.device,
                "engine": args.engine,
                "precision": args.precision or None,
                "preprocessing": args.preprocessing,
                "labels": str(args.labels) if args.labels else None,
                "max_batch": args.batch,
                "threads": args.threads,
            },
        )
        size = tuple(args.input_size) if args.input_size else None
        return create_detector(dataclasses.replace(options, model=args.model, input_size=size))


def _some(class_names: Sequence[str]) -> str:
    """Name the classes of a model; of many, the first ones."""
    rest = len(class_names) - 10
    return ", ".join(class_names[:10]) + (f" and {rest} more" if rest > 0 else "")


def options_from(args: argparse.Namespace, class_names: Sequence[str]) -> PostprocessOptions:
    """Make the PostprocessOptions that the arguments of add_threshold_arguments name.

    Raises:
        ConfigurationError: a threshold out of range, or an unknown class.
    """
    thresholds: dict[int, float] = {}
    for text in args.class_score:
        name, _, value = text.rpartition("=")
        try:
            class_id = class_names.index(name) if name in class_names else int(name)
            thresholds[class_id] = float(value)
        except ValueError:
            close = difflib.get_close_matches(name, class_names, n=1)
            raise ConfigurationError(
                f"--class-score {text}",
                expected="CLASS=SCORE with a class of the model, such as person=0.4 or 0=0.4",
                fix=f"did you mean {close[0]}?" if close else f"take one of {_some(class_names)}",
            ) from None
    with options_named():
        return PostprocessOptions(
            score_threshold=args.score,
            nms_threshold=args.nms,
            class_thresholds=thresholds,
            max_detections=args.max_detections,
            class_agnostic=args.class_agnostic,
        )
