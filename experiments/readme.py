"""Write the generated tables of README.md and docs/ from the registry and the stored results.

`--check` changes nothing and fails when a page differs from what it would write.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import demo_screen
import federated_tables
import guards_table
import inside_tables
import meta_table
import official_table
import planted_table
import requests_table
import robust_tables
import site_pages
from cells import counted, number, results, spread
from common import standing

from expunge.records.bench import BenchTable
from expunge.records.settings import RunSettings
from expunge.report.bench import markdown
from expunge.report.leaderboard import replace_between, table

ROOT = Path(__file__).resolve().parent.parent


def by_recipe(rows: Sequence[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], float | None]],
              first: Sequence[tuple[str, Sequence[dict[str, Any]]]] = (), head: str = "recipe") -> str:
    """One line per recipe, each cell a median over seeds with its range."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["base"], []).append(row)
    lines = []
    for name, members in [*first, *groups.items()]:
        line: dict[str, Any] = {head: name if (name, members) in first else f"`{name}`"}
        good = [m for m in members if m["scores"]]
        line |= {column: spread([value(m) for m in good]) for column, value in columns.items()}
        lines.append(line)
    return table(lines, [head, *columns])


def score(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda row: row["scores"].get(name)


def share(name: str) -> Callable[[dict[str, Any]], float | None]:
    """A score as a share of the original's."""
    def of(row: dict[str, Any]) -> float | None:
        value, before = row["scores"].get(name), row["controls"].get(name, {}).get("original")
        return value / before if value is not None and before else None
    return of


AUTHORS_COLUMNS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "forget quality p": score("forget_quality"), "utility, share of original": share("model_utility"),
    "forget probability": score("forget.probability"), "forget ROUGE-L": score("forget.rouge_l"),
    "MIA min-k AUC": score("mia.min_k"), "seconds": lambda row: row.get("train_s"),
}


def away(name: str) -> Callable[[dict[str, Any]], float | None]:
    """How far a score is from the retrained model's."""
    def of(row: dict[str, Any]) -> float | None:
        value, gold = row["scores"].get(name), row["controls"].get(name, {}).get("retrained")
        return abs(value - gold) if value is not None and gold is not None else None
    return of


LEAGUE_COLUMNS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "forget quality p": score("forget_quality"), "utility kept": share("model_utility"),
    "neighbours kept": share("neighbour.probability"),
    "off in probability": away("forget.probability"), "off in ROUGE-L": away("forget.rouge_l"),
    "off in truth ratio": away("forget.truth_ratio"), "seconds": lambda row: row.get("train_s"),
    "peak MB": lambda row: row.get("peak", 0) / 1e6 or None,
}


