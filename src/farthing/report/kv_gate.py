"""What the quality gate of KV codecs has found on the models that we measured: `data/kv_gate.json`, which
`farthing eval kv --text wiki.test.raw --json` printed."""

import json
from functools import lru_cache
from importlib import resources
from typing import Any

from farthing.kernels.codecs import CODECS, codecs_name, parse_codecs

__all__ = ["complaint"]


@lru_cache(maxsize=1)
def _measured() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("farthing.report").joinpath("data/kv_gate.json").read_text())
    return found


def complaint(model: str, kv: str) -> str | None:
    """Why one should think twice before keeping K and V of `model` in `kv` ("tq4", "q8/tq4"); None where it passed.

    Codecs of 8 bits and more are taken for safe on models that were not measured; TurboQuant's are not.
    """
    k, v = parse_codecs(kv)
    if not any(CODECS[codec].is_turboquant for codec in (k, v)):
        return None
    measured, name = _measured(), codecs_name(k, v)
    rows = [row for row in measured["codecs"] if row["codec"] == name and measured["model"] == model]
    if not rows:
        return f"{name} has not been through the quality gate on {model}: see `farthing eval kv`"
    failed = [row for row in rows if not row["passes"]]
    if not failed:
        return None
    worst = max(failed, key=lambda row: row["kl_divergence"])
    return (
        f"{name} fails the quality gate on {model}: KL divergence {worst['kl_divergence']:.4f} (allowed: under 0.01), "
        f"top-1 agreement {worst['top1_agreement']:.1%} (allowed: over 97 %) at {worst['window']:,} tokens; "
        f"{measured['cheapest_that_passes']} is the cheapest that passes"
    )
