"""Pages of the site that are written elsewhere: recipes from their headers, protocols from their files, the results' README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    generated = {"recipes.md": recipes(), "results.md": (ROOT / "results/README.md").read_text(encoding="utf-8")}
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    text = markdown + ("\n" + protocols() if page.file.src_uri == "protocols.md" else "")
    target = rf"[\1]({config.repo_url.rstrip('/')}/blob/main/\2)" if config.repo_url else r"`\2`"
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", target, text)


def recipes() -> str:
    """One section per recipe: what the head of its file says, and its YAML."""
    parts = ["# Recipes", "A recipe is a YAML file over parts. Each is named in a grid by `base: NAME`."]
    for path in sorted((ROOT / "configs/recipes").glob("*.yaml")) + sorted(
        (ROOT / "configs/recipes/full").glob("*.yaml")
    ):
        head, body = split_head(path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT / "configs/recipes").with_suffix("").as_posix()
        parts += [f"## {name}", head, f"```yaml\n{body}```"]
    return "\n\n".join(parts) + "\n"


def protocols() -> str:
    """One section per protocol: what the head of its file says, and its settings."""
    parts = []
    for path in sorted((ROOT / "mimbench/protocols").glob("*.yaml")):
        head, body = split_head(path.read_text(encoding="utf-8"))
        parts += [f"## {yaml.safe_load(body)['label']}", head, f"```yaml\n{body}```"]
    return "\n\n".join(parts) + "\n"


def split_head(text: str) -> tuple[str, str]:
    """The comment at the top, with differences, expected number and cost in paragraphs of their own; and the rest."""
    lines = text.splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = "".join(line.removeprefix("#").removeprefix(" ") for line in lines[:count])
    return re.sub(r"(?m)^(Differs|Expected|Should improve|Cost|Compute)", r"\n**\1**", head), "".join(lines[count:])
