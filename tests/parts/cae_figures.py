"""Figures of the official CAE, with weights and images that both sides can write down.

Its code is not part of this repository. tests/golden/cae.json comes from

    git clone https://github.com/Atten4Vis/CAE && git -C CAE checkout a7fd1628176358e3e76b0b042b0f6e9f3cd7c76c
    python tests/parts/cae_figures.py CAE > tests/golden/cae.json
"""

import contextlib
import json
import sys
import types
from argparse import Namespace

import torch
from official_figures import CODES, DEPTH, DIM, HEADS, NORM, PATCH, SIZE, filled, images, weights, written_down


def masked():
    """(2, 16), True = masked; eight of each image."""
    order = written_down("order", (2, (SIZE // PATCH) ** 2)).argsort(1)
    return torch.zeros(order.shape, dtype=torch.bool).scatter_(1, order[:, :8], True)


def cae():
    from models.modeling_cae import ContextAutoencoderViT

    args = Namespace(model_type="cae", regressor_depth=DEPTH, decoder_depth=DEPTH, decoder_embed_dim=DIM)
    model = ContextAutoencoderViT(
        SIZE, PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, qkv_bias=True, norm_layer=NORM, init_values=0.1,
        decoder_num_classes=CODES, decoder_num_heads=HEADS, args=args)  # fmt: skip
    positions = {name: getattr(module, at).tolist() for name, module, at in (
        ("encoder", model.encoder, "pos_embed"), ("decoder", model, "rd_pos_embed"))}  # fmt: skip
    fixed = ("pos_embed", "rd_pos_embed")
    kept = {name: value.clone() for name, value in model.named_parameters() if name.endswith(fixed)}
    model, shapes = filled(model)
    model.load_state_dict(kept, strict=False)
    # the alignment encoder is a copy of the encoder
    model.load_state_dict({k.replace("encoder.", "alignment_encoder.", 1): v for k, v in weights(shapes).items()
                           if k.startswith("encoder.") and not k.endswith(fixed)}, strict=False)  # fmt: skip
    own = {k: v for k, v in shapes.items() if not k.startswith("alignment_encoder.") and not k.endswith(fixed)}
    logits, latent, target = model(images(), masked())
    found = {"logits": logits, "latent": latent, "target": target}
    return {"shapes": own, "positions": positions, **{name: value.tolist() for name, value in found.items()}}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    # helpers of their training, which need versions of torch long past, and are not used by the model
    sys.modules |= {name: types.ModuleType(name) for name in ("furnace", "furnace.utils")}
    sys.modules["furnace"].utils = sys.modules["furnace.utils"]
    torch.Tensor.cuda = lambda self, *_: self  # their model moves positions to the device of its input
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):  # the model talks
        found = cae()
    print(json.dumps(found))
