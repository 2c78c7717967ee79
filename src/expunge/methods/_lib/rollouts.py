"""Answers that the current model writes before a step."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.models.language import CausalLM
from expunge.records.task import Example, RolledOut
from expunge.seeding import derive, stream

REWORD = "Ask the following in other words. Reply with the question only.\n{question}"


def rolled_out(row: Example, answer: str, *, id: str, ended: bool) -> RolledOut:
    """The row with another answer, which a model has written."""
    fields = {name: getattr(row, name) for name in Example.model_fields}
    return RolledOut(**{**fields, "id": id, "answer": answer}, ended=ended)


def sample_answers(subject: CausalLM, rows: Sequence[Example], samples: int, *, tokens: int, seed: int,
                   temperature: float = 1.0) -> list[list[RolledOut]]:
    """`samples` answers to the prompt of every row, all sampled in the same batches.

    Running text has no prompt: where no BOS stands before it, its first token is given, and stays in what was said.

    Args:
        tokens: maximum length of an answer; a longer one is cut and carries no end token.
        seed: of the sampling; the global random state is not used.
    """
    prompts = [subject.encoder.prompt(row) for row in rows for _ in range(samples)]
    said = subject.generate(prompts, tokens, temperature=temperature, seed=seed)
    given = [subject.encoder.processor.decode(prompts[i * samples], skip_special_tokens=True)
             if row.kind == "text" else "" for i, row in enumerate(rows)]
    return [[rolled_out(row, given[i] + text, id=f"{row.id}#{k}", ended=ended)
             for k, (text, ended) in enumerate(said[i * samples: (i + 1) * samples])] for i, row in enumerate(rows)]


def reworded(subject: CausalLM, rows: Sequence[Example], seed: int, tokens: int) -> list[Example]:
    """Every row asked in other words: by one of its paraphrases, or as the model rewords it where it has none."""
    rng, without = stream(seed, "reworded"), [row for row in rows if not row.paraphrased_prompts]
    asked = [Example(id="ask", prompt=REWORD.format(question=row.prompt), answer="") for row in without]
    said = subject.generate([subject.encoder.prompt(row) for row in asked], tokens, temperature=1.0,
                            seed=derive(seed, "reworded"))
    own = iter(text.split("\n")[0].strip() for text, _ in said)
    return [row.model_copy(update={"prompt": rng.choice(row.paraphrased_prompts) if row.paraphrased_prompts
                                   else next(own) or row.prompt}) for row in rows]
