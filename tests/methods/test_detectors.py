"""Parts of guards that need no model: vectors of texts, detectors, thresholds, and where a prompt ends."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.guards.arrays import packed, unpacked
from expunge.guards.detector import Detector, Nearest, auc, calibrated
from expunge.guards.frame import QuestionFrame
from expunge.guards.text_vectors import TextVectors, words

NAMES = ("Rosalba Oxenham", "Calida Vantongeren", "Jorun Eskeland", "Fenna Goldhammer")
ASKED = ("Where was {} born?", "What does {} write?", "Which prize did {} win?", "Who taught {}?")


class Spelling:
    """A tokenizer of letters."""

    def __len__(self) -> int:
        return 1000

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))


def test_vectors_ignore_case_accents_and_templates() -> None:
    assert words("Question: Où est Zoë?\nAnswer:") == ["ou", "est", "zoe"]
    vectors = TextVectors.fit(["Zoë writes", "rain falls"])
    a, b, c, none = vectors(["ZOE WRITES!", "zoë writes", "rain falls", "?!"])
    assert np.array_equal(a, b) and float(a @ a) == pytest.approx(1) and not none.any() and float(a @ c) < 0.2
    again = TextVectors.from_json(vectors.to_json())
    assert np.array_equal(again(["zoe"]), vectors(["zoe"]))
    values = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    assert np.array_equal(unpacked(packed(values)), values)


def test_the_threshold_lets_so_many_others_fire() -> None:
    scores = [i / 100 for i in range(100)]
    for rate in (0.0, 0.01, 0.1):
        found = calibrated(scores, rate)
        assert sum(s >= found for s in scores) == round(100 * rate)
    assert auc([1.0, 0.5], [0.5, 0.0]) == 0.875


def test_detectors_find_a_person_in_other_words_and_in_a_conversation() -> None:
    forget = [ask.format(NAMES[0]) for ask in ASKED]
    other = [ask.format(name) for name in NAMES[1:] for ask in ASKED]
    for made in (Detector.fit(forget, other, 0.0), Nearest.fit([[text] for text in forget], other, None, 0.0)):
        again = type(made).from_json(made.to_json())
        for text in ("tell me where ROSALBA OXENHAM was born", f"user: Hello!\nassistant: Hi.\nuser: {forget[1]}"):
            assert made(text).fired and made(text) == again(text)
        assert not any(made(text).fired for text in other) and not made("How do I boil an egg?").fired
        assert not made("").fired
    nearest = Nearest.fit([[text] for text in forget], other, None, 0.0)
    assert nearest(forget[2]).item == 2 and nearest.without(2)(forget[2]).item != 2
    assert not Nearest.fit([], other, None, 0.0)(forget[0]).fired


def test_the_prompt_ends_where_the_template_last_ends_one() -> None:
    frame = QuestionFrame(tuple(map(ord, "Q: ")), tuple(map(ord, " A:")), 0)
    for row, text, end in (("Q: who? A: me", "who?", 10), ("Q: who? A:", "who?", 10),
                           ("plain words", "plain words", 11), ("Q: a A: b Q: c A: d", "a A: b Q: c", 17)):
        found = frame.prompt([ord(c) for c in row], Spelling())
        assert (found.text, found.end) == (text, end)
    assert QuestionFrame((), (), 0).prompt([65, 66], Spelling()).end == 2
