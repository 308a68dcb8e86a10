"""The encoder of a subject: one that a run left, or a checkpoint from elsewhere."""

from __future__ import annotations

from mimbench.config.schema import DataConfig
from mimbench.models.architecture import grid_side
from mimbench.models.encoder import Encoder, make_encoder
from mimbench.models.foreign import Checkpoint, load_into, read_checkpoint
from mimbench.models.released import locate
from mimbench.run.objective import finished_encoder
from mimbench.show.images import run_data
from mimbench.show.subject import TRAINED, Subject

USUAL_SIZE = 224  # of a checkpoint whose positions do not say how large its images were


def encoder_of(subject: Subject, given: str | None) -> tuple[Encoder, DataConfig]:
    """In eval mode, and the images that suit it. `given`: others than those that it was trained on."""
    if subject.weights:
        encoder, size = _foreign(subject.weights)
        return encoder, DataConfig(name=given or DataConfig.name, size=size)
    folder = subject.finished(TRAINED, "encoder: nothing was pre-trained")
    spec = folder.spec()
    if folder.kind == "pretrain":
        return finished_encoder(subject.store, folder.name), run_data(spec, given)
    return finished_encoder(subject.store, folder.name), DataConfig(name=given or DataConfig.name, size=spec["size"])


def _foreign(weights: str) -> tuple[Encoder, int]:
    path, described = locate(weights)
    checkpoint = read_checkpoint(path)
    config = checkpoint.encoder_config(described, {})
    size = _size(checkpoint, config.patch)
    encoder = make_encoder(config, size, 0, drop_path=0.0, masked=False)
    load_into(encoder, checkpoint)
    return encoder.eval(), size


def _size(checkpoint: Checkpoint, patch: int) -> int:
    """Of the images that it was trained on, by its table of positions."""
    table = checkpoint.tensors.get("pos_embed")
    return USUAL_SIZE // patch * patch if table is None else grid_side(table) * patch
