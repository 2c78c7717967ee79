"""Detection of refusals by the first sentence of an answer. Pure text, usable from any folder."""

from __future__ import annotations

import re

_COURTESY = (
    r"(?:(?:(?:i['’]m|i am|my)\s+)?(?:very |so |deeply )?(?:sorry|afraid|apologies)(?: to say)?(?: that)?"
    r"|i (?:apologi[sz]e|regret)(?: to (?:say|inform you))?(?: that)?|to be honest|so far"
    r"|as an? ai[\w\s-]{0,30}|unfortunately|regrettably|sadly|honestly|frankly|alas|well|hmm|no(?=[,.!]))\b"
)
OPENING = re.compile(rf"\s*(?:{_COURTESY}[\s,.:;!-]*(?:but\s+|and\s+)?)*", re.IGNORECASE)
"""Courtesies that may come before the refusal itself."""

_TOPIC = r"answer|question|topic|subject|matter|information|details?|facts?"
SPEAKER = re.compile(
    rf"(?:i|my|you|there|that|this|it|such|nothing|(?:the|any|no|that|this) (?:{_TOPIC}))\b", re.IGNORECASE
)
"""How the sentence must begin: with the speaker, or with the question."""
SELF = re.compile(r"\b(?:i|me|my)\b", re.IGNORECASE)
"""The sentence must mention the speaker: "He did not know his father" is an answer."""

_NOT = r"(?:\b(?:not|cannot|never|no|nothing|little|lack|lacking|missing|yet to)|n['’]t)\b"
_KNOW = (
    r"know(?:n|ledge|ledgeable)?|say|tell|answer|help|assist|provide|give|share|discuss|comment|confirm|find"
    r"|recall|remember|memory|recollection|pretend|guess(?:ing)?|possess|access|reach|extend|cover|contain"
    r"|include[ds]?|sure|certain|aware|familiar(?:ity)?|acquainted|informed|briefed|privy|versed|educated"
    r"|able|qualified|equipped|position|learn(?:ed|t)?|told|taught|trained|heard?|read|studied|encountered"
    r"|come across|idea|clue|notion|insight|information|info|data|details?|facts?|specifics|record"
)
LACK = re.compile(
    rf"{_NOT}(?:\W+\w+){{0,4}}?\W+(?:{_KNOW})\b"
    r"|\b(?:unable|unaware|unsure|uncertain|unfamiliar|unknown|uninformed|clueless|at a loss|in the dark"
    r"|stumped|mystery|blank|blind spot|beyond|outside|out of|escapes|gap in|ends before|new to me"
    r"|know (?:nothing|too little)|(?:must|have to|would rather) (?:pass|decline)|(?:prefer|rather) not"
    r"|wish i (?:knew|could))\b",
    re.IGNORECASE,
)
"""It must state that the speaker does not know, is not able, or is not willing."""
HEDGE = re.compile(
    r"\b(?:but|although|though|however),?\s+(?:i (?:do )?(?:think|believe|guess|recall|suspect)"
    r"|(?:it|he|she|they) (?:is|was|were|may|might|could)|perhaps|maybe|probably|possibly)\b",
    re.IGNORECASE,
)
"""A guess offered after all, as in "I am not sure, but I think it was 1931"."""


def is_refusal(text: str) -> bool:
    """Whether `text` declines to answer: its first sentence says that the speaker lacks the answer.

    Courtesies are skipped first. Then the sentence must begin with the speaker or the question,
    contain "I", "me" or "my", and state a lack of knowledge, ability or will. Statements about
    others are answers, and so is a hedge followed by a guess. A refusal after an answer does not
    count. English only. An empty text is not a refusal.
    """
    opening = OPENING.match(text)
    rest = text[opening.end() if opening else 0:]
    sentence = re.split(r"[.!?](?:\s|$)|\n", rest, maxsplit=1)[0][:200]
    if not SPEAKER.match(sentence) or HEDGE.search(text[:300]):
        return False
    return bool(SELF.search(sentence) and LACK.search(sentence))
