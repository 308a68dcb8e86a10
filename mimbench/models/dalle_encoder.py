"""The encoder of DALL-E's discrete VAE, and the three layouts in which its weights are published."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mimbench.models.pickled import load_old_module

ARCHIVE = b"PK\x03\x04"
GROUPS = 4  # the pixels of a code: 2 per side after each group but the last
STRIDE = 2 ** (GROUPS - 1)
PICKLED = ("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock", "dall_e.utils.Conv2d", "torch.nn.modules.container.Sequential",
           "torch.nn.modules.activation.ReLU", "torch.nn.modules.pooling.MaxPool2d", "torch.nn.modules.linear.Identity")  # fmt: skip


class DalleBlock(nn.Module):
    """A residual block whose branch is scaled down by the square of the number of blocks."""

    def __init__(self, width_in: int, width: int, blocks: int) -> None:
        super().__init__()
        self.gain, inner = 1 / blocks**2, width // 4
        self.id_path = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.res_path = nn.Sequential(OrderedDict(
            relu_1=nn.ReLU(), conv_1=nn.Conv2d(width_in, inner, 3, padding=1),
            relu_2=nn.ReLU(), conv_2=nn.Conv2d(inner, inner, 3, padding=1),
            relu_3=nn.ReLU(), conv_3=nn.Conv2d(inner, inner, 3, padding=1),
            relu_4=nn.ReLU(), conv_4=nn.Conv2d(inner, width, 1),
        ))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class DalleEncoder(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] -> logits of the codes (B, vocabulary, H / 8, W / 8)."""

    def __init__(self, hidden: int, blocks_per_group: int, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        layers: OrderedDict[str, nn.Module] = OrderedDict(input=nn.Conv2d(3, hidden, 7, padding=3))
        width = hidden
        for index in range(GROUPS):
            group: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(blocks_per_group):
                group[f"block_{block + 1}"] = DalleBlock(width, hidden * 2**index, GROUPS * blocks_per_group)
                width = hidden * 2**index
            if index < GROUPS - 1:
                group["pool"] = nn.MaxPool2d(2)
            layers[f"group_{index + 1}"] = nn.Sequential(group)
        layers["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(width, vocabulary, 1)))
        self.blocks = nn.Sequential(layers)

    def forward(self, raw: Tensor) -> Tensor:
        return self.blocks(0.8 * raw + 0.1)  # DALL-E's map_pixels: its decoder's distribution has no mass at 0 and 1


def load_dalle(path: Path) -> DalleEncoder:
    """With the sizes and weights of a file: OpenAI's pickle, mmpretrain's state dict, or FLAVA's image codebook."""
    tensors = _by_our_names(_read(path))
    first, last = tensors.get("blocks.input.weight"), tensors.get("blocks.output.conv.weight")
    if first is None or last is None:
        raise ValueError(f"{path}: no encoder of DALL-E's dVAE: lacks blocks.input or blocks.output.conv.")
    blocks = len({name.split(".")[2] for name in tensors if name.startswith("blocks.group_1.block_")})
    encoder = DalleEncoder(len(first), blocks, len(last))
    wanted = encoder.state_dict()
    wrong = sorted(wanted.keys() ^ tensors.keys()) + [name for name in wanted.keys() & tensors.keys()
                                                      if wanted[name].shape != tensors[name].shape]  # fmt: skip
    if wrong:
        raise ValueError(
            f"{path}: no encoder of DALL-E's dVAE: {', '.join(wrong[:4])} {'are' if wrong[1:] else 'is'} not as expected."
        )
    encoder.load_state_dict(tensors)
    return encoder


def _read(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name. Of a pickled module, its classes are replaced by one that only holds what was saved."""
    try:
        found = _opened(path)
    except Exception as error:  # torch has many for a file that is none of its own
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds the class {foreign.group(1)}, which is not executed"
            if foreign
            else str(error).strip().split("\n")[0]
        )
        raise ValueError(f"{path}: not readable as weights ({reason}).") from error
    if isinstance(found, _Saved):
        return dict(found.tensors())
    while isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: must hold tensors by name, not one {type(found).__name__}.")
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _opened(path: Path) -> Any:
    """By the first bytes: safetensors, torch's archive, or torch's older row of pickles."""
    with path.open("rb") as file:
        start = file.read(9)
        if start[8:9] == b"{" and start[:4] != ARCHIVE:
            return load_file(path)
        if start[:4] != ARCHIVE:
            file.seek(0)
            return load_old_module(file, dict.fromkeys(PICKLED, _Saved))
    with torch.serialization.safe_globals([(_Saved, name) for name in PICKLED]):
        return torch.load(path, map_location="cpu", weights_only=True)


class _Saved:
    """What a pickled module was: its parameters and its submodules."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.parameters, self.modules = state.get("_parameters", {}), state.get("_modules", {})

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.parameters.items():
            if isinstance(tensor, Tensor):
                yield prefix + name, tensor.detach()
        for name, module in self.modules.items():
            if isinstance(module, _Saved):
                yield from module.tensors(f"{prefix}{name}.")


def _by_our_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's `w` and `b`, FLAVA's extra levels, and a prefix of either."""
    renamed = {}
    for name, tensor in found.items():
        start = name.find("blocks.")
        if start < 0 or re.match(r"(.*\.)?decoder\.", name[:start]):
            continue
        own = name[start:].replace(".group.block_", ".block_").replace(".res_path.path.", ".res_path.")
        renamed[re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", own))] = tensor.to(torch.float32)
    return renamed
