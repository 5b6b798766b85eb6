"""Changes of a generator's weights as a file of their own, and the generator with them beside the one without.

    W' = W + dW        dW of the changed weights alone, float16

The changed generator shares every other weight with the first, which stays what it is bit for bit. Because the file
holds differences, they fit every generator of the same shape: the base that they were trained on, and one that was
fine-tuned from it.

changes.safetensors    the differences by name
changes.json           what the neighbor attention has beyond the base's, and how frames are drawn best

Source: task arithmetic, Ilharco et al., ICLR 2023.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rag_diffusion.errors import ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_attention import NeighborAttention
from rag_diffusion.models.unet import RetrievalUNet

_WEIGHTS, _FACTS = "changes.safetensors", "changes.json"
_EXTENSIONS = ("neighbor_fine_skips", "neighbor_fine_dim")
_ATTENTION_SETTINGS = (
    "neighbor_skips", "neighbor_head_dim", "neighbor_fine_skips", "neighbor_fine_dim", "neighbor_free_heads",
    "neighbor_roles", "neighbor_prior_strength",
)  # fmt: skip


def sharing(unet: RetrievalUNet, **extensions: Any) -> RetrievalUNet:
    """A second network over the same weights: what is put into one is not put into the other.

    Args:
        unet: the first; it stays what it is.
        **extensions: `neighbor_fine_skips` and `neighbor_fine_dim` that the second has beside; they start as zero, so
            that it draws the same.

    Returns:
        Modules of its own, whose parameters and buffers are those of `unet`, but for what extends it.
    """
    kept = {id(value): value for value in (*unet.parameters(), *unet.buffers())}
    second: RetrievalUNet = copy.deepcopy(unet, dict(kept))
    wanted = {name: extensions[name] for name in _EXTENSIONS if name in extensions}
    if not wanted or tuple(wanted["neighbor_fine_skips"]) == tuple(unet.config.neighbor_fine_skips):
        return second
    if unet.config.neighbor_fine_skips:
        raise ModelError(
            f"neighbor_fine_skips: expected those of the network, {list(unet.config.neighbor_fine_skips)}, or a "
            f"network without any, got {list(wanted['neighbor_fine_skips'])}"
        )
    first = dict(second.neighbor_attention.items())
    settings = {name: second.config[name] for name in _ATTENTION_SETTINGS}
    second.add_neighbor_attention(**settings | wanted)
    for name, attention in second.attentions():
        _take_over(attention, first[name], unet)
    second.register_to_config(**wanted)
    second.neighbor_attention.to(unet.device, unet.dtype)
    second.train(unet.training)
    return second


def _take_over(attention: NeighborAttention, first: nn.Module, unet: RetrievalUNet) -> None:
    """Let a larger attention have the parameters of the first, and the rest of it start as nothing."""
    known = dict(first.named_parameters())
    missing = [name for name, _ in attention.named_parameters() if name not in known]
    for name, value in known.items():
        _put(attention, name, value)
    if missing:
        attention.reset_extensions(missing)


def _put(module: nn.Module, name: str, value: nn.Parameter) -> None:
    *path, last = name.split(".")
    setattr(module.get_submodule(".".join(path)), last, value)


def changes(unet: RetrievalUNet, base: RetrievalUNet) -> dict[str, Tensor]:
    """What a network differs by from another, float16: parameters that the other has not differ from zero.

    Args:
        unet: the changed one.
        base: the other.
    """
    known = {name: value.detach() for name, value in base.named_parameters()}
    found = {}
    for name, value in unet.named_parameters():
        if name not in known:
            found[name] = value.detach().to("cpu", torch.float16)
        elif value is not known[name] and not torch.equal(value, known[name]):
            found[name] = (value.detach() - known[name]).to("cpu", torch.float16)
    return found


def save_changes(folder: Path, unet: RetrievalUNet, found: Mapping[str, Tensor], **facts: Any) -> None:
    """Write changes into an existing folder.

    Args:
        folder: where to.
        unet: the changed network.
        found: of `changes`.
        **facts: more that is said of them, JSON-able.
    """
    save_file({name: value.contiguous() for name, value in found.items()}, folder / _WEIGHTS)
    spec = facts | {name: unet.config[name] for name in _EXTENSIONS}
    (folder / _FACTS).write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def drawing_of(folder: Path) -> dict[str, Any]:
    """How frames are drawn best with the changes of a `folder`: arguments of a pipeline, `guidance` as its fields."""
    found: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8")).get("drawing", {})
    return found


def with_changes(generator: Generator, folder: Path) -> Generator:
    """The generator with the changes of a folder; the other one stays what it is, and shares what is not changed.

    Args:
        generator: of the shape that the changes were trained on.
        folder: that `save_changes` wrote.

    Returns:
        Another generator over the same codec, text encoder and schedule; its fingerprint names both.

    Raises:
        ModelError: the folder is incomplete, or its weights have another shape.
    """
    try:
        spec = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        found = load_file(folder / _WEIGHTS)
        unet = sharing(generator.unet, **{name: spec[name] for name in _EXTENSIONS})
        known = dict(unet.named_parameters())
        if wrong := sorted(name for name in found if name not in known or known[name].shape != found[name].shape):
            raise ValueError(f"other shapes of {len(wrong)} weights, e.g. {wrong[:2]}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected changes that fit the generator, got: {str(error).splitlines()[0]}; restore the "
            "folder, or train them again with `make frames`"
        ) from None
    new = {name for name in found if name not in dict(generator.unet.named_parameters())}
    with torch.no_grad():
        for name, value in found.items():
            before = known[name]
            change = value.to(before.device, before.dtype)
            _put(unet, name, nn.Parameter(change if name in new else before + change, requires_grad=False))
    return replace(
        generator, unet=unet.eval(), fingerprint="-".join(filter(None, (generator.fingerprint, tree_hash(folder)[:16])))
    )
