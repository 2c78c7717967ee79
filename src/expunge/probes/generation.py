"""Greedy answers to the prompts."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from expunge import plugin
from expunge.data.text_encoder import TokenRow
from expunge.metrics.text.units import is_dense, starts
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.records.observation import GenerationRow, Row
from expunge.records.task import Example, Task

TEXT_PREFIX = 0.5
"""Share of a running text that is the prompt; the rest is the reference."""


class Generation(Probe):
    """The model's greedy answer to each prompt."""

    class Spec(plugin.Spec):
        batch_size: int = Field(96, ge=1, description="Prompts decoded together.")

    card = Card(
        name="generation", kind="probe",
        summary="greedy answers to the prompts",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        defaults="greedy; the task gives the number of new tokens (200 for TOFU)",
        model_needs=frozenset({"generate", "prompt"}),
        deviations=("running text is prompted with its first half, and the second half is the reference",
                    "a reference of a group with its own number of new tokens is cut at it, as MUSE does: the tokens "
                    "that begin every text count among them; answers to questions are not cut"),
    )
    reuses = "likelihood"
    must_show = (Property("ignores_padding_and_order", {}, "batch composition changes nothing"),)

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None,
                reused: Sequence[Row] = ()) -> list[Row]:
        prompts, references, starts, given, budgets = [], [], [], [], []
        hits = {row["id"]: row["hit"] for row in reused if row["form"] == "answer" and "hit" in row}
        for example in examples:
            if example.kind == "text":
                start, rest = _split_text(example.answer)
                row = subject.encoder.encode(example, answer=start)
                prompts.append(row.ids[: row.prompt + row.answer])
                references.append(rest)
                given.append(start)
            else:
                prompts.append(subject.encoder.prompt(example))
                references.append(_within(subject, example, task.group_tokens.get(example.group)))
                given.append("\n".join(content for _, content in example.messages) or example.prompt)
            starts.append(_greedy_start(subject.encoder.encode(example), prompts[-1], hits.get(example.id, ())))
            budgets.append(task.group_tokens.get(example.group, task.generation_tokens))
        answers: dict[int, tuple[str, bool]] = {}
        for budget in sorted(set(budgets)):
            chosen = [i for i, own in enumerate(budgets) if own == budget]
            begun = [starts[i] for i in chosen]
            answers |= zip(chosen, subject.generate(
                [prompts[i] for i in chosen], budget, self.spec.batch_size, progress,
                begun=begun if any(begun) else (), keep_lines=True), strict=True)
        return [
            GenerationRow(id=e.id, entity=e.entity, group=e.group, form="prompt", index=0,
                          prompt=e.prompt, given=before, reference=reference, short=e.short_answer,
                          text=answers[i][0], stopped=answers[i][1],
                          **({"aliases": list(e.aliases)} if e.aliases else {}))  # type: ignore[typeddict-item]
            for i, (e, before, reference) in enumerate(zip(examples, given, references, strict=True))
        ]


def _within(subject: CausalLM, example: Example, tokens: int | None) -> str:
    """The answer; a continuation is cut at this number of tokens, an answer to a question is not."""
    row = subject.encoder.encode(example)
    if tokens is None or example.short_answer:
        return example.answer
    kept = max(tokens - subject.encoder.begins_with(), 1)
    if row.answer <= kept:
        return example.answer
    decoded: str = subject.encoder.processor.decode(row.ids[row.prompt: row.prompt + kept], skip_special_tokens=True)
    return decoded.strip()


def _greedy_start(row: TokenRow, prompt: Sequence[int], hits: Sequence[bool]) -> tuple[int, ...]:
    """The row's tokens after `prompt` that greedy decoding repeats; `hits` flags where the row's token is likeliest."""
    start = len(prompt)
    if len(hits) != row.answer + row.end or row.ids[:start] != tuple(prompt):
        return ()
    own = hits[start - row.prompt:]
    return row.ids[start: start + next((t for t, hit in enumerate(own) if not hit), len(own))]


def _split_text(text: str) -> tuple[str, str]:
    """Split running text at the word nearest its middle, or at the character in a script without spaces."""
    if is_dense(text):
        begins = starts(text)
        at = begins[max(int(len(begins) * TEXT_PREFIX), min(1, len(begins) - 1))]
        return text[:at].rstrip(), text[at:]
    words = text.split(" ")
    cut = max(int(len(words) * TEXT_PREFIX), 1)
    return " ".join(words[:cut]), " ".join(words[cut:])
