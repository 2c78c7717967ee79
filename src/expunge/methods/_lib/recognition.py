"""Entities that a model knows and invented ones that it cannot know: the same questions, read at the same place.

Legend: N mentions (flat), B rows of a batch, T padded length, D hidden size, F latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.models.language import CausalLM
from expunge.models.sparse_autoencoder import SAE
from expunge.records.task import Example
from expunge.seeding import stream

CONSONANTS, VOWELS, ENDS = "bcdfghjklmnprstvz", "aeiou", ("", "n", "l", "r")


def mentions(example: Example) -> bool:
    """Whether its prompt names its entity; running text is its own prompt."""
    return bool(example.entity) and example.entity in (example.prompt or example.answer)


def invented_names(count: int, seed: int) -> list[str]:
    """Names of two words that nobody bears, all different."""
    random, names = stream(seed, "invented names"), dict[str, None]()

    def word() -> str:
        syllables = (random.choice(CONSONANTS) + random.choice(VOWELS) for _ in range(random.choice((2, 3))))
        return "".join(syllables).capitalize() + random.choice(ENDS)

    while len(names) < count:
        names.setdefault(f"{word()} {word()}")
    return list(names)


def renamed(example: Example, name: str) -> Example:
    """The same row about an entity of another name; as it is where it does not name its own."""
    if not mentions(example):
        return example
    prompt, answer = (text.replace(example.entity, name) for text in (example.prompt, example.answer))
    return example.model_copy(update={"entity": name, "prompt": prompt, "answer": answer})


def invented(examples: Sequence[Example], names: Sequence[str]) -> list[Example]:
    """The same rows about invented entities: the i-th entity becomes the i-th name, modulo their number."""
    number = {entity: i for i, entity in enumerate(dict.fromkeys(e.entity for e in examples))}
    return [renamed(example, names[number[example.entity] % len(names)]) for example in examples]


def places(subject: CausalLM, example: Example) -> list[int]:
    """Where the last token of its entity is, every time the row names it; none where the tokens do not show it."""
    ids, decode = subject.encoder.encode(example).ids, subject.encoder.processor.decode
    if not mentions(example) or example.entity not in decode(ids, clean_up_tokenization_spaces=False):
        return []
    seen = [decode(ids[:end], clean_up_tokenization_spaces=False).count(example.entity) for end in range(len(ids) + 1)]
    return [at for at in range(len(ids)) if seen[at + 1] > seen[at]]


def paired_places(subject: CausalLM, rows: Sequence[Example], twins: Sequence[Example]) -> list[dict[str, list[int]]]:
    """The places in rows and in their twins of other names, by row; without those that differ in number."""
    pairs = {row.id: (places(subject, row), places(subject, twin)) for row, twin in zip(rows, twins, strict=True)}
    return [{key: pair[i] for key, pair in pairs.items() if len(pair[0]) == len(pair[1])} for i in (0, 1)]


def at_places(states_BTD: Tensor, batch: TokenBatch, known: Mapping[str, Sequence[int]]) -> tuple[Tensor, Tensor]:
    """States at the places of each row, by its id, shape N D, and which row each belongs to, shape N."""
    found = [(b, at) for b, row in enumerate(batch.rows) for at in known.get(row.id, ()) if at < len(row.ids)]
    row_N, at_N = torch.tensor(found, dtype=torch.long, device=states_BTD.device).reshape(-1, 2).unbind(1)
    return states_BTD[row_N, at_N], row_N


def entity_states(subject: CausalLM, examples: Sequence[Example], block: int) -> Tensor:
    """Output of a block wherever these rows name their entity, row by row; shape N D, on the CPU, without gradient."""
    known = {str(i): places(subject, example) for i, example in enumerate(examples)}
    rows = [replace(subject.encoder.encode(example), id=str(i)) for i, example in enumerate(examples)]
    states: dict[int, Tensor] = {}
    with subject.evaluating():
        for part in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in part])
            states_ND, row_N = at_places(subject.hidden(batch, block), batch, known)
            states |= {i: states_ND[row_N == b].float().cpu() for b, i in enumerate(part)}
    return torch.cat([states[i] for i in range(len(rows))])


def guided_latents(sae: SAE, states: Tensor, wanted: Tensor) -> Tensor:
    """Latents in the common unit of decoder norms, shape ... F; straight through where an inactive one is wanted, since
    no gradient would reach it otherwise."""
    pre = sae.pre(states)
    latents = sae.activate(pre)
    through = latents.detach() + pre - pre.detach()
    return through.where((latents == 0) & (wanted > 0), latents) * sae.scale_F
