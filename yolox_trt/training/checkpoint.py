# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files that training runs write: a configuration and its weights."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolox_trt.core.errors import FILE_ERRORS, Message, ModelError
from yolox_trt.core.files import whole_or_none
from yolox_trt.training.model_config import ModelConfig
from yolox_trt.training.options import RunOptions
from yolox_trt.training.yolox import YOLOX

_EXPECTED = "a file of a training run of yolox_trt (checkpoint.pt, student.pt, model.pt)"
_FIX = "give the path of such a file"


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a file that a run wrote.

    Raises:
        ModelError: no such file, or a file of another kind.
    """
    if not Path(path).is_file():
        raise ModelError(f"no file '{path}'", expected=_EXPECTED, fix=_FIX)
    try:
        _refuse_packed(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes PyTorch raise whatever it meets first
        # PyTorch explains at length how to load a file that is not to be trusted.
        reason = str(error).partition("\n")[0].partition(". ")[0][:120]
        raise ModelError(
            f"'{path}' cannot be read by PyTorch ({type(error).__name__}: {reason})",
            expected=_EXPECTED,
            fix=_FIX,
        ) from error
    return saved if isinstance(saved, dict) else {}


def _refuse_packed(path: str | Path) -> None:
    """Raise ValueError for a file that would grow when it is read: PyTorch packs none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as entries:
            size = sum(entry.file_size for entry in entries.infolist())
        if size > Path(path).stat().st_size:
            raise ValueError(f"{size} bytes, packed")


def save_file(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file that load_file reads; an older one stays until the new one is whole."""
    with whole_or_none(path) as part:
        torch.save(dict(values), part)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the configuration and the weights, as float32, of a run's file.

    Raises:
        ModelError: no such file, or a file of another kind.
    """
    config, state = map(load_file(path).get, ("config", "state"))
    wrong = ""
    if not isinstance(config, dict) or not isinstance(state, dict):
        wrong = "without the entries `config` and `state`"
    elif not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        wrong = "whose `state` holds more than tensors"
    elif not all(map(_is_plain, state.values())):
        wrong = "whose `state` holds tensors that are sparse, quantised or without values"
    elif any(value.nbytes > value.untyped_storage().nbytes() for value in state.values()):
        wrong = "whose `state` repeats values, and would grow"  # a stride of 0
    if wrong:
        raise ModelError(f"'{path}' {wrong}", expected=_EXPECTED, fix=_FIX)
    assert isinstance(config, dict) and isinstance(state, dict)
    return config, {key: value.float() for key, value in state.items()}


def _is_plain(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested
    return strided and tensor.device.type == "cpu" and not tensor.is_quantized


def write_checkpoint(
    path: Path,
    model: YOLOX,
    options: RunOptions,
    *,
    half: bool = False,
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a model's configuration and weights, and the options and log of its run.

    Args:
        path: file; an older one stays until the new one is whole.
        model: the model.
        options: of the run.
        half: keep kernels as float16, as the exported file holds them, and biases in full.
        log: states of the run.
    """
    state = model.state_dict()
    if half:
        state = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    saved = {"config": asdict(model.config), "options": asdict(options), "log": list(log)}
    save_file(path, {"state": state, **saved})


def load_state(
    model: nn.Module, state: dict[str, Tensor], *, source: str | Path, fix: Message
) -> None:
    """Put weights into a model.

    Raises:
        ModelError: they are those of another network.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # One line for each tensor follows; the first tells enough.
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ModelError(
            f"weights of another network in '{source}' ({' '.join(lines)[:200]})",
            expected="the tensors of this configuration",
            fix=fix,
        ) from error


def load_trained(path: str | Path) -> YOLOX:
    """Read a model that `yolox_trt distill` or `yolox_trt train` wrote.

    Raises:
        ModelError: the file is of another kind, or of another version.
    """
    config, state = read_checkpoint(path)
    fix = "export it with the version of yolox_trt that wrote it, or train it again"
    names = ", ".join(field.name for field in fields(ModelConfig))
    found = f"a configuration in '{path}' that is of another kind"
    with ModelError.instead_of(
        (*FILE_ERRORS, RuntimeError, MemoryError), found, expected=names, fix=fix
    ):
        # Files of earlier versions have no class names.
        of_names = ("class_names", "mask_class_names")
        typed = {name: tuple(config.get(name, ())) for name in of_names}
        size = tuple(config["input_size"])
        read = ModelConfig(**{**config, **typed, "input_size": size})
        # A network is as large as its configuration says: first one without memory.
        if not 0 <= 9 * read.depth <= len(state):
            raise ValueError(f"depth {read.depth} with {len(state)} tensors")
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is copied into it
            load_state(YOLOX(read), state, source=path, fix=fix)
        model = YOLOX(read)
    load_state(model, state, source=path, fix=fix)
    return model.eval()
