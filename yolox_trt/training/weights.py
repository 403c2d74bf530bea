# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from an exported ONNX, and exact rewrites of a model to its DLA-ready form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from yolox_trt.core.errors import ConfigurationError, ModelError
from yolox_trt.core.option import options_of
from yolox_trt.graph.graph import Graph
from yolox_trt.graph.spec import read_spec
from yolox_trt.training.layers import BlendedActivation, ConvAct, ConvStem, Focus
from yolox_trt.training.model_config import CONFIGS, ModelConfig
from yolox_trt.training.options import DistillJob
from yolox_trt.training.yolox import YOLOX

_NAME_IT = (
    "name the configuration that the file was exported from by ",
    options_of(DistillJob)["teacher_name"],
)


def convs_in_execution_order(model: nn.Module, size: tuple[int, int] = (64, 64)) -> list[nn.Conv2d]:
    """The model's convolutions as they run, which is the order of the nodes in an exported ONNX."""
    order: list[nn.Conv2d] = []
    hooks = [
        m.register_forward_hook(lambda mod, _i, _o: order.append(mod))
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, *size))
    finally:
        for hook in hooks:
            hook.remove()
    return order


def load_onnx_weights(model: YOLOX, source: Graph) -> None:
    """Copy the folded weights of an exported YOLOX into a model without batch norm.

    Raises:
        ModelError: the number of convolutions or a shape differs, or weights are computed.
    """
    nodes, convs = source.find("Conv"), convs_in_execution_order(model)
    if len(nodes) != len(convs):
        raise ModelError(
            f"{source.path} with {len(nodes)} convolutions",
            expected=f"{len(convs)} as in {model.config.name}",
            fix=_NAME_IT,
        )
    for node, conv in zip(nodes, convs, strict=True):
        weight, bias = node.constant(1), node.constant(2)
        if weight is None or (bias is None and node.input(2) is not None):
            raise ModelError(
                f"weights of {node.name} in {source.path} that other nodes compute",
                expected="weights as float32 constants",
                fix="give the published float model (yolox_trt models list)",
            )
        if weight.shape != conv.weight.shape or conv.bias is None:
            raise ModelError(
                f"weight {weight.shape} of {node.name} in {source.path}",
                expected=f"{tuple(conv.weight.shape)} and a bias, as in {model.config.name}",
                fix=_NAME_IT,
            )
        conv.weight.data.copy_(torch.tensor(weight))
        conv.bias.data.copy_(torch.tensor(0.0 if bias is None else bias))


def load_teacher(path: str | Path, name: str = "yolox_nano") -> YOLOX:
    """The published SiLU network with the weights of its exported ONNX, in evaluation mode.

    It has as many classes as the file, under the file's names.

    Raises:
        ModelError: the file is no YOLOX, or one of another configuration.
        ConfigurationError: there is no configuration of this name.
    """
    if name not in CONFIGS:
        raise ConfigurationError(
            f"configuration '{name}'",
            expected=", ".join(CONFIGS),
            fix=("set ", options_of(DistillJob)["teacher_name"]),
        )
    graph = Graph.load(path)
    spec = read_spec(graph)
    model = YOLOX(
        replace(
            CONFIGS[name],
            norm=False,
            num_classes=spec.num_classes,
            class_names=tuple(spec.class_names),
        )
    )
    load_onnx_weights(model, graph)
    return model.eval()


