"""The table of facts planted by hand, from results/planted.json."""

from __future__ import annotations

from typing import Any

from cells import results

from expunge.report.leaderboard import table

HEADS = {"neuron": "6 facts in neurons", "head": "1 in a head", "expert": "6 in experts"}


def page() -> str:
    """By method: the place found, whether the fact is gone, and how many others stay; by what held the fact."""
    found = results("planted")
    lines = []
    for name, tried in found["methods"].items():
        line = {"method": f"`{name}`", "kind": tried["kind"],
                "finds by itself": f"is told the {tried['given']}" if tried["given"] != "-" else tried["finds"]}
        lines.append(line | {head: _cell(tried, kind) for kind, head in HEADS.items()})
    reasons = {name: tried["expert"] for name, tried in found["methods"].items() if isinstance(tried["expert"], str)}
    refused = [f"- {', '.join(f'`{n}`' for n in reasons if reasons[n] == why)}: {why}"
               for why in dict.fromkeys(reasons.values())]
    traced = "; ".join(f"ten facts of block {block} together: " + ", ".join(f"{effect:.1g}" for effect in effects_L)
                       for block, effects_L in found["traced"].items())
    latent = _cell({"latent": found["latent"], "finds": "latent"}, "latent")
    return "\n".join([table(lines, list(lines[0])).rstrip(), "",
                      f"`sae_guided`, in the latents of an autoencoder made by hand, 6 facts: {latent}.", "",
                      "Refused on the model with experts:", "", *refused, "",
                      f"Effects that causal tracing (`null_space`) gives blocks 0 to 3, {traced}."])


def _cell(tried: dict[str, Any], kind: str) -> str:
    rows = tried[kind]
    if isinstance(rows, str):
        return "refused"
    hits = sum(r["block_found" if tried["finds"] == "block" else "found"] for r in rows)
    kept = sorted(r["kept"] for r in rows)
    return ", ".join([*([] if tried["finds"] == "-" else [f"found {hits}"]), f"gone {sum(r['removed'] for r in rows)}",
                      f"kept {kept[0]}" + (f" to {kept[-1]}" if kept[-1] > kept[0] else "")])
