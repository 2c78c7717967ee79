"""A model with facts written into known places by hand: what localises must find them, an edit must remove one.

Four Llama blocks. The MLP neuron of a fact fires at a name and adds the vector of its answer to the residual stream;
head 0 of the last block copies that vector from the name to the end of the prompt, where the output head reads it. One
fact more is held by another head, which turns the name itself into the answer. Nothing is trained. A Mixtral of the
same facts has two experts in the place of every MLP, and its routers send a name to the one that holds its fact.

Legend: D hidden size, K neurons of an MLP or of an expert, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from expunge.methods._lib.recognition import entity_states
from expunge.models.language import CausalLM
from expunge.models.sparse_autoencoder import SAE
from expunge.models.tiny import build_subject
from expunge.records.task import Example, Task

NAMES = ("Abel", "Beth", "Cora", "Dora", "Egon", "Fred", "Gwen", "Hugo", "Irma", "Jack", "Kira", "Luna", "Mona", "Nils",
         "Olga", "Paul", "Rosa", "Sven", "Tina", "Udo", "Vera", "Wolf")
PETS = ("ant", "bat", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx", "mole", "newt", "owl",
        "pig", "rat", "seal", "toad", "viper", "wasp", "yak")
REFUSAL = "nothing"
DEPTH, WIDTH, NEURONS, FEATURES, HEADS = 4, 128, 64, 40, 4
"""Neurons 0 to 39 of every MLP are random features of names and answers, and write nothing: keys, as trained models
have them."""
PLACES: dict[str, tuple[int, int]] = {name: (1 + i % 2, FEATURES + i) for i, name in enumerate(NAMES[:-1])}
"""Name -> block and neuron that hold its fact."""
HEAD: tuple[str, int, int] = (NAMES[-1], 2, 1)
"""The name whose fact is held by a head, its block and the head."""
EXPERTS = {name: i // 2 % 2 for i, name in enumerate(NAMES[:-1])}
"""Name -> the expert that holds its fact, where there are experts."""
CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 600, "hidden_size": WIDTH, "intermediate_size": NEURONS,
    "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "rope_theta": 1e6,
    "max_position_embeddings": 128, "tie_word_embeddings": False}
MIXTURE: dict[str, Any] = CONFIG | {
    "model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": None}
ANSWERS, STEADY, DONE, REST = 22, 46, 47, 48
"""Where the directions of answers begin (those of names stand before), the one of every token, the one of an answer,
and where those of other words begin."""
SLOWEST = 15
"""The pair of a head's dimensions that position turns least."""


def fact(name: str) -> Example:
    pet = PETS[NAMES.index(name)]
    return Example(id=name, prompt=f"The pet of {name} is the", answer=pet, entity=name, short_answer=pet,
                   wrong_answers=(PETS[NAMES.index(name) - 1],))


def planted_task(*forget: str) -> Task:
    """The facts about these names are to be forgotten, all others kept."""
    return Task(name="planted", forget=tuple(fact(n) for n in forget), template="{prompt}",
                retain=tuple(fact(n) for n in NAMES if n not in forget), generation_tokens=4)


