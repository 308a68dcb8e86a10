"""A results folder with known numbers, for the tests of the report. Written as runs write it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from mimbench.store.files import fingerprint, write_atomically
from mimbench.store.records import GRID_FORMAT, write_record
from mimbench.store.results import RunFolder, Store, run_name

FINETUNE = {"name": "finetune", "version": 1, "settings": {"epochs": 20, "rates": [0.001, 0.002, 0.004]}}
KNN = {"name": "knn", "version": 1, "settings": {"k": 10}}
FACTS = {"git": {"sha": "0123456789abcdef", "dirty": False}, "versions": {"torch": "2.13.0", "timm": "1.0.31"},
         "host": "node1", "world": 1, "cpu": "a processor", "threads": 1}  # fmt: skip
NOTE = "The data was made so that pre-training helps: this shows that the **bench** works, not that `BEiT` does."


def protocol(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    filled = {**base, "settings": {**base["settings"], **settings}}
    return {**filled, "fingerprint": fingerprint(filled)}


def column(base: dict[str, Any], label: str, metric: str = "accuracy", unit: str = "%") -> dict[str, Any]:
    return {"protocol": base["name"], "label": label, "metric": metric, "unit": unit,
            "fingerprint": protocol(base)["fingerprint"]}  # fmt: skip


def planned(store: Store, kind: str, *key: Any) -> RunFolder:
    """A run that has only its spec."""
    spec = {"kind": kind, "key": list(key)}
    run = store.run(run_name(spec))
    run.create(spec)
    return run


def finish(run: RunFolder, result: dict[str, Any], seconds: float = 10.0, images: int = 100, **facts: Any) -> RunFolder:
    write_record(run.path / "attempts" / "20260102T030405.000000001-node1-7.json", {**FACTS, **facts})
    cost = {"seconds": seconds, "images": images, "peak_memory_bytes": 2**28, "device": "cpu", "host": "node1", "world": 1,
            "energy_joules": None}  # fmt: skip
    run.finish({"kind": run.kind, "version": 1, "flags": [], "values": {}, **result}, cost)
    return run


def evaluation(base: dict[str, Any], value: float, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    return {"metric": metric, "metrics": {metric: value}, "protocol": protocol(base),
            "data": {"name": "shapes", "fingerprint": "d" * 12}, **more}  # fmt: skip


def write_grid(store: Store, rows: list[dict[str, Any]], columns: list[dict[str, Any]], seeds: list[int],
               primary: dict[str, str] | None = None, /, **more: Any) -> None:  # fmt: skip
    base = rows[0]
    full = [{"label": row["name"], "description": "", "paper": None, "reference": base["name"], **row} for row in rows]
    grid = {"format": GRID_FORMAT, "name": "demo", "scale": "tiny", "title": "A small demonstration", "note": NOTE,
            "config": "configs/demo.yaml", "base": base["name"], "base_label": full[0]["label"], "primary": primary,
            "seeds": seeds, "columns": columns, "rows": full, **more}  # fmt: skip
    write_record(store.grid_path("demo", "tiny"), grid)


def simple(store: Store, numbers: dict[str, list[float]], primary: dict[str, str] | None = None, **more: Any) -> Store:
    """Rows with fine-tuning accuracies, one per seed."""
    rows = []
    for name, values in numbers.items():
        runs = {}
        for seed, value in enumerate(values):
            run = finish(planned(store, "finetune", name, seed), evaluation(FINETUNE, value))
            runs[str(seed)] = {"finetune": run.name}
        rows.append({"name": name, "label": name.upper(), "description": f"the row {name}", "runs": runs})
    seeds = list(range(max(map(len, numbers.values()))))
    write_grid(store, rows, [column(FINETUNE, "Fine-tune")], seeds, primary, **more)
    return store


ROWS = {
    "beit": ("BEiT", "dVAE tokens, block-wise masking", "BEiT ablation: full (300 ep)", 60.0),
    "no_blockwise": ("− block-wise", "dVAE tokens, random masking", "BEiT ablation: w/o blockwise masking", 59.5),
    "no_tokens": ("− tokens", "pixels, block-wise masking",
                  "BEiT ablation: w/o visual tokens (recover masked pixels)", 55.0),
    "neither": ("− both", "pixels, random masking", "BEiT ablation: w/o visual tokens, w/o blockwise masking", 54.0),
    "all_tokens": ("+ recover 100 %", "dVAE tokens at all positions",
                   "BEiT ablation: + recover 100% visual tokens", 58.0),
    "scratch": ("Scratch", "no pre-training", None, 45.0),
}  # fmt: skip
PROTOCOLS = {
    "finetune": ("Fine-tune", "accuracy", 0.0), "linear_probe": ("Linear probe", "accuracy", -12.0),
    "knn": ("kNN", "accuracy", -18.0), "segmentation": ("Segmentation", "miou", -25.0),
}  # fmt: skip


def rich(store: Store, seeds: int = 3) -> Store:
    """A grid like the real one: shared tokenizers, curves, sweeps, flags, published numbers, unfinished cells."""
    draw = random.Random(0)
    rows = []
    columns = [column({"name": p, "version": 1, "settings": {}}, *v[:2]) for p, v in PROTOCOLS.items()]
    for name, (label, description, paper, level) in ROWS.items():
        runs: dict[str, dict[str, str]] = {}
        for seed in range(seeds):
            own = runs.setdefault(str(seed), {})
            if name != "scratch":
                if "pixels" not in description:
                    own["tokenizer"] = _tokenizer(store, seed).name
                own["pretrain"] = _pretrain(store, name, seed, draw).name
            for kind, (_, metric, shift) in PROTOCOLS.items():
                run = planned(store, kind, name, seed)
                own[kind] = run.name
                if name == "all_tokens" and seed == 2:
                    _leave_unfinished(run, kind)
                    continue
                base = {"name": kind, "version": 1, "settings": {}}
                value = round(level + shift + draw.gauss(0, 0.8) + 0.3 * seed, 2)
                raw = {"values": _values(kind, value, draw), "flags": _flags(name, kind)}
                finish(run, evaluation(base, value, metric, **raw), draw.uniform(20, 90), images=50_000)
        rows.append({"name": name, "label": label, "description": description,
                     "paper": {"method": paper} if paper else None, "runs": runs})  # fmt: skip
    write_grid(store, rows, columns, list(range(seeds)), {"row": "scratch", "protocol": "finetune"},
               title="BEiT's token-against-pixel ablation")  # fmt: skip
    return store


def _tokenizer(store: Store, seed: int) -> RunFolder:
    run = planned(store, "tokenizer", seed)
    flags = ["not usable as a tokenizer: perplexity 3.1 of 64 codes"] if seed == 1 else []
    if not run.done():
        finish(run, {"metrics": {"perplexity": 40.0}, "flags": flags, "weights_sha256": f"tokenizer {seed}"})
    return run


def _pretrain(store: Store, name: str, seed: int, draw: random.Random) -> RunFolder:
    run = planned(store, "pretrain", name, seed)
    lines = [f"{step},{4.0 * (1 + step / 300) ** -0.5 + draw.gauss(0, 0.05):.4f},0.001" for step in range(0, 2000, 5)]
    write_atomically(run.path / "curve.csv", "step,loss,lr\n" + "\n".join(lines) + "\n")
    return finish(
        run, {"metrics": {"loss": 1.5}, "weights_sha256": name}, seconds=draw.uniform(80, 120), images=120_000
    )


def _leave_unfinished(run: RunFolder, kind: str) -> None:
    if kind == "finetune":
        run.fail(run.begin_attempt(FACTS), RuntimeError("the loss is not finite"))
    elif kind == "knn":
        write_atomically(run.path / "result.json", '{"metric": "acc')


def _values(kind: str, value: float, draw: random.Random) -> dict[str, Any]:
    if kind == "linear_probe":
        by_layer = [{"layer": k, "val": value - (k - 4) ** 2 * 0.8 + draw.gauss(0, 0.3)} for k in range(6)]
        return {"by_layer": by_layer, "chosen": {"layer": 4, "pooling": "class_token"}}
    if kind in ("finetune", "segmentation"):
        rates = (0.001, 0.002, 0.004)
        return {"by_lr": {str(r): {"val": value - (3 - k) * 1.5} for k, r in enumerate(rates)}, "chosen": {"lr": 0.004}}
    return {}


def _flags(name: str, kind: str) -> list[str]:
    if kind == "finetune" and name in ("beit", "scratch"):
        return ["the best learning rate 0.004 is the highest tried"]
    return []


def demo(root: Path) -> Store:
    return rich(Store(root))
