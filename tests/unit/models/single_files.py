"""A U-Net of diffusers under the names that it has in one file of its authors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

_NAMES = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip


def write_single_file(unet: Any, path: Path) -> Path:
    """Write the weights of a U-Net with one number of layers in all its blocks."""
    per_block = unet.config.layers_per_block + 1
    crossed = [hasattr(block, "attentions") for block in unet.up_blocks]
    state = {
        f"model.diffusion_model.{_name(key, per_block, crossed)}": value.contiguous()
        for key, value in unet.state_dict().items()
    }
    save_file(state, path)
    return path


def _name(key: str, per_block: int, crossed: list[bool]) -> str:
    module, kind = key.rsplit(".", 1)
    if module in _NAMES:
        return f"{_NAMES[module]}.{kind}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        number = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{number}.{_inner(found[1], found[3])}"
    side, block, what, layer, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key).groups()  # type: ignore[union-attr]
    first = int(block) * per_block
    if what == "downsamplers":
        return f"input_blocks.{first + per_block}.0.op.{kind}"
    if what == "upsamplers":
        return f"output_blocks.{first + per_block - 1}.{1 + crossed[int(block)]}.conv.{kind}"
    place = f"input_blocks.{first + int(layer) + 1}" if side == "down" else f"output_blocks.{first + int(layer)}"
    return f"{place}.{0 if what == 'resnets' else 1}.{_inner(what, rest)}"


def _inner(what: str, rest: str) -> str:
    name, kind = rest.rsplit(".", 1)
    return f"{_RESNET[name]}.{kind}" if what == "resnets" else rest
