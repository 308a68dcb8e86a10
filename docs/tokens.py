"""What the codes of a trained dVAE keep, as a picture: images, their patches' mean colors, what the decoder makes of the codes.

python docs/tokens.py results/runs/tokenizer-0123456789ab docs/tokens.png
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from mimbench.config.schema import DataConfig, from_spec
from mimbench.data.sources import source
from mimbench.parts import PatchGrid
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.store.results import WEIGHTS, RunFolder
from mimbench.store.weights import load_weights

IMAGES, ZOOM = 12, 2


def main(run: Path, target: Path) -> None:
    folder = RunFolder(run)
    spec = folder.spec()
    data = from_spec(DataConfig, spec["data"])
    grid = PatchGrid.of(data.size, spec["patch"])
    tokenizer = make_tokenizer(spec["tokenizer"], grid, spec["seed"])
    tokenizer.load_state_dict(load_weights(folder.work / WEIGHTS))
    raw = source(data.name).load(data, "val", run.parent.parent / "cache").plain(range(IMAGES))
    with torch.no_grad():
        decoded = tokenizer.decode(tokenizer.eval()({"raw": raw}, grid), {"raw": raw}, grid)
    means = F.interpolate(F.avg_pool2d(raw, grid.patch), scale_factor=grid.patch)
    rows = torch.stack([raw, means, decoded.clamp(0, 1)])  # (3, IMAGES, 3, S, S)
    sheet = torch.cat([torch.cat([*row], dim=2) for row in rows], dim=1)
    picture = Image.fromarray((sheet.permute(1, 2, 0) * 255).round().byte().numpy())
    picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
