"""The tables of the studies of robust forgetting: what was left, what came back, what it cost."""

from __future__ import annotations

import statistics
from typing import Any

from cells import counted, number, results, spread

from expunge.report.leaderboard import table


def robust() -> str:
    """What a student knows as asked and after relearning, of facts and of names, and what it cost."""
    found, lines = results("robust")["rows"], []
    for name in dict.fromkeys(r["name"] for r in found):
        mine = [r for r in found if r["name"] == name]
        line: dict[str, Any] = {"model": name, "of retraining": spread([r["cost"] for r in mine]),
                                "forget quality p": spread([r["forget_quality"] for r in mine]),
                                "leak share": spread([r["leak_share"] for r in mine]),
                                "names, nats": spread([r["names"] for r in mine])}
        for label in mine[0]["relearned"]:
            line[f"excess, {label}"] = spread([r["relearned"][label]["excess"] for r in mine])
        lines.append(line | {"utility": spread([r["utility"] for r in mine]),
                             "verdict": counted(r["outcome"] for r in mine)})
    return table(lines, list(lines[0]))


def fresh() -> str:
    """What `--method auto` reached on each fresh world, by the limit of the cost."""
    lines = []
    for row in results("fresh")["rows"]:
        scores = row["scores"]
        lines.append({
            "limit": f"{row['limit']:g}", "world": str(row["world"]), "recipe chosen": f"`{row['recipe']}`",
            "of retraining": number(row["cost"]), "verdict (standard)": row["outcome"],
            "rehearsal said": row["predicted"] or "-", "forget quality p": number(scores["forget_quality"]["value"]),
            "leak share": number(scores["leak_share"]["value"]), "utility": number(row["utility"]),
            "search": f"{row['search_s']} s, {row['trials']} trials"})
    return table(lines, list(lines[0]))


def against_league() -> str:
    """The score of each tuned method and of each search of `auto`, world by world."""
    found = results("against_league")
    worlds, lines = sorted({row["world"] for row in found["rows"]}), []
    rows = [(f"`{row['method']}`", row) for row in found["rows"]]
    rows += [(f"`--method auto`, cost <= {row['limit']:g}", row) for row in found["auto"]]
    for name in dict.fromkeys(name for name, _ in rows):
        mine = {row["world"]: row for label, row in rows if label == name}
        trials = ", ".join(map(str, sorted({row["trials"] for row in mine.values()})))
        lines.append({"recipe": name, "trials": trials} | {
            f"score, world {world}": number(mine[world]["merit"]) if "merit" in mine.get(world, {}) else "-"
            for world in worlds})
    return table(lines, list(lines[0]))


def ordering() -> str:
    """Of every method the setting chosen without the attack, by median over worlds, and the best under attack."""
    found, lines = results("ordering"), []
    for name in dict.fromkeys(r["method"] for r in found["chosen"]):
        mine = [r for r in found["chosen"] if r["method"] == name]
        useful = [r for r in found["rows"] if r["method"] == name and r["utility"] >= found["utility"]]
        line = {"method": f"`{name.split(',')[0]}`{name[name.find(','):] if ',' in name else ''}",
                "of retraining": spread([r["cost"] for r in mine]), "utility": spread([r["utility"] for r in mine]),
                "excess as asked": spread([r["asked"] for r in mine])}
        labels = list(mine[0]["relearned"])
        for label in labels:
            line[f"excess, {label}"] = spread([r["relearned"][label]["excess"] for r in mine])
        tuned = {r["world"] for r in found["rows"] if r["method"] == name and r["value"] != mine[0]["value"]}
        best = [min(r["relearned"][labels[-1]]["excess"] for r in useful if r["world"] == world)
                for world in sorted(tuned & {r["world"] for r in useful})]
        lines.append(line | {"the same, chosen by it": spread(best)})
    return table(lines, list(lines[0]))


def sae_restoration() -> str:
    """Probability of the facts with latents of the original in the states, by median over worlds."""
    found, lines = results("sae_restoration")["rows"], []
    for name in found[0]["models"]:
        forget, retain = ([row["models"][name][split] for row in found] for split in ("forget", "retain"))
        lines.append({"model": name, "as asked": spread([r["plain"] for r in forget]),
                      "own states rebuilt": spread([r["rebuilt"] for r in forget]),
                      "random latents": spread([r["random"] for r in forget]),
                      "expert latents": spread([r["experts"] for r in forget]),
                      "all, strength 0.5": spread([r["all"][1] for r in forget]),
                      "all, strength 1": spread([r["all"][-1] for r in forget]),
                      "gain": spread([r["gain"]["value"] for r in forget]),
                      "retain, as asked": spread([r["plain"] for r in retain])})
    apart = f"{sum(row['told_apart'] for row in found)} of {len(found)}"
    found_apart = f"The audit tells suppressed models from retrained ones in {apart} worlds."
    return f"{table(lines, list(lines[0])).rstrip()}\n\n{found_apart}"


