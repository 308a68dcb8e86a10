"""An encoder as a module: of a finished run, or of a checkpoint from elsewhere."""

from __future__ import annotations

from mimbench.errors import UserError
from mimbench.models.architecture import grid_side
from mimbench.models.encoder import Encoder, make_encoder
from mimbench.models.foreign import Checkpoint, load_into, read_checkpoint
from mimbench.models.released import locate
from mimbench.run.weights import encoder_config, parent_weights
from mimbench.store.files import read_json
from mimbench.store.results import Store
from mimbench.store.weights import load_weights

LEAVE_ONE = ("pretrain", "checkpoint", "finetuned")  # kinds of run
USUAL_SIZE = 224  # of a checkpoint whose positions do not say how large its images were


def of_run(store: Store, name: str) -> Encoder:
    """In evaluation mode, with the weights that the run's result speaks of."""
    folder = store.run(name)
    if folder.kind not in LEAVE_ONE:
        raise UserError(f"{folder.path}: leaves no encoder; runs of kind {', '.join(LEAVE_ONE)} do.")
    if not folder.settled():
        raise UserError(f"{folder.path}: its weights are not there; the run is {folder.state()}.")
    spec = folder.spec()
    size = spec["recipe"]["data"]["size"] if "recipe" in spec else spec["size"]
    path, _ = parent_weights(store, name)
    state = load_weights(path)
    encoder = make_encoder(encoder_config(store, name), size, 0, drop_path=0.0, masked="mask_token" in state)
    encoder.load_state_dict(state)
    return encoder.eval()


def of_checkpoint(weights: str, size: int | None = None) -> Encoder:
    """As `pretrain: {weights: ...}` in a row names it."""
    path, described = locate(weights)
    checkpoint = read_checkpoint(path)
    config = checkpoint.encoder_config(described, {})
    if size is not None and size % config.patch:
        raise UserError(f"size: {size} is no multiple of the checkpoint's patches of {config.patch} pixels.")
    encoder = make_encoder(config, size or _own_size(checkpoint, config.patch), 0, drop_path=0.0, masked=False)
    load_into(encoder, checkpoint)
    return encoder.eval()


def _own_size(checkpoint: Checkpoint, patch: int) -> int:
    """Of the images that it was trained on, by its table of positions or the config beside it."""
    table, beside = checkpoint.tensors.get("pos_embed"), checkpoint.path.with_name("config.json")
    if table is not None:
        return grid_side(table) * patch
    config = read_json(beside) if beside.is_file() else {}
    stated = config.get("image_size") or config.get("pretrained_cfg", {}).get("input_size", [None])[-1]
    return stated if isinstance(stated, int) and stated % patch == 0 else USUAL_SIZE // patch * patch
