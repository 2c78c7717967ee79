"""Published settings of benchmarks: recipe, steps, batch and where they are printed. `expunge presets` lists them.

A setting whose published code has a defect has no recipe; `defect` says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from expunge.errors import UsageError, did_you_mean
from expunge.records.settings import RunSettings
from expunge.registry import entries

OPEN = "locuslab/open-unlearning"
SMOOTH = "OPTML-Group/Unlearn-Smooth"
SIMPLE = "OPTML-Group/Unlearn-Simple"
EFFECT = "tmlr-group/G-effect"
SPLITS = {"forget01": 40, "forget05": 200, "forget10": 400}
"""Part of TOFU -> its forget rows."""
LARGE = "Learning rates and steps were found for models of 1B to 13B; search them for a smaller model (expunge sweep)."


@dataclass(frozen=True, kw_only=True)
class PublishedSetting:
    """One line of a paper's table or of an official configuration."""

    name: str
    """`<method>/<benchmark>-<part>`."""
    benchmark: str
    model: str
    """What it was published for."""
    recipe: str = ""
    """With optimizer and learning rate; empty where a defect forbids to run it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `RunSettings`."""
    source: str
    note: str = ""
    task: str | None = None
    """Which rows it is for, where they are a task of ours."""
    defect: str = ""

    def settings(self, given: Mapping[str, Any]) -> RunSettings:
        """Its options, with those `given` in their place; published runs keep the last step."""
        steps = {"steps": None} if "epochs" in given else {}
        return RunSettings(**({"keep": "last", **self.options} | steps | dict(given)))

    @property
    def about(self) -> str:
        """Where it comes from, in one line."""
        return f"Published setting {self.name}, for {self.model} ({self.source}).{' ' + self.note if self.note else ''}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _adamw(lr: str, decay: float, warmup: int | None = None, more: str = "") -> str:
    start = "warmup=0.0" if warmup is None else f"warmup_steps={warmup}, trainer_warmup=True"
    return f" + adamw(lr={lr}, weight_decay={decay}, {start}{more})"


def _tofu(method: str, recipe: str, source: str, *, model: str = "Llama-3.2-1B to Llama-3.1-8B", epochs: float = 10,
          lr: str = "1e-5", decay: float = 0.01, parts: Mapping[str, int] = SPLITS, accumulate: int = 4,
          note: str = "") -> Iterator[PublishedSetting]:
    """One setting for each part of TOFU: 8 rows times `accumulate` a step, linear decay after an epoch of warm-up,
    which trainers round down."""
    for part, rows in parts.items():
        warmup = rows // (8 * accumulate)
        yield PublishedSetting(
            name=f"{method}/tofu-{part}", benchmark="TOFU", model=model, recipe=recipe + _adamw(lr, decay, warmup),
            options={"epochs": epochs, "batch_size": 8, "accumulate": accumulate}, source=source, note=note,
            task=f"tofu:{part}")


def _muse(method: str, recipe: str, source: str, *, note: str = "") -> PublishedSetting:
    """Constant rate, no warm-up and no decay, 32 texts of 2048 tokens a step, 10 epochs."""
    return PublishedSetting(
        name=f"{method}", benchmark="MUSE", model="Llama-2-7B, ICLM-7B", source=source, note=note,
        recipe=recipe + _adamw("1e-5", 0.0, more=", schedule=constant"),
        options={"epochs": 10, "batch_size": 4, "accumulate": 8, "max_length": 2048})


def _wmdp(method: str, recipe: str, source: str, *, steps: int, batch: int = 4, accumulate: int = 1,
          note: str = "", length: int = 512) -> PublishedSetting:
    return PublishedSetting(
        name=method, benchmark="WMDP", model="Zephyr-7B", recipe=recipe, source=source, note=note,
        options={"steps": steps, "batch_size": batch, "accumulate": accumulate, "max_length": length})


def _broken(name: str, benchmark: str, model: str, source: str, defect: str) -> PublishedSetting:
    return PublishedSetting(name=name, benchmark=benchmark, model=model, source=source, defect=defect)


