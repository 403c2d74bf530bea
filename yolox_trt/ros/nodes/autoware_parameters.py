# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""What stands behind the parameters of a node: presets, Autoware's names and its packages' folders.

Imports no ROS. A node takes a value from its own parameters first, then from the manifests of
`model_dir` and `config_dir`, then from `preset`, and else the option's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yolox_trt.core.device import Device
from yolox_trt.core.documents import read_yaml
from yolox_trt.core.errors import FILE_ERRORS, ConfigurationError
from yolox_trt.core.option import parse_path

#: Values of `preset`: what autoware_tensorrt_yolox does where ours differs.
PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    "autoware": {
        "score_threshold": 0.35,
        "nms_threshold": 0.7,
        "class_agnostic": True,
        "publish_objects": True,
        "publish_debug": True,
        "image_topic": "~/in/image",
        "objects_topic": "~/out/objects",
        "annotated_topic": "~/out/image",
        "mask_topic": "~/out/mask",
        "color_mask_topic": "~/out/color_mask",
    },
}

#: Parameters that say where the others come from; the cameras take those of the process.
SOURCES = ("preset", "config_dir", "model_dir")

MANIFEST = "parameters.manifest.yaml"

#: A manifest's names of files in model_dir -> the parameters that they are.
_FILES = {
    "model_file": "model",
    "label_file": "label_path",
    "roi_remap_file": "roi_remap_path",
    "colormap_file": "mask_color_path",
    "roi_to_semantic_segmentation_remap_file": "mask_remap_path",
}


def values_behind(preset: str, config_dir: str, model_dir: str) -> dict[str, Any]:
    """Return parameters by name, those of Autoware's own names among them.

    Args:
        preset: a key of PRESETS.
        config_dir: folder with a manifest, whose files are read first; "" for none.
        model_dir: folder of the model, with another manifest; given together with config_dir.

    Raises:
        ConfigurationError: an unknown preset, one folder without the other, or a file that is
            missing or wrong.
    """
    for name, value in zip(SOURCES, (preset, config_dir, model_dir), strict=True):
        if not isinstance(value, str):  # a parameter file may hold anything
            raise ConfigurationError(
                f"`{name}` = {value!r:.80}", expected="a text", fix=f"set the parameter `{name}`"
            )
    if preset not in PRESETS:
        raise ConfigurationError.unknown(
            "preset", preset, filter(None, PRESETS), fix="set the parameter `preset`"
        )
    if bool(config_dir) != bool(model_dir):
        raise ConfigurationError(
            f"`config_dir` = '{config_dir}' with `model_dir` = '{model_dir}'",
            expected="both, or neither",
            fix="set the parameters `config_dir` and `model_dir`",
        )
    if not config_dir:
        return dict(PRESETS[preset])
    found = _manifest(parse_path(config_dir)) | _manifest(parse_path(model_dir))
    if not found.get("model_file"):
        raise ConfigurationError(
            f"no `model_file` in the manifests of '{config_dir}' and '{model_dir}'",
            expected="the model's file name, relative to `model_dir`",
        )
    for name, parameter in _FILES.items():
        file = found.pop(name, "")
        if not isinstance(file, str) or Path(file).is_absolute():
            raise ConfigurationError(
                f"`{name}` = {file!r} in the manifests of '{config_dir}' and '{model_dir}'",
                expected="a file name relative to `model_dir`",
            )
        if file:
            found[parameter] = str(parse_path(model_dir) / file)
    return PRESETS[preset] | found


def _manifest(folder: Path) -> dict[str, Any]:
    """Return what the files of a folder's manifest say, the later one winning."""
    files = _read(folder / MANIFEST).get("config_files")
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ConfigurationError(
            f"manifest '{folder / MANIFEST}' without a list of files",
            expected="config_files: [NAME.param.yaml, ...]",
        )
    values: dict[str, Any] = {}
    for file in files:
        content = _read(folder / file)
        wrapped = [each for name, each in content.items() if str(name).startswith("/")]
        for part in wrapped or [content]:
            part = part.get("ros__parameters", part) if isinstance(part, dict) else part
            if not isinstance(part, dict | None):
                raise ConfigurationError(
                    f"'{folder / file}' with {part!r:.80} in place of parameters",
                    expected="a mapping of names to values",
                )
            values |= dict(_flat(part or {}))
    return values


def _read(path: Path) -> dict[str, Any]:
    with ConfigurationError.instead_of(
        FILE_ERRORS,
        f"'{path}' that cannot be read",
        expected="a YAML file of parameters, as in Autoware's config_dir and model_dir",
        fix="set the parameters `config_dir` and `model_dir`",
    ):
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ValueError("no mapping of names to values")
    return content


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its name, in which a dot separates what stands within the other."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", value


def _only_int8(value: Any, given: Mapping[str, Any]) -> Any:
    """Return a value that Autoware's node uses with precision int8 only; None for nothing."""
    return value if value and given.get("precision") == "int8" else None


#: Other names: name -> (name here, how its value is turned). The function gets the value and the
#: node's parameters by name; None changes nothing (dla_core_id -1: no DLA). But for the last, which
#: is image_transport's, they are those of autoware_tensorrt_yolox.
DEPRECATED_ALIASES: dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "model_path": ("model", lambda value, given: value),
    "calibration_cache_path": ("calibration_cache", lambda value, given: value),
    "gpu_id": ("device", lambda value, given: str(Device("gpu", int(value))) if value else None),
    "dla_core_id": ("device", lambda value, given: f"dla{value}" if int(value) >= 0 else None),
    "clip_value": (
        "default_dynamic_range",
        lambda value, given: _only_int8(float(value) if value > 0 else None, given),
    ),
    # Fixed ranges need no images, as there.
    "calibration_image_list_path": (
        "calibration_images",
        lambda value, given: _only_int8(None if given.get("clip_value", 0) > 0 else value, given),
    ),
    "quantize_first_layer": ("keep_first_layer_fp16", _only_int8),
    "quantize_last_layer": ("keep_last_layer_fp16", _only_int8),
    "color_map_path": ("mask_color_path", lambda value, given: value or None),
    "semantic_segmentation_color_map_path": ("mask_color_path", lambda value, given: value or None),
    "roi_to_semantic_segmentation_remap_path": (
        "mask_remap_path",
        lambda value, given: value or None,
    ),
    "is_roi_overlap_segment": ("mask_overlap", lambda value, given: value),
    "is_roi_overlap_segmentation": ("mask_overlap", lambda value, given: value),
    "overlap_roi_score_threshold": ("mask_overlap_score", lambda value, given: value),
    "is_publish_debug_image": ("publish_annotated", lambda value, given: value),
    "image_transport": ("transport", lambda value, given: value),
}

#: Autoware's names that mean nothing here, each with the value that asks for nothing: another one
#: is reported, once.
AUTOWARE_ONLY: dict[str, Any] = {
    "profile_per_layer": False,
    "preprocess_on_gpu": True,
    "is_publish_color_mask": False,
}
#: Beginning of those that have such a name for each label.
AUTOWARE_ONLY_PREFIX = "roi_overlay_segment"
