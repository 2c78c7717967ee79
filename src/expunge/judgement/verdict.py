"""What the scores support, as a record: decided in `outcome.py` and `threats.py`, worded in `wording.py` and
`threat_wording.py`. Nothing here is a proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expunge.judgement.leak_line import leak_line
from expunge.judgement.outcome import P_LIMIT, decide
from expunge.judgement.scope import scoped
from expunge.judgement.settling import settling
from expunge.judgement.threat_wording import attack_sentences, limited, worded_threat
from expunge.judgement.threats import applies, decide_threats, unscored, untried
from expunge.judgement.wording import alone_sentences, figures, first_sentence, inside_sentences
from expunge.needs import MODEL_NEEDS, ModelNeed
from expunge.records.score import AttackRecord, Power, Score, Verdict


def verdict(scores: Sequence[Score], attacks: Sequence[AttackRecord] = (), p_limit: float = P_LIMIT, *,
            offered: Iterable[ModelNeed] = MODEL_NEEDS, turned_down: Iterable[str] = (),
            power: Power | None = None) -> Verdict:
    """Outcome, sentences, threats and gaps for one subject's scores, attacked ones included.

    Args:
        offered: what the model offers of what plug-ins may need; what its kind has no use for is not called untested.
        turned_down: a sentence for each control that does not count, with its figure.
        power: what the plain scores would miss, where it was measured (`splices.measured_power`).
    """
    plain = [s for s in scores if s.attack is None and s.value is not None]
    decision = decide(scores, p_limit, power)
    alone = decision.alone.outcome
    differs = decision.outcome != alone
    threats = decide_threats(scores, decision)
    missing = [f"{s.name}: {s.unavailable}" for s in scores
               if s.attack is None and s.unavailable is not None and applies(s)]
    down = tuple(turned_down)
    settled = settling(decision, scores, bool(down))
    return Verdict(
        outcome=decision.outcome, alone=alone if differs else None,
        sentences=(*first_sentence(decision, scores), *alone_sentences(decision), *down,
                   *([settled] if settled else []), *limited(plain), *inside_sentences(decision),
                   *attack_sentences(scores, attacks), *figures(plain)),
        scope=scoped(decision, scores, attacks, offered),
        not_tested=(*missing, *unscored(scores, attacks), *untried(scores, attacks, offered=offered)),
        threats=tuple(worded_threat(found, scores, attacks, offered) for found in threats),
        leak=leak_line(scores, power), power=power)