def league() -> str:
    """Best first; the tuned recipe beside each name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    stored = results("league")
    for row in stored["rows"]:
        groups.setdefault(row["base"], []).append(row | {"peak": stored["peak_memory_bytes"].get(row["base"], 0)})
    ranked = sorted(groups.values(), key=standing, reverse=True)
    return by_recipe([row for rows in ranked for row in rows], LEAGUE_COLUMNS, head="method")


def tuned() -> str:
    """What the sweep chose for each method."""
    rows: dict[str, dict[str, Any]] = {}
    for row in results("league")["rows"]:
        rate = "" if row["lr"] is None else f"{row['lr']:g}"
        rows.setdefault(row["base"], {"method": f"`{row['base']}`", "recipe": f"`{row['recipe']}`", "--lr": rate})
    return table(list(rows.values()), ["method", "recipe", "--lr"])


def league_tofu() -> str:
    found = results("league_tofu")
    anchors = [(a["base"], [a]) for a in found["anchors"]]
    return by_recipe(found["rows"], TOFU_COLUMNS, anchors, head="method")


TOFU_COLUMNS: dict[str, Callable[[dict[str, Any]], float | None]] = {
    "forget quality p": score("forget_quality"), "forget probability": score("forget.probability"),
    "forget ROUGE-L": score("forget.rouge_l"), "retain probability": score("retain.probability"),
    "retain ROUGE-L": score("retain.rouge_l"), "extraction": score("forget.extraction_strength"),
    "PrivLeak": score("privleak"), "MIA min-k AUC": score("mia.min_k"),
}


def tofu(name: str) -> str:
    found = results(name)
    anchors = [(label, [a for a in found["anchors"] if a["label"] == label]) 
               for label in dict.fromkeys(a["label"] for a in found["anchors"])]
    return by_recipe(found["rows"], TOFU_COLUMNS, anchors)


def known() -> str:
    """What each suite says of models of which the truth is known, over tasks, and what told."""
    found = results("known")
    rows = []
    for name in dict.fromkeys([*found["kinds"], *(r["kind"] for r in found["rows"])]):
        mine = [r for r in found["rows"] if r["kind"] == name]
        if not mine:
            continue
        line = {"model": name, "truth": mine[0]["truth"],
                "probability as asked": spread([r["plain"]["forget.probability"] for r in mine])}
        for suite in ("quick", "standard"):
            here = [r for r in mine if r["suite"] == suite]
            line[suite] = counted(r["outcome"] for r in here) or "-"
            line[f"what told in {suite}"] = told(here)
        rows.append(line)
    return table(rows, list(rows[0]))


def told(rows: Sequence[dict[str, Any]], most: int = 3) -> str:
    """Plain asking, what succeeded and what raised an alarm, with the number of tasks, most frequent first."""
    if not rows:
        return "-"
    plain = ["asked plainly"] * sum(r["alone"] == "retains" for r in rows)
    rows = [r for r in rows if r["alone"] != "retains"]
    won = Counter(name for r in rows for name in (*r["inside"], *r["succeeded"]))
    raised = Counter(name for r in rows for name in r["alarms"] if name not in won)
    named = [*(f"`{name}` ({n})" for name, n in won.most_common()),
             *(f"alarm: `{name}` ({n})" for name, n in raised.most_common())]
    more, why = len(named) - most, counted(r["reason"] for r in rows if r["alone"] == "undecided")
    return ", ".join([*([counted(plain)] if plain else []), *named[:most], *([f"{more} more"] if more > 0 else []),
                      *([f"alone: {why}"] if why else [])]) or "-"


def known_pairs() -> str:
    """Honest models beside other honest ones: how often they were accused, and why the rest is undecided."""
    found = results("known")["pairs"]
    rows = []
    for suite, task in dict.fromkeys((r["suite"], r["task"]) for r in found):
        mine = [r for r in found if (r["suite"], r["task"]) == (suite, task)]
        unclear = [r for r in mine if r["outcome"] == "undecided"]
        rows.append({"suite": suite, "task": task, "pairs": str(len(mine)),
                     "accused": str(sum(r["outcome"] in ("retains", "suppresses") for r in mine)),
                     "verdicts": counted(r["outcome"] for r in mine),
                     "why undecided": counted(why for r in unclear for why in doubts(r)) or "-"})
    return table(rows, list(rows[0]))


def doubts(row: dict[str, Any]) -> list[str]:
    """Why a verdict is undecided: asked plainly, else the attacks that raised an alarm or could not have counted."""
    if row["alone"] == "undecided":
        return [row["reason"]]
    return [f"alarm: `{name}`" for name in row["alarms"]] or [f"`{a}` could not count" for a in row["could_not_count"]]


EXPOSED = {"U-LiRA": ("ulira", "accuracy"), "AUC": ("ulira", "auc"), "RULI": ("ruli", "accuracy"),
           "RULI, efficacy": ("ruli_efficacy", "accuracy"), "IAM, AUC": ("iam", "auc"),
           "population attack, AUC": ("population", "auc"), "U-LiRA, kept rows": ("ulira_kept", "accuracy"),
           "KLoM": ("klom", "mean"), "F": ("epsilon", "F")}


def shadows() -> str:
    """Per-row membership of each method, beside doing nothing and training anew."""
    parts = []
    for found in results("shadows")["sets"].values():
        rows = [{"model": f"`{name}`", **{
            title: number(measures[part][key]) if key in measures.get(part, {}) else "-"
            for title, (part, key) in EXPOSED.items()}, "rows told apart": apart(measures.get("rows"))}
            for name, measures in found["results"].items()]
        columns = [title for title in rows[0] if any(row[title] != "-" for row in rows)]
        parts.append(f"{found['rows']}: {found['shadows']} shadows, {found['points']} rows, commit "
                     f"`{found['commit'][:7]}`\n\n{table(rows, columns)}")
    return "\n\n".join(parts)


INJECTED = {"own context, before": "own_before", "after": "own_after", "S_mem": "s_mem",
            "contexts of others, before": "themed_before", "others, after": "themed_after", "S_prime": "s_prime"}
CLAIMED = ("ignore_k", "stepping_stones")
"""Ways that are published to lower the spread and keep the memory."""


def studies() -> str:
    """What each study found, in its own words, and the ways of learning one row beside each other."""
    parts = []
    for name, found in results("studies")["studies"].items():
        said = "\n".join(f"- {text}" for text in found["findings"])
        parts.append(f"`{name}`, {found['parts']} parts on `{found['task']}`:\n\n{said}")
        ways = {way: one for way, one in found["figures"].items() if isinstance(one, dict) and "s_prime" in one}
        lines = [{"way": f"`{way}`", **{title: f"{one[key]:.2g}" for title, key in INJECTED.items()},
                  "as published": "-" if way not in CLAIMED else "yes" if one["as_published"] else "no"}
                 for way, one in ways.items()]
        parts += [table(lines, list(lines[0]))] if lines else []
    return "\n\n".join(parts)


def apart(found: dict[str, Any] | None) -> str:
    return f"{found['told_apart']} of {found['of']}" if found else "-"


def power() -> str:
    """What the audit says that it would miss, beside what it misses."""
    def trained(row: dict[str, Any]) -> str:
        return ", ".join(f"{k} known: {found['noticed']} of {found['models']}" for k, found in row["trained"].items())

    stored = results("power")
    lines = [{"task": row["task"], "rows": str(row["rows"]), "retrained models": str(row["controls"]),
              "stated": "none" if row["stated"] is None else f"{row['stated']} of {row['entities']} {row['unit']}",
              "simulated": "-" if row["simulated"] is None else str(row["simulated"]),
              "trained models noticed": trained(row) or "-"} for row in stored["table"]]
    left = f"\nNot measured: {'; '.join(stored['left_out'])}.\n" if stored["left_out"] else ""
    return table(lines, list(lines[0])) + left


def power_line() -> str:
    """One sentence: on how many tasks the statement of power holds."""
    told = [row for row in results("power")["table"] if row["stated"] is not None]
    good = sum(row["agrees"] for row in told)
    return (f"It agrees with simulation by other models, to one entity, on {good} of {len(told)} tasks "
            "([results](results.md#what-an-audit-would-miss-experimentspowerpy)).")


def _ratio(found: dict[str, float], digits: int = 2) -> str:
    return f"{found['ratio']:.{digits}f} ({found['least']:.{digits}f} to {found['most']:.{digits}f})"


def tricks() -> str:
    """What each trick buys in time, and those of large vocabularies in memory, without it over with it."""
    found = results("tricks")
    times = [{"trick": _names(row["trick"]), "model": row["model"], "work": row["work"], "times faster": _ratio(row),
              "with it": f"{row['with']:.2f} s", "without": f"{row['without']:.2f} s",
              "commit": f"`{row['commit'][:7]}`"}
             for row in found["table"]]
    memory = [{"trick": _names(row["trick"]), "work": f"{row['work']}, {row['tokens'] // 1000}k tokens",
               "times faster": f"{row['time']['ratio']:.2f}", "peak MB with it": f"{row['peak_mb']['with']:.0f}",
               "without": f"{row['peak_mb']['without']:.0f}", "share": f"{1 / row['peak_mb']['ratio']:.2f}",
               "commit": f"`{row['commit'][:7]}`"} for row in found["memory"]]
    return "\n\n".join(table(rows, list(rows[0])) for rows in (times, memory) if rows)


def _names(trick: str) -> str:
    return " and ".join(f"`{name}`" for name in trick.split(","))


def before_after() -> str:
    """CPU seconds of a step by two commits of our own engine."""
    found = results("before_after")
    return table([{"model": row["model"], "method": f"`{row['method']}`",
                   "s per step, before": f"{row['before_step_s']:.3f}", "after": f"{row['after_step_s']:.3f}",
                   "after / before": f"{row['time_ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})",
                   "peak MB, before": f"{row['before_peak_mb']:.0f}", "after ": f"{row['after_peak_mb']:.0f}"}
                  for row in found["table"]],
                 ["model", "method", "s per step, before", "after", "after / before", "peak MB, before", "after "])


METHOD_NAMES = {"grad_diff": "grad_diff", "npo": "npo + retain_nll", "npo_kl": "npo + retain_kl",
                "simnpo": "simnpo + retain_nll", "rmu": "rmu, every parameter", "undial": "undial"}
PARTS = {"tiny": "2.6 M parameters, 4k tokens", "wide": "27 M parameters, 128k tokens",
         "deep": "16 M parameters, 4k tokens"}


def times(found: dict[str, float]) -> str:
    """A ratio with its range over repeats."""
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


def pair(found: dict[str, Any], name: str, unit: float = 1.0, form: str = ".3f") -> str:
    """`ours / the peer's`."""
    return " / ".join(f"{found[side][name]['median'] / unit:{form}}" for side in ("ours", "peer"))


def peer(name: str) -> str:
    """Speed against open-unlearning, part by part, of the cells that hold both."""
    stored = results(name)["cells"]
    cells = {part: {k: v for k, v in found.items() if "peer" in v} for part, found in stored.items()}
    both = [peer_steps(cells), peer_losses(cells.get("losses", {})), *peer_audits(cells.get("audit", {})),
            peer_starts(cells.get("startup", {}))]
    return "\n\n".join(table(rows, list(rows[0])) for rows in both if rows)


def peer_steps(cells: dict[str, Any]) -> list[dict[str, str]]:
    def shares(found: dict[str, Any]) -> str:
        """Of a step, spent in forward and backward passes."""
        return " / ".join(f"{found[side]['forward_share']['median'] + found[side]['backward_share']['median']:.0%}"
                          for side in ("ours", "peer"))

    return [{"model": words, "method": f"`{METHOD_NAMES[name]}`", "times faster": times(v["ratio"]["step_cpu_s"]),
             "s per step, ours / the peer's": pair(v, "step_cpu_s"),
             "with what is computed once": f"{whole_loop(v):.2f}",
             "once before": f"{v['ours']['once_cpu_s']['median']:.1f} s for {v['steps']} steps",
             "in the model": shares(v),
             "of the floor": f"{v['floor_share']:.0%}", "peak MB": pair(v, "peak_memory_bytes", 1e6, ".0f")}
            for part, words in PARTS.items() for name, v in cells.get(part, {}).items()]


def whole_loop(found: dict[str, Any]) -> float:
    """How many times faster all steps are together with what is computed before the first."""
    peer, ours = (found[side]["step_cpu_s"]["median"] * found["steps"]
                  + found[side].get("once_cpu_s", {"median": 0.0})["median"] for side in ("peer", "ours"))
    return float(peer / ours)


def peer_losses(cells: dict[str, Any]) -> list[dict[str, str]]:
    return [{"method": f"`{METHOD_NAMES[name]}`", "steps compared": f"{v['steps']}",
             "largest difference": f"{v['largest_difference']:.0e}", "relative": f"{v['largest_relative']:.0e}",
             "equal to 1e-4, one or the other": "yes" if v["equal"] else "no",
             "replaced in the peer, since": v["peer_changed_because"] or "nothing"} for name, v in cells.items()]


def peer_audits(cells: dict[str, Any]) -> list[list[dict[str, str]]]:
    """The times, and the figures side by side."""
    timed = [{"evaluation of": f"the {name} model", "times faster": times(v["ratio"]["evaluation_cpu_s"]),
              "s, ours / the peer's": pair(v, "evaluation_cpu_s", form=".0f"),
              "the whole command, times faster": times(v["ratio"]["command_cpu_s"]),
              "s": pair(v, "command_cpu_s", form=".0f"),
              "generating": pair(v, "generation_cpu_s", form=".0f"),
              "peak MB": pair(v, "peak_memory_bytes", 1e6, ".0f")} for name, v in cells.items()]
    terms = next(iter(cells.values()))["figures"] if cells else {}
    figures = [{"figure": f"`{term}`", **{f"{name}, ours / the peer's": " / ".join(
        "-" if value is None else f"{value:.5g}" for value in v["figures"][term].values())
        for name, v in cells.items()}} for term in terms]
    return [timed, figures]


def peer_starts(cells: dict[str, Any]) -> list[dict[str, str]]:
    return [{"from process start to": words, "times faster": times(v["ratio"][key]),
             "s, ours / the peer's": pair(v, key, form=".1f")} for v in cells.values()
            for words, key in (("its modules imported", "import_cpu_s"),
                               ("the end of the first step", "first_step_cpu_s"))]


def linear() -> str:
    """Time and memory at twice the size over those at once the size."""
    names = {"forget": "forget rows", "retain": "retain rows", "words": "words of every answer"}
    return table([{"doubled": names[row["what"]], "from": str(row["from"]), "to": str(row["to"]),
                   "forgetting, time": f"{row['forget_s_ratio']:.2f}x",
                   "its peak memory": f"{row['forget_peak_bytes_ratio']:.2f}x",
                   "auditing, time": f"{row['audit_s_ratio']:.2f}x",
                   "its peak memory ": f"{row['audit_peak_bytes_ratio']:.2f}x"} for row in results("linear")["table"]],
                 ["doubled", "from", "to", "forgetting, time", "its peak memory", "auditing, time",
                  "its peak memory "])


def real_facts() -> str:
    """What a real model still says of facts that it knew, as asked and under attack, beside rows it did not know."""
    found, lines = results("real_facts"), list[dict[str, Any]]()
    for name in dict.fromkeys(r["name"] for r in found["rows"]):
        mine = [r for r in found["rows"] if r["name"] == name]
        sides = {"original": ("original", mine[:1]), name: ("value", mine)}
        for model, (side, rows) in list(sides.items())[bool(lines):]:
            line = {"model": model}
            for head, (score, aside) in REAL_SCORES.items():
                line[head] = spread([r["scores"][score][side] for r in rows])
                line[head] += f" [{spread([r['scores'][aside][side] for r in rows])}]" if aside else ""
            for head, (attack, score) in REAL_ATTACKS.items():
                under = [_under(r, attack, score) for r in rows if side == "value"]
                line[head] = f"{spread([u['value'] for u in under])} [{spread([u['holdout'] for u in under])}]"
            line["verdict"] = counted(r["outcome"] for r in rows) if side == "value" else "-"
            lines.append(line | {"minutes": spread([r["forget_cpu_s"] / 60 for r in rows if side == "value"])})
    known = ", ".join(f"{group} {n['known']} of {n['asked']}" for group, n in found["known"].items())
    return f"Known under three wordings: {known}.\n\n" + table(lines, list(lines[-1]))


REAL_SCORES = {"probability": ("forget.probability", "holdout.probability"),
               "keyword": ("forget.keyword", "holdout.keyword"), "retain": ("retain.probability", ""),
               "neighbours": ("neighbour.probability", ""), "multiple choice": ("utility.accuracy", "")}
REAL_ATTACKS = {"keyword, paraphrase": ("paraphrase", "keyword"), "keyword, prefix": ("prefix", "keyword"),
                "keyword, 4 bits": ("quantise", "keyword"), "probability, relearned": ("relearn", "probability"),
                "keyword, relearned": ("relearn", "keyword")}


def _under(row: dict[str, Any], attack: str, score: str) -> dict[str, float | None]:
    """A score of the forget rows under an attack."""
    found = [v for name, v in row["attacks"].items() if name.startswith(attack) and name.endswith(f"forget.{score}")]
    return found[0] if found else {"value": None, "holdout": None}


def real_rule() -> str:
    """Reward at the beginning and at the end of fifty steps."""
    rows = [{"method": f"`{r['name']}`", "rewarded": part.removeprefix("reward_") if "_" in part else "all",
             "steps": f"{r['steps']} of {r['of']}", "first 10 steps": number(first), "last 10 steps": number(last),
             "minutes on one core": number(r["cpu_s"] / r["cpu_steps"] * r["of"] / 60) if r.get("cpu_steps") else "-"}
            for r in results("real_rule")["rows"] for part, (first, last) in r["ends"].items()]
    return table(rows, list(rows[0]))


def bench() -> str:
    found = results("bench")
    rows = [{"what": f"`expunge {k}`", "median": f"{v['median']:.2f} s"} for k, v in found["startup_s"].items()]
    rows += [{"what": f"`make demo`, {k}", "median": f"{v['median']:.0f} s"}
             for k, v in found.get("demo_s", {}).items()]
    rows += [{"what": f"`expunge audit --suite {k}` of the demo run, nothing cached", "median": f"{v['median']:.0f} s"}
             for k, v in found.get("audit_s", {}).items()]
    rows += [{"what": f"peak memory of `{v['recipe']}` against grad_diff in the same scope",
              "median": f"{v['ratio_to_grad_diff']:.2f}x"}
             for k, v in found["peak_memory_bytes"].items() if not k.startswith("grad_diff")]
    return table(rows, ["what", "median"])


def families() -> str:
    """Families of models by what came of them."""
    found, steps = results("families"), ("full", "lora", "checkpointed", "audit", "generate", "reload")
    tried = {name: row for name, row in found["families"].items() if "refused" not in row and "not built" not in row}
    whole = sum(all(row[step].startswith("ok") for step in steps) for row in tried.values())
    rows = [{"family": f"`{name}`"} | {step: _in_brief(row[step]) for step in steps} for name, row in tried.items()]
    refused = [{"family": f"`{name}`", "why": row.get("refused") or f"not built: {row['not built']}"}
               for name, row in found["families"].items() if name not in tried]
    return (f"Of {len(found['families'])} families (transformers {found['environment']['packages']['transformers']}) "
            f"{whole} go through everything, {len(tried) - whole} through all but one thing, and {len(refused)} are "
            f"refused before any work.\n\n{table(rows, ['family', *steps])}\n\n{table(refused, ['family', 'why'])}")


def _in_brief(result: str) -> str:
    brief = result.removeprefix("ok, ").split(". ")[0]
    return "refused: has none" if "gradient checkpointing" in brief else brief


def bench_tofu() -> str:
    """The table of a benchmark as `expunge bench` wrote it, with how long it took."""
    found = results("bench_tofu")
    loads = [call[when] for call in found["calls"] for when in ("load_at_start", "load_at_end")]
    took = (f"took {sum(call['seconds'] for call in found['calls']) / 60:.0f} minutes on {found['cores']} cores, whose "
            f"load was {min(loads):g} to {max(loads):g}" if loads else "was not finished when this was stored")
    return (f"`{shlex.join(found['command'])}` {took}; commit `{found['environment']['commit'][:7]}`.\n\n"
            + markdown(BenchTable.model_validate(found["table"])))


SECTIONS: dict[str, Callable[[], str]] = {
    "run_settings": lambda: site_pages.options(RunSettings),
    "plugins": site_pages.index, "screen": demo_screen.screen,
    "league": league, "tuned": tuned, "league_tofu": league_tofu,
    "federated": federated_tables.federated,
    "robust": robust_tables.robust, "fresh": robust_tables.fresh, "ordering": robust_tables.ordering,
    "against_league": robust_tables.against_league, "sae_restoration": robust_tables.sae_restoration,
    "demo_recipe": robust_tables.demo_recipe, "tofu_robust": robust_tables.tofu_robust,
    "real_tofu": robust_tables.real_tofu, "league_all": robust_tables.league_all,
    "power": power, "power_line": power_line, "known": known,
    "known_pairs": known_pairs,
    "meta": lambda: meta_table.page(results("meta")),
    "meta_finding": lambda: meta_table.finding(results("meta")), "shadows": shadows, "studies": studies,
    "tricks": tricks,
    "planted": planted_table.page, "real_edits": inside_tables.real_edits,
    "league_tofu_six": inside_tables.league_tofu_six, "meta_inside": inside_tables.meta_inside,
    "official": lambda: official_table.page(results("official")),
    "official_scores": lambda: official_table.scores_page(results("official_scores")),
    "before_after": before_after, "linear": linear,
    "peer": lambda: peer("peer"), "peer_intel": lambda: peer("peer_intel"),
    "tofu": lambda: tofu("tofu"), "tofu_fixed": lambda: tofu("tofu_fixed"), "bench": bench, "bench_tofu": bench_tofu,
    "requests": requests_table.page, "guards": guards_table.page,
    "real_facts": real_facts, "real_rule": real_rule, "families": families,
}


def measured(make: Callable[[], str]) -> str:
    try:
        return make()
    except FileNotFoundError:
        return "*Not measured yet.*"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = before = page.read_text()
        for name, make in SECTIONS.items():
            if f"<!-- generated:{name} -->" in text:
                text = replace_between(text, name, measured(make))
        if text != before:
            stale.append(page.name)
            if not check:
                page.write_text(text)
    if check and stale:
        print(f"{', '.join(stale)} differ from the stored results; run `make readme`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
