"""The kind of run without training: a foreign checkpoint, named by its sha256, as the encoder of a row."""

from __future__ import annotations

from typing import Any

from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.models.encoder import make_encoder
from mimbench.models.foreign import described, load_into, read_checkpoint
from mimbench.run.weights import imported, keep_weights
from mimbench.runtime import Runtime
from mimbench.store.results import RunFolder, Store


def import_weights(
    store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime
) -> tuple[dict[str, Any], int]:
    sha256 = spec["weights"]["sha256"]
    path = imported(store, sha256)
    encoder = make_encoder(from_spec(EncoderConfig, spec["encoder"]), spec["size"], seed=0, masked=False)
    loaded = load_into(encoder, read_checkpoint(path))
    print(described(loaded), flush=True)
    folder.work.mkdir(exist_ok=True)
    return {
        "metrics": {}, "values": {**loaded, "origin": store.origin(sha256)}, "flags": [], "parents": {},
        "weights_sha256": keep_weights(folder, encoder.state_dict()) if runtime.rank == 0 else "",
    }, 0  # fmt: skip