RAW = ("The published loss takes the sigmoid of differences of raw logits, over every position and every word of the "
       "vocabulary, in place of log-probabilities of the text, so no npo reaches its numbers.")
NO_GRADIENT = ("In the published code the penalty becomes a plain number before the backward pass, so it has no "
               "gradient: what was run is npo without it (npo/wmdp-bio with other rates).")
PER_BATCH = "The log ratio is one mean over the tokens of a micro-batch, so batch size belongs to the setting."
EACH_TOPIC = "Published with two topics in turn and a vector for each; here one topic."
AUTHORS = "Llama-2-7B (Phi-1.5 with lr 2e-5)"

PRESETS: tuple[PublishedSetting, ...] = (
    *_tofu("ga", "ga", f"{OPEN}: experiment/unlearn/tofu/default, trainer/GradAscent"),
    *_tofu("grad_diff", "grad_diff", f"{OPEN}: experiment/unlearn/tofu/default, trainer/GradDiff"),
    *_tofu("npo", "npo(beta=0.1) + retain_nll", f"{OPEN}: experiment/unlearn/tofu/default, trainer/NPO; the authors' "
           "TOFU/config/forget.yaml has the same", model="Llama-2-7B, Llama-3.2-1B to 3.1-8B"),
    *_tofu("dpo", "dpo(beta=0.1) + retain_nll", f"{OPEN}: experiment/unlearn/tofu/idk, trainer/DPO",
           note="Refusals are ours unless refusals= names a file."),
    *_tofu("simnpo", "simnpo(beta=2.5, weight=0.1375) + retain_nll", f"{SIMPLE}: TOFU/README and config/forget.yaml",
           model="Llama-2-7B", parts={"forget05": 200}),
    *_tofu("simnpo", "simnpo(beta=4.5, weight=0.125) + retain_nll", f"{SIMPLE}: TOFU/README",
           model="Llama-2-7B", parts={"forget10": 400}),
    *_tofu("rmu", "rmu(layer=7, coefficient=2.0, alpha=1.0, mask=answer) + all",
           f"{OPEN}: experiment/unlearn/tofu/default, trainer/RMU", note="Needs a model of 8 blocks or more."),
    *_tofu("undial", "undial(strength=10.0)", f"{OPEN}: trainer/UNDIAL", lr="1e-4", model="Llama-3.2-1B",
           note="The port also averages over prompt and padding, where it lowers an unrelated logit."),
    *_tofu("wga", "wga(alpha=1.0) + retain_nll", f"{OPEN}: trainer/WGA", model="Llama-3.2-1B", epochs=5),
    *_tofu("ce_u", "ce_u(skip=1)", f"{OPEN}: community/methods/CEU, trainer/CEU", model="Llama-3.2-1B"),
    *_tofu("entropic_pdu", "margin + retain_nll + pdu(rho=100.0, step=5.0, epsilon=0.3, warmup=5)",
           f"{OPEN}: community/methods/PDU", model="Llama-3.2-1B and 3B",
           note="30 epochs for Llama-3.1-8B, 20 for Gemma-7B."),
    *_tofu("satimp", "satimp(beta1=5.0, beta2=0.1) + retain_nll(weight=0.1)", "tmlr-group/SatImp: README",
           model=AUTHORS, epochs=5, decay=0.0, accumulate=2),
    *_tofu("satimp-port", "satimp(beta1=5.0, beta2=1.0) + retain_nll(weight=0.1)", f"{OPEN}: community/methods/SatImp",
           model="Llama-3.2-1B", epochs=5),
    *_tofu("tnpo", "tnpo(beta=4.0, epsilon=1e-5) + retain_kl", f"{EFFECT}: config/forget.yaml, dataloader.py",
           model=AUTHORS, epochs=5, decay=0.0, accumulate=2),
    *_tofu("wtnpo", "wtnpo(beta=4.0, alpha=1.5, epsilon=1e-5) + retain_kl",
           f"{EFFECT}: config/forget.yaml, dataloader.py", model=AUTHORS, epochs=5, decay=0.0, accumulate=2),
    PublishedSetting(
        name="altpo/tofu-forget10", benchmark="TOFU", model="Llama-2-7B", task="tofu:forget10",
        recipe="altpo(beta=0.1, samples=5) + retain_nll" + _adamw("5e-5", 0.01, 57),
        options={"epochs": 10, "batch_size": 5, "accumulate": 7},
        source="molereddy/Alternate-Preference-Optimization (arXiv 2409.13474)",
        note="2 published epochs over five alternates a row are 10 of ours."),
    _muse("ga/muse", "ga", f"{OPEN}: experiment/unlearn/muse/default, trainer/GradAscent"),
    _muse("grad_diff/muse", "grad_diff", f"{OPEN}: experiment/unlearn/muse/default, trainer/GradDiff"),
    _muse("npo/muse", "npo(beta=0.1) + retain_nll", f"{OPEN}: experiment/unlearn/muse/default, trainer/NPO",
          note="The log-likelihood form; numbers of muse_bench itself are another loss, see npo/muse-bench."),
    _muse("simnpo/muse", "simnpo(beta=4.5, weight=0.125) + retain_nll",
          f"{OPEN}: experiment/unlearn/muse/default, trainer/SimNPO", note="Settings of TOFU, not tuned for MUSE."),
    _muse("entropic_pdu/muse-news", "margin + retain_nll + pdu(rho=50.0, step=1.0, epsilon=1.5, warmup=3)",
          f"{OPEN}: community/methods/PDU"),
    _muse("entropic_pdu/muse-books", "margin + retain_nll + pdu(rho=50.0, step=1.0, epsilon=0.1, warmup=3)",
          f"{OPEN}: community/methods/PDU"),
    _broken("npo/muse-bench", "MUSE", "Llama-2-7B, ICLM-7B", "swj0419/muse_bench: baselines/iterative.py", RAW),
    _broken("sam/muse-news", "MUSE", "Llama-2-7B", f"{SMOOTH}: MUSE/run_muse_unlearn.sh", RAW),
    _broken("sam/muse-books", "MUSE", "Llama-2-7B", f"{SMOOTH}: MUSE/run_muse_unlearn.sh", RAW),
    _broken("simnpo/muse-news", "MUSE", "Llama-2-7B", f"{SIMPLE}: MUSE/README",
            RAW.replace("differences of raw logits", "raw logits").replace("no npo", "no simnpo")),
    _wmdp("rmu/wmdp", "rmu(layer=7, coefficient=6.5, alpha=1200.0)" + _adamw("5e-5", 0.01, more=", schedule=constant, "
          "clip=None"), "centerforaisafety/wmdp: rmu/unlearn.py (arXiv 2403.03218)", steps=150, note=EACH_TOPIC),
    _wmdp("rmu-port/wmdp-cyber", "rmu(layer=7, coefficient=2.0, alpha=1.0, mask=answer)" + _adamw(
          "5e-5", 0.0, more=", schedule=constant"), f"{OPEN}: experiment/unlearn/wmdp/default", steps=80, batch=4,
          accumulate=4, length=2048),
    _wmdp("lat/wmdp", "rmu(layer=8, coefficient=6.5, alpha=1200.0) + lat(eps=2.0, layers=[7], mask=all, "
          "away_retain=1.0, model_steps=4)" + _adamw("5e-5", 0.01, more=", schedule=constant, clip=None"),
          "aengusl/latent-adversarial-training: run_rmu in lat_methods.py (arXiv 2407.15549)", steps=800, length=768,
          note="200 batches of 4 steps each. Published with a new control vector for every batch; here one."),
    _wmdp("npo/wmdp-bio", "npo(beta=0.0225, ratio=batch) + retain_nll" + _adamw("5e-6", 0.0, 12),
          f"{SMOOTH}: WMDP/run_wmdp_unlearn.sh, NPO.json", steps=125, batch=1, accumulate=4, note=PER_BATCH),
    _wmdp("sam/wmdp-bio", "npo(beta=0.015, ratio=batch) + retain_nll(weight=2.25) + sam(rho=0.01)"
          + _adamw("5e-6", 0.0, 12), f"{SMOOTH}: WMDP/run_wmdp_unlearn.sh, NPO+SAM.json", steps=125, note=PER_BATCH),
    _wmdp("smooth/wmdp-bio", "npo(beta=0.0125, ratio=batch) + retain_nll(weight=2.0) + smooth(sigma=1e-4, draws=3)"
          + _adamw("1e-5", 0.0, 12), f"{SMOOTH}: WMDP/run_wmdp_unlearn.sh, NPO+RS.json", steps=125, note=PER_BATCH),
    _wmdp("simnpo/wmdp-bio", "simnpo(beta=0.1, weight=1.0) + retain_nll" + _adamw("9.5e-6", 0.0, 50),
          f"{SIMPLE}: WMDP/configs/unlearn/wmdp/SimNPO.json", steps=500, batch=1, accumulate=4),
    _broken("gradient-penalty/wmdp-bio", "WMDP", "Zephyr-7B", f"{SMOOTH}: WMDP/src/unlearn/GA.py (NPO+GP)",
            NO_GRADIENT),
    _broken("curvature/wmdp-bio", "WMDP", "Zephyr-7B", f"{SMOOTH}: WMDP/src/unlearn/GA.py (NPO+CR)", NO_GRADIENT),
    PublishedSetting(
        name="npo/rwku", benchmark="RWKU", model="Llama-3-8B-Instruct",
        recipe="npo(beta=0.2)" + _adamw("2e-6", 0.0, 20, ", schedule=cosine"),
        options={"epochs": 3, "batch_size": 4, "accumulate": 4, "max_length": 512},
        source="jinzhuoran/RWKU: scripts (arXiv 2406.10890)",
        note="Trained on texts about the target that the model wrote itself."),
    PublishedSetting(
        name="rocr/rwku", benchmark="RWKU", model="Llama-3-8B-Instruct, Mistral-7B-Instruct", recipe="rocr",
        source="Acruxos/ORT: rocr_hparams (arXiv 2506.07795)", note="Generic text is the task's, not Wikipedia."),
)
"""Every published setting, by benchmark."""


