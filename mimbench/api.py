"""What `import mimbench` offers in Python, beside the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench.errors import UserError
from mimbench.report.data import load_results
from mimbench.store.results import Store

if TYPE_CHECKING:
    import pandas as pd

    from mimbench.models.encoder import Encoder

__all__ = ["load_encoder", "load_results", "plan"]


def load_encoder(source: str | Path, *, results: str | Path = "results", size: int | None = None) -> Encoder:
    """The encoder of a run, or of a checkpoint, ready to look at images: on the CPU, in evaluation mode.

    `source`: a run's folder, a run's name or a prefix of it (in `results`), an exported folder, or whatever else a row may
    name as `pretrain: {weights: ...}`. `size`: the side of the images that a checkpoint is to see (default: its own, or 224).
    It takes images (N, 3, S, S) in ImageNet's normalization, whatever it was trained with, and returns an `Encoded`: `patches`
    (N, patches, dim) and `cls` (N, dim).
    """
    from mimbench.run.encoder import of_checkpoint, of_run

    path = Path(source)
    if (path / "spec.json").is_file():
        return of_run(Store(path.absolute().parent.parent), path.absolute().name)
    if path.exists() or ":" in str(source):
        return of_checkpoint(str(source), size)
    from mimbench.launch.state import find_run

    store = Store(results)
    if not store.runs.is_dir():
        raise UserError(f"{source}: no such folder or file, and {store.root} holds no runs; name it with results=.")
    return of_run(store, find_run(store, str(source)).name)


def plan(
    grid: str | Path,
    *,
    scale: str | None = None,
    data: str | None = None,
    seeds: int | None = None,
    only: Sequence[str] = (),
    protocols: Sequence[str] = (),
    sets: Sequence[str] = (),
    results: str | Path = "results",
) -> pd.DataFrame:
    """What a grid computes: one line per row, seed and kind of run, with FLOPs and whether it is done. Computes nothing.

    The arguments are the options of `mimbench plan`. Rows share runs: count each `run` once.
    """
    import dataclasses

    import pandas as pd

    from mimbench.config.grid import load_grid
    from mimbench.plan.estimate import flops_of, seconds_by_run
    from mimbench.plan.graph import make_plan
    from mimbench.run.flops import add_flops

    loaded = load_grid(str(grid), scale=scale, data=data, seeds=seeds, only=tuple(only), sets=tuple(sets))
    made, store = make_plan(dataclasses.replace(loaded, only_protocols=tuple(protocols))), Store(results)
    add_flops(made, store)
    left = seconds_by_run(made, store)
    lines = [
        {"grid": loaded.name, "scale": loaded.scale, "row": row, "seed": seed, "kind": kind, "run": run, "done": run not in left,
         "flops": flops_of(made.runs[run], made), "seconds_left": left.get(run, 0.0)}
        for row, by_seed in made.rows.items() for seed, runs in by_seed.items() for kind, run in runs.items()
    ]  # fmt: skip
    return pd.DataFrame(lines)
