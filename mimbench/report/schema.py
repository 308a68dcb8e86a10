"""The shape of a result: what every reader of one may take for granted."""

from __future__ import annotations

import math
from typing import Any

from mimbench.kinds import PROTOCOLS

RESULT = {"kind": str, "version": int, "metrics": dict, "values": dict, "flags": list}
EVALUATION = {"metric": str, "protocol": dict, "data": dict}
PROTOCOL = {"name": str, "version": int, "fingerprint": str, "settings": dict}


def schema_problems(kind: str, spec: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """One sentence for each field that is missing, has another type, or contradicts the spec."""
    fields = {**RESULT, **EVALUATION} if kind in PROTOCOLS else RESULT
    problems = _of_type(result, fields, "result")
    if problems:
        return problems
    if result["kind"] != spec["kind"]:
        problems.append(f"result.kind is '{result['kind']}', that of the spec '{spec['kind']}'")
    for name, value in result["metrics"].items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            problems.append(f"result.metrics.{name} is no finite number")
    for role, used in result.get("parents", {}).items():
        if not (isinstance(used, dict) and "run" in used and ("weights_sha256" in used or "pooling" in used)):
            problems.append(f"result.parents.{role} does not say which run it was, and what was taken from it")
    if kind in PROTOCOLS:
        problems += _of_type(result["protocol"], PROTOCOL, "result.protocol")
        problems += _of_type(result["data"], {"name": str, "fingerprint": str}, "result.data")
        if result["metric"] not in result["metrics"]:
            problems.append(f"result.metrics has no '{result['metric']}', its metric")
        if "protocol" in spec and result["protocol"] != spec["protocol"]:
            problems.append("result.protocol is not that of the spec")
    return problems


def _of_type(value: dict[str, Any], fields: dict[str, type], place: str) -> list[str]:
    return [f"{place}.{name} is missing or no {kind.__name__}" for name, kind in fields.items()
            if not isinstance(value.get(name), kind)]  # fmt: skip
