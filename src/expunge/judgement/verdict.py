"""What the scores support, as a record: decided in `outcome.py` and `threats.py`, worded in `wording.py` and
`threat_wording.py`. Nothing here is a proof.
"""

from __future__ import annotations

from collections.abc import Sequence

from expunge.judgement.outcome import P_LIMIT, decide
from expunge.judgement.threat_wording import attack_sentences, worded_threat
from expunge.judgement.threats import decide_threats, unscored, untried
from expunge.judgement.wording import alone_sentences, figures, inside_sentences
from expunge.records.score import AttackRecord, Score, Verdict


def verdict(scores: Sequence[Score], attacks: Sequence[AttackRecord] = (), p_limit: float = P_LIMIT) -> Verdict:
    """Outcome, sentences, threats and gaps for one subject's scores, attacked ones included."""
    plain = [s for s in scores if s.attack is None and s.value is not None]
    decision = decide(scores, p_limit)
    alone = decision.alone.outcome
    differs = decision.outcome != alone
    threats = decide_threats(scores, alone, decision.outcome)
    missing = [f"{s.name}: {s.unavailable}" for s in scores if s.attack is None and s.unavailable is not None]
    return Verdict(
        outcome=decision.outcome, alone=alone if differs else None,
        sentences=(*([f"Without the attacks the scores say: {alone}."] if differs else []),
                   *alone_sentences(decision), *inside_sentences(decision), *attack_sentences(scores, attacks),
                   *figures(plain)),
        not_tested=(*missing, *unscored(scores, attacks), *untried(scores, attacks)),
        threats=tuple(worded_threat(found, scores, attacks) for found in threats))
