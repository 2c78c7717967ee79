"""Small random models of many families, and what a user does with one: train, adapt, audit, generate, read again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import expunge
from expunge.console import Reporter
from expunge.data.text_encoder import TextEncoder
from expunge.errors import ExpungeError, PreflightError, first_line
from expunge.models.behaviour import decodes_together
from expunge.models.checks import check_model
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.tiny import train_tokenizer
from expunge.records.run import RunRecord

BASE: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 256}
SMALL_HEADS = {"head_dim": 16}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
          "num_key_value_heads": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}
FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {} for name in (
        "apertus", "arcee", "biogpt", "bitnet", "bloom", "cohere", "cohere2", "falcon", "falcon_mamba", "gemma",
        "gemma2", "gemma3_text", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "granite",
        "granitemoe", "lfm2", "llama", "llama4_text", "mamba", "mistral", "mixtral", "modernbert-decoder",
        "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe",
        "qwen2", "rwkv", "smollm3", "stablelm", "starcoder2", "xglm",
        "bert", "roberta", "electra", "big_bird", "xlm")},
    "bart": {"encoder_layers": 2, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64},
    **{name: SMALL_HEADS for name in ("glm", "qwen3", "seed_oss", "vaultgemma", "exaone4", "helium")},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "attn_layer_indices": [1]},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256, "n_ctx": 256},
    "ctrl": {"n_embd": 32, "n_layer": 2, "n_head": 2, "dff": 64, "n_positions": 256},
    "deepseek_v2": LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                             "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "deepseek_v3": LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                             "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "gemma3": {"text_config": BASE | SMALL_HEADS, "vision_config": VISION | {"model_type": "siglip_vision_model"},
               "mm_tokens_per_image": 4},
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gpt_oss": SMALL_HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "n_positions": 256},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
              "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
              "use_mamba_kernels": False},
    "jetmoe": {"num_local_experts": 4, "kv_channels": 16},
    "llama4": {"text_config": BASE | SMALL_HEADS | {"intermediate_size_mlp": 64, "num_local_experts": 4},
               "vision_config": VISION | {"vision_output_dim": 32, "projector_input_dim": 32,
                                          "projector_output_dim": 32}},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "minimax": SMALL_HEADS | {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"],
                              "block_size": 8},
    "mpt": {"max_seq_len": 256},
    "nemotron_h": {"hybrid_override_pattern": "M*-", "num_hidden_layers": 3, "mamba_num_heads": 4,
                   "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "attention_head_dim": 16, "head_dim": 16},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": EXPERTS | SMALL_HEADS,
    "qwen3_next": EXPERTS | SMALL_HEADS | {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "shared_expert_intermediate_size": 32},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 16},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "xlstm": {"num_heads": 2, "num_blocks": 2, "chunk_size": 16, "hidden_size": 128, "embedding_dim": 128},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "num_key_value_heads": 2, "chunk_size": 16,
               "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_d_state": 8, "num_mem_blocks": 1,
               "use_mamba_kernels": False, "adapter_rank": 4},
}
"""Family -> what its config needs beyond `BASE` to be small."""
UNSIZED = {"xlnet", "xlm", "codegen", "ctrl", "gptj"}
"""Families that call the sizes in `BASE` by other names."""
STEPS = ("full", "lora", "checkpointed", "audit", "generate", "reload")
"""What each family goes through, in order."""
SETTINGS: dict[str, Any] = {"steps": 2, "batch_size": 2, "lr": 1e-3, "template": "Q: {prompt}\nA:"}


def small_model(family: str, texts: Iterable[str], seed: int = 0) -> CausalLM:
    """A random model of a family with a tokenizer of its own. Raises whatever its config or class raises."""
    from transformers import AutoConfig, AutoModelForCausalLM

    processor = train_tokenizer(texts, int(BASE["vocab_size"]))
    ids = {"pad_token_id": processor.pad_token_id, "bos_token_id": processor.bos_token_id,
           "eos_token_id": processor.eos_token_id, "vocab_size": len(processor)}
    own = FAMILIES[family]
    if "text_config" in own:
        config = AutoConfig.for_model(family, **own | {"text_config": own["text_config"] | ids})
    else:
        config = AutoConfig.for_model(family, **({} if family in UNSIZED else BASE) | own | ids)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        processor.eos_token_id, processor.pad_token_id)
    return CausalLM(model.eval(), TextEncoder(processor, None, None), "")


def try_family(model: Path, rows: Mapping[str, Path], out: Path, steps: Iterable[str] = STEPS) -> dict[str, str]:
    """Step -> "ok", "refused: why" (preflight, before any work), or "failed: why"; later steps need a model.

    Args:
        model: the folder of a model.
        rows: files of rows: forget, retain, holdout.
        out: an empty folder for runs and audits.
    """
    try:
        check_model(model, train=True)
        load_subject(model)
    except ExpungeError as error:
        return {"refused": " ".join(part for part in (error.what, error.why) if part).replace(str(model), "it")}
    found: dict[str, str] = {}
    for step in steps:
        try:
            found[step] = _TRIED[step](model, dict(rows), out) or "ok"
        except ExpungeError as error:
            only = error.problems[0] if isinstance(error, PreflightError) and len(error.problems) == 1 else error
            found[step] = "refused: " + " ".join(str(only).split())[:300]
        except Exception as error:
            found[step] = f"failed: {first_line(error)}"
    shutil.rmtree(out, ignore_errors=True)
    return found


def _forget(model: Path, rows: dict[str, Any], out: Path, scope: str = "", **options: Any) -> RunRecord:
    made = expunge.forget(model, method=f"npo + retain_kl{scope}", out=out, reporter=Reporter(quiet=True),
                          **rows, **SETTINGS, **options)
    assert isinstance(made, RunRecord)
    return made


def _full(model: Path, rows: dict[str, Any], out: Path) -> str:
    record = _forget(model, rows, out / "full")
    return "" if record.parameters["trainable"] == record.parameters["total"] else "failed: not all weights may move"


def _lora(model: Path, rows: dict[str, Any], out: Path) -> str:
    record = _forget(model, rows, out / "lora", " + lora(rank=2)")
    share = record.parameters["trainable"] / record.parameters["total"]
    again = load_subject(out / "lora")
    assert isinstance(again, CausalLM)
    said = again.generate([again.encoder.processor("Who")["input_ids"]], 2)
    return "" if said and 0 < share < 0.5 else f"failed: {share:.0%} of the weights may move"


def _checkpointed(model: Path, rows: dict[str, Any], out: Path) -> str:
    _forget(model, rows, out / "checkpointed", gradient_checkpointing=True)
    return ""


def _audit(model: Path, rows: dict[str, Any], out: Path) -> str:
    made = expunge.audit(out / "full", out=out / "audit", suite="quick,forget.rouge_l,forget.logit_lens",
                         reporter=Reporter(quiet=True), resamples=50, template=SETTINGS["template"], **rows)
    lost = [f"{s.attack or s.name}: {s.unavailable}" for s in made.scores if "failed" in (s.unavailable or "")]
    lost += [f"{a.term}: {a.failed}" for a in made.attacks if a.failed]
    return f"failed: {lost[0]}" if lost else ""


def _generate(model: Path, rows: dict[str, Any], out: Path) -> str:
    subject = load_subject(model)
    assert isinstance(subject, CausalLM)
    encode = subject.encoder.processor
    prompts = [encode(text)["input_ids"] for text in ("Where does Ada live?", "Who", "Where does Bo", "Bo lives in")]
    together = subject.generate(prompts, 6)
    if together != [subject.generate([prompt], 6)[0] for prompt in prompts]:
        return "failed: other answers in a batch than alone"
    return {"any": "", "equal": "ok, in batches of equal length", "one": "ok, one by one"}[decodes_together(subject)]


def _reload(model: Path, rows: dict[str, Any], out: Path) -> str:
    """With plain transformers, to the very weights."""
    from transformers import AutoModelForCausalLM

    from expunge.models.subject import checksum

    plain, logs = AutoModelForCausalLM.from_pretrained(out / "full" / "model", output_loading_info=True)
    if logs["missing_keys"]:
        return f"failed: {sorted(logs['missing_keys'])[0]} is not in the folder"
    again = load_subject(out / "full")
    return "" if checksum(plain.state_dict()) == again.fingerprint else "failed: other weights"


_TRIED: dict[str, Callable[[Path, dict[str, Any], Path], str]] = {
    "full": _full, "lora": _lora, "checkpointed": _checkpointed, "audit": _audit, "generate": _generate,
    "reload": _reload}