def focus_to_conv(weight: Tensor) -> Tensor:
    """The 6 x 6 stride-2 kernel (O, 3, 6, 6) equal to Focus and a 3 x 3 kernel (O, 12, 3, 3).

    Focus joins the pixels (row, column) (0,0), (1,0), (0,1), (1,1) of each 2 x 2 cell in this
    order.
    """
    out = weight.new_zeros(weight.shape[0], weight.shape[1] // 4, 6, 6)
    for i, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        out[:, :, row::2, column::2] = weight[:, 3 * i : 3 * i + 3]
    return out


def depthwise_to_full(weight: Tensor) -> Tensor:
    """The full kernel (C, C, k, k) equal to a depthwise (C, 1, k, k): zero off the diagonal."""
    channels = weight.shape[0]
    out = weight.new_zeros(channels, channels, *weight.shape[2:])
    out[torch.arange(channels), torch.arange(channels)] = weight[:, 0]
    return out


def rewrite(source: YOLOX, config: ModelConfig) -> YOLOX:
    """A model of `config` that computes what `source` computes, activation aside.

    Allowed differences: Focus to convolution stem, parallel to chained pools, depthwise to full
    convolutions, and the activation.

    Raises:
        ModelError: when the two do not have the same convolutions otherwise.
    """
    target = YOLOX(config)
    state = target.state_dict()
    new: dict[str, Tensor] = {}
    for key, value in source.state_dict().items():
        if (
            key == "backbone.backbone.stem.conv.conv.weight"
            and isinstance(source.backbone.backbone.stem, Focus)
            and isinstance(target.backbone.backbone.stem, ConvStem)
        ):
            value = focus_to_conv(value)
        elif key in state and value.ndim == 4 and state[key].shape != value.shape:
            value = depthwise_to_full(value)
        new[key] = value
    if new.keys() != state.keys() or any(new[k].shape != state[k].shape for k in state):
        raise ModelError(
            f"{source.config.name} to be rewritten as {config.name}",
            expected="the same convolutions in both",
            fix="use the same depth, width and block",
        )
    target.load_state_dict(new)
    return target


def fold_batch_norm(model: YOLOX) -> YOLOX:
    """A copy without batch norm: running statistics and affine are folded into the convolutions."""
    folded = YOLOX(replace(model.config, norm=False))
    target = dict(folded.named_modules())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, ConvAct) and isinstance(module.bn, nn.BatchNorm2d):
                bn = module.bn
                assert bn.running_var is not None and bn.running_mean is not None
                scale = bn.weight / (bn.running_var + bn.eps).sqrt()
                conv = target[f"{name}.conv"]
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                conv.weight.copy_(module.conv.weight * scale[:, None, None, None])
                conv.bias.copy_(bn.bias - bn.running_mean * scale)
            elif isinstance(module, nn.Conv2d) and not name.endswith(".conv"):
                conv = target[name]
                assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                conv.weight.copy_(module.weight)
                assert module.bias is not None
                conv.bias.copy_(module.bias)
    return folded.train(model.training)


@torch.no_grad()
def insert_batch_norm(model: YOLOX, images: Tensor) -> YOLOX:
    """A copy with batch norm after each convolution that computes the same on `images`.

    The statistics of each convolution's output over `images` (N, 3, H, W) become the running
    statistics; scale and shift undo them, so the function is unchanged in evaluation mode.
    """
    normed = YOLOX(replace(model.config, norm=True)).to(images.device)
    if isinstance(model.activation, BlendedActivation):
        normed.set_blend(float(model.activation.blend))
    target = dict(normed.named_modules())
    hooks = []

    def measure(name: str):  # type: ignore[no-untyped-def]
        def hook(conv: nn.Module, _inputs: object, out: Tensor) -> None:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            pair = target[name]
            assert isinstance(pair, ConvAct) and isinstance(pair.bn, nn.BatchNorm2d)
            var, mean = torch.var_mean(out.float(), dim=(0, 2, 3))
            # A dead or near-constant channel would get a huge inverse: keep its scale bounded.
            var = var.clamp(min=1e-4)
            bn = pair.bn
            assert bn.running_mean is not None and bn.running_var is not None
            pair.conv.weight.copy_(conv.weight)
            bn.running_mean.copy_(mean - conv.bias)
            bn.running_var.copy_(var)
            bn.weight.copy_((var + bn.eps).sqrt())
            bn.bias.copy_(mean)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, ConvAct):
            hooks.append(module.conv.register_forward_hook(measure(name)))
        elif isinstance(module, nn.Conv2d) and not name.endswith(".conv"):
            target[name].load_state_dict(module.state_dict())
    try:
        model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return normed
