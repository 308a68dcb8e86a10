"""Where a checkpoint is, and what its config says: a file, a folder, `timm:NAME` or `hf:NAME`."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimbench.errors import UserError, nearest
from mimbench.models.architecture import Described
from mimbench.models.pixels import named

FILES = ("model.safetensors", "pytorch_model.bin")  # as Hugging Face and timm name them beside a config.json
HUGGING_FACE = ("beit", "vit", "vit_mae", "dinov2", "dinov2_with_registers", "ijepa")


def locate(written: str) -> tuple[Path, Described]:
    """The file of a checkpoint, downloaded if it is named, and what is known of it beside its tensors."""
    kind, _, name = written.partition(":")
    if kind == "timm" and name:
        return _of_timm(name)
    path = _on_disk(written, kind, name)
    return path, replace(_beside(path), license=_license(path))


def _on_disk(written: str, kind: str, name: str) -> Path:
    folder = Path(name if kind == "hf" and name else written)
    if kind == "hf" and name and not folder.is_dir():
        return _of_hugging_face(name)
    if folder.is_dir():
        found = next((folder / file for file in FILES if (folder / file).is_file()), None)
        if found is None:
            raise UserError(f"{folder}: no {' and no '.join(FILES)} in this folder.")
        return found
    if not folder.is_file():
        raise UserError(f"no file {folder}; allowed: a file, a folder with {FILES[0]}, timm:NAME or hf:NAME.")
    return folder


def _license(path: Path) -> str | None:
    """As the model card beside a file names it."""
    card = path.parent / "README.md"
    if path.name not in FILES or not card.is_file():
        return None
    found = re.search(r"\A---\n(?:.*\n)*?license: *(\S+)", card.read_text(encoding="utf-8", errors="replace"))
    return found.group(1) if found else None


def _beside(path: Path) -> Described:
    """By the config.json beside a file that has the usual name."""
    config = path.parent / "config.json"
    if path.name not in FILES or not config.is_file():
        return Described()
    read = _json(config)
    if isinstance(own := read.get("encoder"), dict) and "model_type" not in read:  # exported from here
        causal = own.get("attention") == "causal"
        return Described(own.get("heads"), own.get("norm_eps"), own.get("normalization", "imagenet"), causal)
    if "architecture" in read:
        return _timm_model(read["architecture"], read.get("pretrained_cfg", {}), read.get("model_args") or {})
    pixels = path.parent / "preprocessor_config.json"
    return _hugging_face(config, read, _json(pixels) if pixels.is_file() else {})


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(read, dict):
        raise UserError(f"{path}: must hold one JSON object.")
    return read


def _hugging_face(path: Path, config: dict[str, Any], pixels: dict[str, Any]) -> Described:
    if config.get("model_type") not in HUGGING_FACE:
        raise UserError(
            f"{path}: model_type {config.get('model_type')!r} is not supported; {', '.join(HUGGING_FACE)} are."
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{path}: hidden_act {config['hidden_act']!r}: this encoder has gelu.")
    if config.get("use_swiglu_ffn"):
        raise UserError(f"{path}: its MLPs are gated (SwiGLU), which this encoder does not have.")
    known = "image_mean" in pixels and "image_std" in pixels
    normalization = _normalization(pixels["image_mean"], pixels["image_std"], str(path.parent)) if known else None
    return Described(config.get("num_attention_heads"), config.get("layer_norm_eps"), normalization)


def _timm_model(name: str, pixels: dict[str, Any], arguments: dict[str, Any]) -> Described:
    """By the model that timm builds, without memory for its weights."""
    import timm
    from timm.models.beit import Beit
    from timm.models.vision_transformer import Block, VisionTransformer

    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"timm:{name}: timm cannot build it ({error}).") from error
    if type(model) not in (VisionTransformer, Beit):
        raise UserError(f"timm:{name} is a {type(model).__name__}; timm's VisionTransformer and Beit are supported.")
    block = model.blocks[0]
    activation = getattr(block.mlp, "act", None)
    plain = isinstance(model, Beit) or (type(block) is Block and isinstance(model.norm_pre, nn.Identity))
    if not plain or not isinstance(activation, nn.GELU) or activation.approximate != "none":
        raise UserError(f"timm:{name}: its blocks are not a plain pre-norm ViT's with GELU.")
    known = "mean" in pixels and "std" in pixels
    normalization = _normalization(pixels["mean"], pixels["std"], f"timm:{name}") if known else None
    return Described(block.attn.num_heads, block.norm1.eps, normalization)


def _normalization(mean: Any, std: Any, place: str) -> str:
    found = named(tuple(mean), tuple(std))
    if found is None:
        raise UserError(
            f"{place}: pixels with mean {mean} and standard deviation {std} are none of imagenet, half and clip."
        )
    return found


def _of_timm(name: str) -> tuple[Path, Described]:
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that the architecture does not have
        cfg = None
    if cfg is None or not (cfg.hf_hub_id or isinstance(cfg.url, str)):
        released = timm.list_models(pretrained=True)
        raise UserError(f"timm:{name}: timm has no pretrained model of this name.{nearest(name, released)}")
    described = replace(_timm_model(name, {"mean": cfg.mean, "std": cfg.std}, {}), license=cfg.license)
    if cfg.hf_hub_id:
        return _download(cfg.hf_hub_id, f"timm:{name}"), described
    from timm.models._hub import download_cached_file

    assert isinstance(cfg.url, str)
    try:
        return Path(download_cached_file(cfg.url)), described
    except Exception as error:
        raise _unreachable(f"timm:{name}", error) from error


def _of_hugging_face(name: str) -> Path:
    path = _download(name, f"hf:{name}")
    for config in ("config.json", "preprocessor_config.json", "README.md"):
        try:
            _fetch(name, config)
        except Exception as error:
            if config == "config.json":
                raise _unreachable(f"hf:{name}", error) from error
    return path


def _download(repository: str, place: str) -> Path:
    from huggingface_hub.errors import RemoteEntryNotFoundError

    *others, last = FILES
    try:
        for file in others:
            with contextlib.suppress(RemoteEntryNotFoundError):
                return _fetch(repository, file)
        return _fetch(repository, last)
    except Exception as error:  # of sockets, of servers, of the disk
        raise _unreachable(place, error) from error


def _fetch(repository: str, file: str) -> Path:
    """Into Hugging Face's own cache; a file of one revision lies beside the others."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file))


def _unreachable(place: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0]
    return UserError(
        f"{place}: could not be downloaded ({type(error).__name__}: {reason}). Check the name and the network, or download it "
        "elsewhere and give its file or folder."
    )
