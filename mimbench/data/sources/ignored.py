"""What lies in a folder of images and is not used, so that nobody believes it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from mimbench.data.sources.listing import files_below, is_image

NOTES = {".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".mat", ".html", ".pdf", ".py", ".sh", ".zip",
         ".tar", ".gz", ".tgz", ""}  # files about images  # fmt: skip


def ignored(name: str, root: Path, used: Collection[Path], elsewhere: Collection[str]) -> list[str]:
    """Sentences that count them. Folders of `elsewhere` are read in another way."""
    images: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for path in files_below(root):
        place = path.relative_to(root).parts
        if place[0] in elsewhere or path in used:
            continue
        if is_image(path.name):
            images[f"{place[0]}/" if len(place) > 1 else "the folder itself"] += 1
        elif path.suffix.lower() not in NOTES:
            others[path.suffix.lower()] += 1
    found = []
    if images:
        found.append(f"{name}: {images.total()} images are not used: {_counted(images)}. Images of a class lie in its folder, "
                     "and one folder is the test split.")  # fmt: skip
    if others:
        found.append(f"{name}: {others.total()} files of other types are not read: {_counted(others)}.")
    return found


def _counted(found: Counter[str]) -> str:
    return ", ".join(
        f"{count} in {place}" if place[0] != "." else f"{count} {place}" for place, count in sorted(found.items())
    )