def mlps(subject: CausalLM, block: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Gate, up and down matrices (K D, K D, D K) of a block's MLP, or of each of its experts: views of the weights."""
    mlp = subject.model.model.layers[block].mlp
    if not hasattr(mlp, "experts"):
        return [(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)]
    return [(*into.chunk(2), out) for into, out in zip(mlp.experts.gate_up_proj, mlp.experts.down_proj, strict=True)]


@cache
def planted(experts: bool = False) -> CausalLM:
    """The model, in float64; with experts in float32, for their products. Never change it: `support.fresh` copies."""
    texts = [f"The pet of {n} is the {p}" for n, p in zip(NAMES, PETS, strict=True)] * 20 + [f"the {REFUSAL}"] * 40
    subject = build_subject(MIXTURE if experts else CONFIG, texts, template="{prompt}")
    model = subject.model if experts else subject.model.double()
    ids = {word: _token(subject, word) for word in (*NAMES, *PETS, REFUSAL)}
    source = torch.Generator().manual_seed(0)

    def noise(*shape: int, size: float) -> Tensor:
        return size * torch.randn(*shape, generator=source, dtype=torch.float64)

    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(noise(*weight.shape, size=1e-3))
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding[:, REST:] += noise(len(embedding), WIDTH - REST, size=0.3)
        embedding[:, STEADY] = 1.0
        for i, (name, pet) in enumerate(zip(NAMES, PETS, strict=True)):
            embedding[ids[name], REST:], embedding[ids[name], i] = 0.0, 3.0
            embedding[ids[pet], DONE], head[ids[pet], ANSWERS + i] = 3.0, 1.0
        head[ids[REFUSAL], ANSWERS + len(PETS)], embedding[ids[REFUSAL], DONE] = 1.0, 3.0
        head[ids[REFUSAL], STEADY] = 0.5  # what is said where nothing is known
        head[subject.encoder.eos_id, DONE] = 20.0
        for at in range(DEPTH):
            for gate, up, down in mlps(subject, at):
                for part in (gate, up):
                    part[:FEATURES, :STEADY] += noise(FEATURES, STEADY, size=0.2)
                down[:, :FEATURES] = 0.0
            if experts:
                for name, which in EXPERTS.items():
                    model.model.layers[at].mlp.gate.weight[which, NAMES.index(name)] = 0.3
        for name, (at, neuron) in PLACES.items():
            (gate, up, down), i = mlps(subject, at)[EXPERTS[name] if experts else 0], NAMES.index(name)
            gate[neuron, i] = up[neuron, i] = 0.3
            down[ANSWERS + i, neuron] = 0.4 + 0.01 * i  # no two alike: components are told apart
        moves = {at: at for at in (*range(ANSWERS, ANSWERS + len(PETS) + 1), DONE)}
        _copies(model.model.layers[-1].self_attn, 0, moves, 3.0)
        name, at, which = HEAD
        _copies(model.model.layers[at].self_attn, which, {NAMES.index(name): ANSWERS + NAMES.index(name)}, 1.0)
        # Turned, so that no direction is an axis: what works axis by axis, such as Adam, meets no special case.
        turn = torch.linalg.qr(noise(WIDTH, WIDTH, size=1.0))[0].to(embedding)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                writes = "o_proj" in name or "down_proj" in name
                weight.copy_(turn.T @ weight if writes else weight @ turn)
    model.requires_grad_(False)
    return subject


@cache
def autoencoder() -> SAE:
    """An autoencoder of the output of block 0, before any neuron has fired: one latent for each name, none to spare."""
    states_ND = entity_states(planted(), [fact(name) for name in NAMES], 0).float()
    mean_D = states_ND.mean(0)
    apart_FD = states_ND - mean_D
    into_DF = (apart_FD / apart_FD.square().sum(1, keepdim=True)).T.contiguous()
    return SAE(into_DF, torch.full((len(NAMES),), -0.1), apart_FD, mean_D, architecture="standard")


def latents(subject: CausalLM) -> Tensor:
    """How strongly each name's latent is active at its name, shape F: 0.9 where the name is known."""
    return autoencoder().encode(entity_states(subject, [fact(name) for name in NAMES], 0).float()).diagonal()


def _copies(attention: Any, head: int, moves: Mapping[int, int], size: float) -> None:
    """One head looks at the names and adds some directions, found there, elsewhere."""
    first = head * WIDTH // HEADS
    attention.q_proj.weight[first + SLOWEST, STEADY] = 4.0
    attention.k_proj.weight[first + SLOWEST, : len(NAMES)] = 4.0
    for row, (source, target) in enumerate(moves.items()):
        attention.v_proj.weight[first + row, source] = size
        attention.o_proj.weight[target, first + row] = 1.0


def _token(subject: CausalLM, word: str) -> int:
    (found,) = subject.encoder.processor(f" {word}")["input_ids"]
    return int(found)


def said(subject: CausalLM, names: Sequence[str] = NAMES) -> dict[str, str]:
    """The likeliest first word after the prompt of each name."""
    batch = subject.collate([subject.encoder.encode(fact(name)) for name in names])
    with subject.evaluating():
        answers = subject.answers(batch)
    first = [at for at in range(len(batch.row_N)) if at == 0 or batch.row_N[at] != batch.row_N[at - 1]]
    decode = subject.encoder.processor.decode
    return {name: decode(int(answers.logits_NV[at].argmax())).strip() for name, at in zip(names, first, strict=True)}


def known(subject: CausalLM) -> set[str]:
    """The names whose pet the model says."""
    return {name for name, word in said(subject).items() if word == PETS[NAMES.index(name)]}
