"""The kind of run without training: a foreign checkpoint, named by its sha256, as the encoder of a row."""

from __future__ import annotations

from typing import Any

from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.errors import UserError
from mimbench.models.encoder import make_encoder
from mimbench.models.foreign import described, load_into, read_checkpoint
from mimbench.run.weights import keep_weights
from mimbench.runtime import Runtime
from mimbench.store.files import sha256_file
from mimbench.store.results import RunFolder, Store


def import_weights(
    store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime
) -> tuple[dict[str, Any], int]:
    path = store.imported(spec["weights"]["sha256"])
    if not path.exists() or sha256_file(path) != spec["weights"]["sha256"]:
        raise UserError(f"{path}: missing or damaged. Run the grid again: it copies the checkpoint from its file.")
    encoder = make_encoder(from_spec(EncoderConfig, spec["encoder"]), spec["size"], seed=0, masked=False)
    loaded = load_into(encoder, read_checkpoint(path))
    print(described(loaded), flush=True)
    folder.work.mkdir(exist_ok=True)
    return {
        "metrics": {}, "values": loaded, "flags": [], "parents": {},
        "weights_sha256": keep_weights(folder, encoder.state_dict()) if runtime.rank == 0 else "",
    }, 0  # fmt: skip
