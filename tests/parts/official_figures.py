"""Figures of the official models of BEiT, MAE and SimMIM, with weights and images that both sides can write down.

Their code is not part of this repository. tests/golden/official.json comes from

    git clone https://github.com/microsoft/unilm && git -C unilm checkout 768a3c873f598bb9b4d4dfb9267b099e35f8fe56
    git clone https://github.com/facebookresearch/mae && git -C mae checkout efb2a8062c206524e35e47d04501ed4f544c0ae8
    git clone https://github.com/microsoft/SimMIM && git -C SimMIM checkout d3e29bcac950b83edc34ca33fe4404f38309052c
    sed -i 's/qk_scale=None, //' mae/models_mae.py         # timm's block has no such argument any more
    sed -i 's/np.float)/float)/' mae/util/pos_embed.py    # numpy has no such name any more
    python tests/parts/official_figures.py unilm/beit mae SimMIM > tests/golden/official.json
"""

import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

SIZE, PATCH, DIM, DEPTH, HEADS, CODES = 32, 8, 16, 2, 2, 11
NORM = partial(nn.LayerNorm, eps=1e-6)


def written_down(name, shape):
    """Weights, images and noise as a function of their name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def weights(shapes):
    """Of every parameter by its official name: small, and LayerNorm's scale around one."""
    scale_of_norm = lambda name: "norm" in name and name.endswith("weight")
    return {name: 0.2 * written_down(name, shape) + scale_of_norm(name) for name, shape in shapes.items()}


def images():
    return written_down("images", (2, 3, SIZE, SIZE))


def masked():
    """(2, 16), True = masked; the first image has five masked patches, the second seven."""
    found = torch.zeros(2, (SIZE // PATCH) ** 2, dtype=torch.bool)
    found[0, [0, 3, 7, 9, 14]] = found[1, [1, 2, 5, 6, 10, 11, 15]] = True
    return found


def filled(model):
    shapes = {name: list(value.shape) for name, value in model.named_parameters()}
    model.load_state_dict(weights(shapes), strict=False)
    return model.eval(), shapes


def beit(relative):
    from modeling_pretrain import VisionTransformerForMaskedImageModeling

    model, shapes = filled(
        VisionTransformerForMaskedImageModeling(
            SIZE, PATCH, vocab_size=CODES, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, norm_layer=NORM,
            use_abs_pos_emb=not relative, use_shared_rel_pos_bias=relative, init_values=0.1 if relative else None)
    )  # fmt: skip
    return {"shapes": shapes, "logits": model(images(), masked()).tolist()}


def beit_finetuned():
    from modeling_finetune import VisionTransformer

    model, shapes = filled(
        VisionTransformer(SIZE, PATCH, num_classes=0, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, norm_layer=NORM,
                          qkv_bias=True, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1)
    )  # fmt: skip
    return {"shapes": shapes, "pooled": model(images()).tolist()}


def mae():
    from models_mae import MaskedAutoencoderViT

    model = MaskedAutoencoderViT(SIZE, PATCH, 3, DIM, DEPTH, HEADS, 8, 1, HEADS, norm_layer=NORM, norm_pix_loss=True)
    positions = {name: getattr(model, name).tolist() for name in ("pos_embed", "decoder_pos_embed")}
    model, shapes = filled(model)
    for name, value in positions.items():
        shapes.pop(name)
        getattr(model, name).data = torch.tensor(value)
    with mock.patch("torch.rand", lambda *shape, **_: written_down("noise", shape)):
        loss, _, hidden = model(images(), mask_ratio=0.75)
    return {"shapes": shapes, "loss": float(loss), "masked": hidden.tolist()}


def simmim():
    from models.simmim import SimMIM, VisionTransformerForSimMIM

    encoder = VisionTransformerForSimMIM(
        img_size=SIZE, patch_size=PATCH, num_classes=0, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, qkv_bias=True,
        norm_layer=NORM, init_values=0.1, use_abs_pos_emb=False, use_shared_rel_pos_bias=True, use_mean_pooling=False)  # fmt: skip
    model, shapes = filled(SimMIM(encoder, encoder_stride=PATCH))
    grid = masked().view(2, SIZE // PATCH, SIZE // PATCH).float()
    return {"shapes": shapes, "loss": float(model(images(), grid))}


if __name__ == "__main__":
    with torch.no_grad():
        sys.path[:0] = map(str, map(Path.absolute, map(Path, sys.argv[1:])))
        found = {"beit": beit(relative=False), "beit_relative": beit(relative=True), "beit_finetuned": beit_finetuned(),
                 "mae": mae(), "simmim": simmim()}  # fmt: skip
    print(json.dumps(found))