def demo_recipe() -> str:
    """Each candidate on each world of the demo."""
    lines = [{"recipe": row["name"], "world": str(row["seed"]), "verdict": row["outcome"],
              "leak share": number(row["scores"]["leak_share"]),
              "forget quality p": number(row["scores"]["forget_quality"]),
              "excess, relearn(steps=16)": "-" if row["relearned"] is None else number(row["relearned"]),
              "utility": number(row["utility"]), "of retraining": number(row["cost"]),
              "seconds": number(row["train_s"])} for row in results("demo_recipe")["rows"]]
    return table(lines, list(lines[0]))


def tofu_robust() -> str:
    """Every recipe by median over seeds, under the noise floor."""
    found, lines = results("tofu_robust")["rows"], []
    for name in dict.fromkeys(r["name"] for r in found):
        mine = [r for r in found if r["name"] == name]
        line: dict[str, Any] = {"model": name, "seeds": str(len(mine))}
        for score in ("forget_quality", "leak_share", "forget.probability", "mia.min_k"):
            line[score] = spread([r["scores"][score]["value"] for r in mine])
        line["utility"] = spread([r["utility"] for r in mine])
        for label in mine[0]["attacked"]:
            line[f"excess, {label}"] = spread([r["attacked"][label]["excess"] for r in mine])
        lines.append(line | {"verdict": counted(r["outcome"] for r in mine)})
    return table(lines, list(lines[0]))


def real_tofu() -> str:
    """Both models, then each recipe by median over seeds, with what attacks bring back."""
    found = results("real_tofu")["rows"]
    heads = {"forget probability": "forget.probability", "forget ROUGE-L": "forget.rouge_l",
             "retain probability": "retain.probability", "forget quality p": "forget_quality",
             "leak share": "leak_share", "min-k AUC": "mia.min_k"}
    attacks = {"paraphrase": "paraphrase", "quantise": "quantise", "relearn": "relearn"}
    lines = []
    sides = [(side, side, found[:1]) for side in ("original", "retrained")]
    names = dict.fromkeys(r["name"] for r in found)
    sides += [(name, "value", [r for r in found if r["name"] == name]) for name in names]
    for model, side, mine in sides:
        line = {"model": model} | {head: spread([r["scores"][score].get(side) for r in mine])
                                   for head, score in heads.items()}
        for head, attack in attacks.items():
            excess = [a["excess"] for r in mine if side == "value" for name, a in r["attacks"].items()
                      if name.startswith(attack) and name.endswith("forget.probability")]
            line[f"excess, {head}"] = spread(excess)
        line["verdict"] = counted(r["outcome"] for r in mine) if side == "value" else "-"
        line["minutes"] = spread([r["forget_cpu_s"] / 60 for r in mine if side == "value"])
        lines.append(line)
    return table(lines, list(lines[-1]))


def league_all() -> str:
    """Every method by median over the worlds; by leak share where retain rows are kept, the others after them."""
    lines, left = list[tuple[tuple[float, ...], dict[str, Any]]](), list[str]()
    for row in results("league_all")["rows"]:
        worlds = [w for w in row["worlds"] if "scores" in w]
        if not worlds:
            failed = [w["failed"] for w in row["worlds"] if "failed" in w] or ["tuned, and not run since"]
            left.append(f"`{row['name']}`: {row.get('refused') or failed[0]}")
            continue
        scores, kept = [w["scores"] for w in worlds], [w["kept"] for w in worlds]
        leak = [s["leak_share"]["value"] for s in scores]
        line = {"method": f"`{row['name']}`", "worlds": str(len(worlds)), "leak share": spread(leak),
                "retain kept": spread(kept), "forget quality p": spread([s["forget_quality"]["value"] for s in scores])}
        for attack in ("quantise", "relearn(steps=16)"):
            line[f"excess, {attack}"] = spread([s[attack]["excess"] for s in scores if attack in s])
        line |= {"of retraining": spread([w["cost"] for w in worlds])}
        median = statistics.median(kept)
        lines.append(((median < 0.9, statistics.median(leak), -median), line))
    shown = [line for _, line in sorted(lines, key=lambda pair: pair[0])]
    return table(shown, list(shown[0])) + ("\n\nWithout a row: " + "; ".join(left) if left else "")