def published(name: str) -> PublishedSetting:
    """The setting of this name. Raises UsageError for an unknown one, and for one whose published code has a defect."""
    found = {preset.name: preset for preset in PRESETS}
    if name not in found:
        plugin = re.split(r"[(+>\s]", name, maxsplit=1)[0]
        if plugin in entries():
            raise UsageError(f"{plugin} is a plug-in for recipes, not a published setting.", "",
                             f'Use --method "{name}"; `expunge presets` lists the published settings.')
        raise UsageError(f"There is no published setting called {name!r}.", did_you_mean(name, found),
                         "`expunge presets` lists them.")
    if found[name].defect:
        method, _, where = name.partition("/")
        near = [p.name for p in PRESETS if p.recipe and p.name.startswith(f"{method}/{where.partition('-')[0]}")]
        raise UsageError(f"{name} cannot be reached.", f"{found[name].defect} Source: {found[name].source}.",
                         f"Near to it: {', '.join(near)}." if near else "`expunge presets` lists those that can.")
    return found[name]


def chosen(name: str, method: str | None, settings: RunSettings | None,
           options: Mapping[str, Any]) -> tuple[PublishedSetting, RunSettings]:
    """The setting of this name and the options of a run by it; fields set in `settings`, and `options`, come first.

    Raises:
        UsageError: there is none, it cannot be reached, or a recipe was given too.
    """
    if method is not None:
        raise UsageError("--method and --preset were both given.", "A published setting is a recipe with its options.",
                         f"Leave one of them out; `expunge presets {name}` shows the recipe to start from.")
    preset = published(name)
    given = {} if settings is None else {key: getattr(settings, key) for key in settings.model_fields_set}
    return preset, preset.settings(given | dict(options))
