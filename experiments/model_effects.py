"""How often honest models that differ as a whole are accused, by simulation.

The subject and the retrained models of an audit lie up or down as a whole: by a normal effect, a share of what there is
up to the original, half of whose variance is the same under all attacks. Nothing is left in any of them. Stored in
results/model_effects.json with the standard error of each share.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import log, store

from expunge.judgement.leaks import alarms, decided, leaks
from expunge.metrics import by_entity
from expunge.metrics.attacked import AttackComparison, Gap, with_tests
from expunge.records.run import environment
from expunge.records.score import Score

CONTROLS, EFFECTS = (1, 2, 3), (0.06, 0.1, 0.18)
ENTITIES, ROWS, ATTACKS, ROOM, SHARED = 10, 4, 8, 0.65, 0.5
ROW_NOISE = 0.067
AUDITS = 400


def comparison(draw: np.random.Generator, attack: str, subject: float, apart: tuple[float, ...]) -> AttackComparison:
    """Rows of a subject that lies `subject` above the first retrained model as a whole, and `apart` the others."""
    rows = {f"p{e} {i}": subject + float(draw.normal(0, ROW_NOISE)) for e in range(ENTITIES) for i in range(ROWS)}
    gap = Gap(rows, None, {key: key.split()[0] for key in rows})
    value = gap.value
    score = Score(name="forget.rouge_l", attack=attack, value=0.35 + value, before=0.35, control_before=0.35,
                  n=len(rows), higher_is="knows", access="text", excess=value, gain=value, entities=gap.entities,
                  controls={"original": 0.35 + ROOM, "retrained": 0.35}, excess_interval=gap.interval(),
                  gain_interval=gap.interval(), floor=apart[0] if apart else None)
    return AttackComparison(score, gap, gap, apart)


def audit(draw: np.random.Generator, controls: int, effect: float, shared: float = SHARED) -> tuple[Score, ...]:
    """Comparisons of one audit of honest models; each lies up or down by `effect` of the room, `shared` of its variance
    in all attacks alike."""
    whole = draw.normal(0, shared ** 0.5 * effect * ROOM, controls + 1)
    each = draw.normal(0, (1 - shared) ** 0.5 * effect * ROOM, (ATTACKS, controls + 1)) + whole
    return decided(with_tests([comparison(draw, f"a{j}", models[0] - models[1], tuple(models[2:] - models[1]))
                               for j, models in enumerate(each)]))


def cell(controls: int, effect: float, audits: int, seed: int) -> dict[str, float]:
    """Shares of accused audits, and of those with an alarm and nothing worse; `without` the rule on spread."""
    draw = np.random.default_rng([seed, controls, round(100 * effect)])
    found = [audit(draw, controls, effect) for _ in range(audits)]
    accused = np.mean([bool(leaks(scores)) for scores in found])
    alarmed = np.mean([bool(alarms(scores)) and not leaks(scores) for scores in found])
    without = np.mean([bool(leaks([s.model_copy(update={"spread": None}) for s in scores])) for scores in found])
    row: dict[str, Any] = {"controls": controls, "effect": effect}
    for name, share in (("accused", accused), ("undecided", alarmed), ("accused_without_spread", without)):
        row |= {name: float(share), f"{name}_error": float((share * (1 - share) / audits) ** 0.5)}
    return row


def main(seed: int, audits: int, keep: bool) -> None:
    """Simulate all; store only from a clean tree."""
    # Ten entities have 1024 flips. Fewer at random are enough for shares of audits.
    by_entity.EXACT, by_entity.DRAWS = 2, 199
    found = []
    for effect in EFFECTS:
        for controls in CONTROLS:
            found.append(cell(controls, effect, audits, seed))
            log((found[-1],))
    dirty = "dirty" in (environment()["commit"] or "dirty")
    if keep and not dirty:
        log(("stored", store("model_effects", {
            "seed": seed, "audits": audits, "entities": ENTITIES, "rows": ROWS, "attacks": ATTACKS, "shared": SHARED,
            "row_noise": ROW_NOISE, "room": ROOM, "draws": by_entity.DRAWS, "seconds": time.process_time(),
            "results": found})))
    else:
        log(("not stored:", "the tree differs from its commit" if dirty else "--keep was not given"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audits", type=int, default=AUDITS)
    parser.add_argument("--keep", action="store_true", help="store results/model_effects.json")
    given = parser.parse_args()
    main(given.seed, given.audits, given.keep)
