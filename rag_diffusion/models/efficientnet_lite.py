"""EfficientNet-Lite weights of efficientnet_lite_pytorch under timm's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from rag_diffusion.errors import ModelError

LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each of EfficientNet-Lite0's seven stages


def convert_efficientnet_lite(state: Mapping[str, Tensor], repeats: Sequence[int] = LITE0_REPEATS) -> dict[str, Tensor]:
    """Rename EfficientNet-Lite weights from efficientnet_lite_pytorch to timm; the classifier is
    dropped.

    Args:
        state: state dict of `efficientnet_lite_pytorch.EfficientNet`.
        repeats: number of blocks in each stage.

    Returns:
        State dict of timm's `tf_efficientnet_lite*` with `num_classes=0`; the same tensors.

    Raises:
        ModelError: a weight has a name that EfficientNet-Lite does not have.
    """
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(repeats) for block in range(count)]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    expanded = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    converted: dict[str, Tensor] = {}
    for name, weight in state.items():
        first, _, rest = name.partition(".")
        try:
            if first == "_fc":
                continue
            if first == "_blocks":
                number, layer, leaf = rest.split(".")
                has_expansion = f"_blocks.{number}._expand_conv.weight" in state
                converted[f"{places[int(number)]}.{(expanded if has_expansion else plain)[layer]}.{leaf}"] = weight
            else:
                converted[f"{outer[first]}.{rest}"] = weight
        except (KeyError, IndexError, ValueError):
            raise ModelError(f"expected weights of EfficientNet-Lite with {len(places)} blocks, got {name!r}") from None
    return converted
