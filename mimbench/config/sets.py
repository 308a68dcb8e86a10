"""The --set options."""

from __future__ import annotations

import itertools
from typing import Any

import yaml

from mimbench.config.merge import holders, parse, put
from mimbench.config.schema import PART_KINDS, RECIPE_KEYS
from mimbench.errors import UserError

Layer = dict[str, Any]


def parse_sets(sets: tuple[str, ...]) -> tuple[dict[str, dict[str, Any]], list[Layer]]:
    """The --set options: settings of protocols, and layers of the recipe."""
    settings: dict[str, dict[str, Any]] = {}
    layers: list[Layer] = []
    for text in sets:
        key, sign, written = text.partition("=")
        if not sign or not key:
            raise UserError(f"--set {text}: must be written key.path=value.")
        try:
            value = parse(written)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text}: the value is not readable as YAML.") from error
        first, _, rest = key.partition(".")
        if first == "protocols":
            protocol, _, setting = rest.partition(".")
            if not (protocol and setting):
                raise UserError(
                    f"--set {text}: a setting of a protocol is written protocols.NAME.KEY=VALUE; to run some of the grid's "
                    "protocols only, use --protocols A,B."
                )
            settings.setdefault(protocol, {})[setting] = value
        else:
            layers.append({})
            put(layers[-1], key, value, "--set", (*RECIPE_KEYS, "protocols"))
    return settings, [_types(layers), *layers]


def _types(layers: list[Layer]) -> Layer:
    """The types of parts that --set chooses: merged first, since an argument may stand before its type."""
    types: Layer = {}
    for prefix, holder in itertools.chain.from_iterable(map(holders, layers)):
        for kind in PART_KINDS:
            part = holder.get(kind)
            name = part.get("type") if isinstance(part, dict) else part
            if isinstance(name, str):
                put(types, ".".join((*prefix, kind)), {"type": name}, "--set", RECIPE_KEYS)
    return types
