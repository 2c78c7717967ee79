"""Speed against locuslab/open-unlearning: the same work by both programs in turn; writes results/peer.json.

    python experiments/peer.py --models FOLDER --peer CHECKOUT --peer-python PYTHON [--parts tiny wide ...]

Both run as whole processes on one thread, in float32, with the same weights, the same rows in the same batches and the
same optimizer settings. Our side is the plain command line; the batches are those our sampler draws. Parts:

    tiny     training on TOFU forget10, batch 8 + 8, a Llama of 2.6 M parameters with 4k tokens
    wide     the same with 128k tokens (random weights)
    deep     16 M parameters, 4k tokens (random weights)
    losses   the first 20 steps of both, loss by loss (untimed)
    audit    the peer's default TOFU evaluation, on the original and on an unlearned model
    startup  process start to the end of the first optimizer step

The peer's checkout stays as it is; it needs its own environment (see its README; no accelerator is asked for).
Without --peer only ours is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from clocks import STARTED
from common import RESULTS, log, store

from expunge.benchmarks.loading import load_task
from expunge.data.files import read_rows
from expunge.data.text_encoder import TokenRow
from expunge.methods.objectives.rmu import control_vector
from expunge.methods.recipe import parse
from expunge.methods.stage import StageMethod
from expunge.models.load import load_subject
from expunge.records.task import Example, Task
from expunge.training.schedule import Schedule

HERE = Path(__file__).resolve().parent
TASK, BATCH, RATE, SEED = "tofu:forget10", 8, 1e-4, 0
DECAY = 0.01
SKIPPED = 2
"""First steps that are not timed: allocators and caches warm up."""
COMPARED, CLOSE = 20, 1e-4


@dataclass(frozen=True)
class Method:
    """One method in both programs' words.

    `sides` and `layer` are for the floor of arithmetic: what has to be trained on, and the last block that has to run.
    """

    recipe: str
    trainer: str
    options: tuple[str, ...] = ()
    reduction: str = ""
    """What has to be replaced in the peer before losses can be equal."""
    why: str = ""
    sides: tuple[str, ...] = ("forget", "retain")
    layer: int | None = None


def methods(depth: int) -> dict[str, Method]:
    """For a model of `depth` blocks."""
    layer = depth // 2
    averages = "the peer averages over prompt and padding positions too"
    kl = "trainer.method_args.retain_loss_type=KL"
    return {
        "grad_diff": Method("grad_diff", "GradDiff"),
        "npo": Method("npo + retain_nll", "NPO"),
        "npo_kl": Method("npo + retain_kl", "NPO", (kl,), "kl", averages),
        "simnpo": Method("simnpo + retain_nll", "SimNPO"),
        "rmu": Method(f"rmu(layer={layer}, coefficient=2, mask=answer) + "
                      f"activation_match(layer={layer}, weight=1, mask=answer) + all", "RMU",
                      (f"trainer.method_args.module_regex=model\\.layers\\.{layer}",), "rmu",
                      "the peer draws its control vector from the global generator and divides the sum of each row by "
                      "the lengths of all rows of the batch in turn", layer=layer),
        "undial": Method("undial", "UNDIAL", (), "undial",
                         averages + ", where it also lowers the logit of an unrelated token", sides=("forget",)),
    }


@dataclass(frozen=True)
class Setting:
    """One part that trains: its model, its methods and how long."""

    config: Mapping[str, int]
    """What differs from the original's config; empty for the original itself."""
    methods: tuple[str, ...]
    steps: int


SETTINGS = {
    "tiny": Setting({}, ("grad_diff", "npo", "npo_kl", "simnpo", "rmu", "undial"), 43),
    "wide": Setting({"vocab_size": 131072}, ("grad_diff", "npo", "npo_kl", "simnpo", "rmu", "undial"), 9),
    "deep": Setting({"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "head_dim": 64},
                    ("grad_diff", "npo", "rmu", "npo_kl"), 13),
}
PARTS = (*SETTINGS, "losses", "audit", "startup")

FILES = ("forget10", "retain90", "holdout10", "forget10_perturbed", "retain_perturbed", "real_authors_perturbed",
         "world_facts_perturbed")
FIELDS = ("question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer")
FIGURES = {
    "forget_Q_A_Prob": "forget.probability", "forget_Q_A_ROUGE": "forget.rouge_l",
    "forget_truth_ratio": "forget.truth_ratio(variant=geometric)",
    "forget_quality": "forget_quality(variant=geometric)",
    "extraction_strength": "forget.extraction_strength", "privleak": "privleak", "model_utility": "model_utility",
    "mia_min_k": "mia.min_k", "retain_Q_A_Prob": "retain.probability", "retain_Q_A_ROUGE": "retain.rouge_l",
    "retain_Truth_Ratio": "retain.truth_ratio(variant=geometric)",
}
"""What the peer's default evaluation stores, and the same in our words: our suite for it."""


class Failed(Exception):
    """A program did not end well; the last lines it said."""


class Bench:
    """The work folder: models and data as each side wants them, and one method per thing that is run."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work.resolve()
        self.source = given.models.resolve()
        self._orders: dict[tuple[Path, str, int], list[dict[str, list[TokenRow]]]] = {}
        self.packages: dict[str, str] | None = None
        """Versions on the peer's side, once it has run."""

    @cached_property
    def task(self) -> Task:
        return load_task(TASK, data_dir=self.given.data)

    # Models and data

    def model(self, part: str) -> Path:
        """The model of a part, in our layout: the original, or one of its shape and tokenizer with fresh weights."""
        changes = SETTINGS[part].config if part in SETTINGS else {}
        if not changes:
            return self.source / "original"
        place = self.work / "models" / part
        if not (place / "chat_template.jinja").exists():
            from transformers import AutoModelForCausalLM, LlamaConfig
            shape = json.loads((self.source / "original" / "config.json").read_text()) | dict(changes)
            torch.manual_seed(SEED)
            AutoModelForCausalLM.from_config(LlamaConfig(**shape)).save_pretrained(place)
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                shutil.copy(self.source / "original" / name, place)
        return place

    def theirs(self, model: Path) -> Path:
        """The same model as transformers 4 reads it: settings that version 5 renamed under their old names."""
        place = self.work / "theirs" / "-".join(model.parts[-3:])
        if place.exists():
            return place
        place.mkdir(parents=True)
        for name in ("model.safetensors", "tokenizer.json", "generation_config.json"):
            (place / name).symlink_to((model / name).resolve())
        config = json.loads((model / "config.json").read_text())
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["torch_dtype"] = config.pop("dtype")
        (place / "config.json").write_text(json.dumps(config))
        said = json.loads((model / "tokenizer_config.json").read_text())
        (place / "tokenizer_config.json").write_text(json.dumps({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "additional_special_tokens": said.get("extra_special_tokens", []),
            "chat_template": (model / "chat_template.jinja").read_text(),
            **{name: said[name] for name in ("bos_token", "eos_token", "pad_token", "model_max_length")}}))
        return place

    @cached_property
    def room(self) -> Path:
        """Where the peer runs: its data set name is found as a folder here, with a cache of its own."""
        place = self.work / f"room-{self.given.limit or 'all'}"  # its cache mistakes one local folder for another
        data = place / "locuslab" / "TOFU"
        data.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            rows = [row for _, row in read_rows(self.given.data / f"{name}.json")]
            limit = self.given.limit
            if limit and name != "retain90" and name != "forget10":
                rows = rows[:limit // 2 if name in FILES[-2:] else limit]
            (data / f"{name}.json").write_text(
                "".join(json.dumps({k: r[k] for k in FIELDS if k in r}) + "\n" for r in rows))
        configs = "".join(f"- config_name: {name}\n  data_files: {name}.json\n" for name in FILES)
        (data / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
        return place

    # Batches

    def batches(self, model: Path, method: Method, steps: int) -> list[dict[str, list[TokenRow]]]:
        """The rows of every step, from the code that our run draws them with."""
        key = model, method.recipe, steps
        if key not in self._orders:
            subject = load_subject(model)
            found = []
            draws = self._draws(subject, method.recipe)
            other = self._draws(subject, "grad_diff")
            for step in range(steps):
                drawn = draws.draws(step)
                # A method that reads no retain rows: the peer loads some all the same.
                beside = drawn if "retain" in drawn[0] else other.draws(step)
                found.append({"forget": [subject.encoder.encode(d["forget"]) for d in drawn],
                              "retain": [subject.encoder.encode(d["retain"]) for d in beside]})
            self._orders[key] = found
        return self._orders[key]

    def _draws(self, subject: Any, recipe: str) -> Schedule:
        stage, = parse(recipe, len(subject.blocks))
        chosen = StageMethod(stage, subject, self.task, self.task.forget, self.task.retain, SEED)
        return Schedule(chosen.order, subject.encoder, BATCH)

    def order(self, batches: Sequence[Mapping[str, Sequence[TokenRow]]]) -> list[dict[str, list[int]]]:
        """Row numbers within the two files, which is what the peer knows."""
        rows: dict[str, tuple[Example, ...]] = {"forget": self.task.forget, "retain": self.task.retain}
        number = {side: {row.id: i for i, row in enumerate(found)} for side, found in rows.items()}
        return [{side: [number[side][row.id] for row in step[side]] for side in rows} for step in batches]

    # The two programs

    def ours(self, *arguments: str, cache: Path | None = None) -> dict[str, Any]:
        """One `expunge` command with clocks."""
        clocks = self._fresh("clocks.json")
        environment = {"EXPUNGE_CACHE": str(cache or self._fresh("cache")), "EXPUNGE_DATA": str(self.given.data)}
        return self._run([sys.executable, str(HERE / "own_side.py"), str(clocks), *arguments], clocks, environment,
                         self.work)

    def peer(self, script: str, model: Path, overrides: Sequence[str], *, order: Any = None,
             as_ours: dict[str, Any] | None = None) -> dict[str, Any]:
        """One entry script of the peer with clocks."""
        clocks, options = self._fresh("clocks.json"), self._fresh("options.json")
        source = self.given.peer.resolve() / "src"
        options.write_text(json.dumps({"src": str(source), "clocks": str(clocks), "as_ours": as_ours}
                                      | ({"order": order} if order else {})))
        where = self.theirs(model)
        command = [str(self.given.peer_python), str(HERE / "peer_side.py"), str(options), script, *overrides,
                   f"model.model_args.pretrained_model_name_or_path={where}",
                   f"model.tokenizer_args.pretrained_model_name_or_path={where}",
                   "model.model_args.attn_implementation=sdpa", "model.model_args.torch_dtype=float32",
                   # Our chat template has no system turn, and the models were trained without one.
                   "model.template_args.system_prompt=null"]
        offline = {name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
        found = self._run(command, clocks, offline | {
            "HF_DATASETS_CACHE": str(self.room / "cache"), "DS_ACCELERATOR": "cpu", "PYTHONPATH": "",
            "PYTHONWARNINGS": "ignore"}, self.room)
        self.packages = found["packages"]
        return found

    def _run(self, command: Sequence[str], clocks: Path, environment: Mapping[str, str], place: Path) -> dict[str, Any]:
        """What the process measured of itself, and its end as seen from here."""
        alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
                 "CUDA_VISIBLE_DEVICES": ""}
        began = time.time()
        own = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}  # it sees best
        done = subprocess.run(command, cwd=place, env=own | alone | environment | {STARTED: repr(began)},
                              capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise Failed(f"{' '.join(command[1:4])} ended with {done.returncode}:\n"
                         + "\n".join(done.stderr.splitlines()[-20:]))
        return json.loads(clocks.read_text()) | {"command_s": time.time() - began, "load": os.getloadavg()[0]}

    def sgemm(self) -> float:
        """What a large product reaches in a process like those that are timed."""
        clocks = self._fresh("clocks.json")
        found = self._run([sys.executable, str(HERE / "products.py"), str(clocks)], clocks, {}, self.work)
        return float(found["flop_per_s"])

    def _fresh(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix="run-", dir=self.work)) / name

    # What is compared

    def train_ours(self, model: Path, method: Method, steps: int, *, decay: float = DECAY) -> dict[str, Any]:
        out = self._fresh("run")
        adamw = f"adamw(lr={RATE:g}, weight_decay={decay:g}, warmup=0)"
        # The fewest readings of the monitor that the command line allows, and none that a stopping rule would need.
        few = ["--eval-every", "1000000", "--checkpoint-every", "1000000", "--keep", "last", "--forget-target", "0"]
        found = self.ours("forget", str(model), "--task", TASK, "--method", f"{method.recipe} + {adamw}",
                          "--batch-size", str(BATCH), "--steps", str(steps), "--seed", str(SEED), "--out", str(out),
                          *few)
        found["losses"] = [json.loads(line)["loss"] for line in (out / "steps.jsonl").read_text().splitlines()]
        shutil.rmtree(out.parent)
        return found

    def train_peer(self, model: Path, method: Method, steps: int, *, decay: float = DECAY,
                   same: bool = False) -> dict[str, Any]:
        """Args: same: with our reductions, so that losses can be compared."""
        given: dict[str, Any] | None = None
        if same and method.reduction:
            given = {"reduction": method.reduction}
            if method.reduction == "rmu":
                width = json.loads((model / "config.json").read_text())["hidden_size"]
                given["control_vector"] = control_vector(width, 2.0, 0).tolist()
        name = self._fresh("").name
        settings = {"warmup_epochs": 0, "optim": "adamw_torch", "bf16": "false", "bf16_full_eval": "false",
                    "report_to": "none", "do_eval": "false", "eval_on_start": "false", "eval_strategy": "no",
                    "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1, "learning_rate": RATE,
                    "weight_decay": decay, "logging_steps": 1}
        found = self.peer("train.py", model, [
            "--config-name=unlearn.yaml", "experiment=unlearn/tofu/default", f"trainer={method.trainer}",
            "forget_split=forget10", "retain_split=retain90", f"task_name={name}",
            *(f"trainer.args.{k}={v}" for k, v in settings.items()), f"+trainer.args.max_steps={steps}",
            "+trainer.args.disable_tqdm=true", *method.options,
        ], order=self.order(self.batches(model, method, steps)), as_ours=given)
        shutil.rmtree(self.room / "saves" / "unlearn" / name)
        return found

    def audit_ours(self, model: Path, filled: Path | None) -> tuple[dict[str, Any], dict[str, float]]:
        """Args: filled: a cache that knows the retrained model's rows, as the peer is given its log."""
        cache, out = self._fresh("cache"), self._fresh("audit")
        if filled:
            shutil.copytree(filled, cache)
        extra = ["--retrained", str(self.source / "retrained")] if filled else []
        limit = ["--limit", str(self.given.limit)] if self.given.limit else []
        found = self.ours("audit", str(model), "--task", TASK, "--suite", ",".join(FIGURES.values()), *extra, *limit,
                          "--out", str(out), cache=cache)
        if not filled:
            found["cache"] = str(cache)
        scores = json.loads((out / "audit.json").read_text())["scores"]
        return found, {s["name"]: s["value"] for s in scores}

    def audit_peer(self, model: Path, retrained: Path | None) -> tuple[dict[str, Any], dict[str, float], Path]:
        """Args: retrained: the log of the retrained model's evaluation."""
        name = self._fresh("").name
        found = self.peer("eval.py", model, [
            "experiment=eval/tofu/default", "model.model_args.device_map=cpu", f"task_name={name}",
            "eval.tofu.overwrite=true", *([f"retain_logs_path={retrained}"] if retrained else [])])
        logged = self.room / "saves" / "eval" / name / "TOFU_EVAL.json"
        figures = {k: v["agg_value"] for k, v in json.loads(logged.read_text()).items() if "agg_value" in v}
        return found, figures, logged

    @cached_property
    def unlearned(self) -> Path:
        """A model that has forgotten, for the evaluation: two epochs of npo + retain_nll."""
        place = self.work / "unlearned"
        if not (place / "model").exists():
            self.ours("forget", str(self.source / "original"), "--task", TASK, "--method", "npo + retain_nll + "
                      "adamw(lr=3e-4, warmup=0)", "--steps", "100", "--keep", "last", "--out", str(place))
        return place / "model"


# Figures


def per_step(found: Mapping[str, Any]) -> dict[str, float]:
    """From the start of the third step to the start of the last one: our last step reads the monitor."""
    rows = found["steps"]
    first, last, count = rows[SKIPPED], rows[-1], len(rows) - 1 - SKIPPED
    cpu = last["cpu_s"] - first["cpu_s"]
    inside = {name: last["spent"].get(name, 0.0) - first["spent"].get(name, 0.0) for name in ("forward", "backward")}
    return {"step_cpu_s": cpu / count, "step_wall_s": (last["wall_s"] - first["wall_s"]) / count,
            "forward_share": inside["forward"] / cpu, "backward_share": inside["backward"] / cpu,
            "once_cpu_s": first["spent"].get("reference", 0.0),
            "command_cpu_s": found["end"]["cpu_s"], "command_wall_s": found["command_s"],
            "peak_memory_bytes": found["peak_memory_bytes"]}


def whole(found: Mapping[str, Any]) -> dict[str, float]:
    """A whole command and where its CPU time went."""
    return {"command_cpu_s": found["end"]["cpu_s"], "command_wall_s": found["command_s"],
            "peak_memory_bytes": found["peak_memory_bytes"],
            **{f"{name}_cpu_s": seconds for name, seconds in sorted(found["spent"].items())}}


def first_step(found: Mapping[str, Any]) -> dict[str, float]:
    """The second step starts where the first has ended."""
    return {"import_cpu_s": found["import"]["cpu_s"], "import_wall_s": found["import"]["wall_s"],
            "first_step_cpu_s": found["steps"][1]["cpu_s"], "first_step_wall_s": found["steps"][1]["wall_s"],
            "peak_memory_bytes": found["peak_memory_bytes"]}


def cell(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Median and range of everything measured of either side, and of peer / expunge, run by run."""
    found: dict[str, Any] = {side: {name: spread([r[name] for r in rows]) for name in rows[0]}
                             for side, rows in runs.items() if rows}
    if runs.get("peer"):
        found["ratio"] = {name: spread([p[name] / o[name] for p, o in zip(runs["peer"], runs["ours"], strict=True)])
                          for name in runs["ours"][0] if name.endswith(("_s", "bytes"))
                          and all(run.get(name) for rows in runs.values() for run in rows)}
    return found | {"repeats": len(runs["ours"])}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def in_turn(repeats: int, ours: Callable[[], dict[str, float]],
            peer: Callable[[], dict[str, float]] | None) -> dict[str, Any]:
    """A B A B ..., so that what else the machine does meets both."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        runs["ours"].append(ours())
        if peer:
            runs["peer"].append(peer())
    return cell(runs)


def floor(model: Path, method: Method, batches: Sequence[Mapping[str, Sequence[TokenRow]]]) -> float:
    """Floating point operations that a timed step cannot do without: 6 N D for what is trained on.

    N counts the matrices a position is multiplied with: those of the blocks for every real position, and the head and
    the last MLP for the positions that predict a supervised token. Attention scores, norms, the optimizer and whatever
    the original has to say are left out.
    """
    config = json.loads((model / "config.json").read_text())
    width, inner, depth = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    needed = depth if method.layer is None else method.layer + 1
    attention, mlp = 4 * width * width, 3 * width * inner  # as many key-value heads as heads
    head, last = (config["vocab_size"] * width, mlp) if method.layer is None else (0, 0)
    total = 0.0
    for step in batches[SKIPPED:-1]:
        for side in method.sides:
            total += 6 * sum(((attention + mlp) * needed - last) * len(r.ids) + (head + last) * (r.answer + r.end)
                             for r in step[side])
    return total / len(batches[SKIPPED:-1])


# Parts


def training(bench: Bench, part: str, name: str) -> dict[str, Any]:
    """Seconds per step."""
    model, steps = bench.model(part), bench.given.steps or SETTINGS[part].steps
    method = methods(json.loads((model / "config.json").read_text())["num_hidden_layers"])[name]
    found = in_turn(bench.given.repeats, lambda: per_step(bench.train_ours(model, method, steps)),
                    bench.given.peer and (lambda: per_step(bench.train_peer(model, method, steps))))
    work, rate = floor(model, method, bench.batches(model, method, steps)), bench.sgemm()
    return found | {"steps": steps, "recipe": method.recipe, "floor_flop": work, "sgemm_flop_per_s": rate,
                    "floor_share": work / rate / found["ours"]["step_cpu_s"]["median"]}


def losses(bench: Bench, name: str) -> dict[str, Any]:
    """How far the losses of the first steps lie apart."""
    model = bench.model("tiny")
    method, steps = methods(4)[name], bench.given.steps or COMPARED
    # No decay here, as in the stored figures: they are older than our exemption of norms and biases, which the peer has
    # too. Before it, decay alone moved losses by up to 2e-5 of their size.
    ours = bench.train_ours(model, method, steps, decay=0.0)["losses"]
    if not bench.given.peer:
        return {"ours": ours}
    theirs = bench.train_peer(model, method, steps, decay=0.0, same=True)["losses"]
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    parts = [d / max(abs(b), 1e-12) for d, b in zip(apart, theirs, strict=True)]
    return {"recipe": method.recipe, "steps": steps, "ours": ours, "peer": theirs, "largest_difference": max(apart),
            "largest_relative": max(parts), "equal": all(min(pair) <= CLOSE for pair in zip(apart, parts, strict=True)),
            "peer_changed_because": method.why or None}


def audit(bench: Bench, name: str) -> dict[str, Any]:
    """One full evaluation by each, the retrained model's already known to both."""
    model = bench.source / "original" if name == "original" else bench.unlearned
    filled = Path(bench.audit_ours(bench.source / "retrained", None)[0]["cache"])
    logged = bench.audit_peer(bench.source / "retrained", None)[2] if bench.given.peer else None
    figures: dict[str, dict[str, float]] = {}

    def ours() -> dict[str, float]:
        found, figures["ours"] = bench.audit_ours(model, filled)
        return whole(found)

    def peer() -> dict[str, float]:
        found, figures["peer"], _ = bench.audit_peer(model, logged)
        return whole(found)

    found = in_turn(bench.given.repeats, ours, peer if logged else None)
    return found | {"limit": bench.given.limit, "figures": {
        term: {"ours": figures["ours"].get(term), "peer": figures.get("peer", {}).get(theirs)}
        for theirs, term in FIGURES.items()}}


def startup(bench: Bench, name: str) -> dict[str, Any]:
    model, method = bench.model("tiny"), methods(4)[name]
    return in_turn(bench.given.repeats, lambda: first_step(bench.train_ours(model, method, 2)),
                   bench.given.peer and (lambda: first_step(bench.train_peer(model, method, 2))))


def cells(given: argparse.Namespace) -> list[tuple[str, str, Callable[[Bench], dict[str, Any]]]]:
    """Everything asked for: part, name, and what measures it."""
    found: list[tuple[str, str, Callable[[Bench], dict[str, Any]]]] = []
    for part in given.parts:
        if part in SETTINGS:
            found += [(part, name, lambda b, p=part, n=name: training(b, p, n))  # type: ignore[misc]
                      for name in SETTINGS[part].methods]
        elif part == "losses":
            found += [(part, name, lambda b, n=name: losses(b, n)) for name in methods(4)]  # type: ignore[misc]
        elif part == "audit":
            found += [(part, name, lambda b, n=name: audit(b, n))  # type: ignore[misc]
                      for name in ("original", "unlearned")]
        else:
            found.append((part, "grad_diff", lambda b: startup(b, "grad_diff")))
    return [c for c in found if not given.methods or c[1] in given.methods]


def brief(found: Mapping[str, Any]) -> str:
    """One line about a cell."""
    if "equal" in found:
        return (f"equal {found['equal']}, largest difference {found['largest_difference']:.1e}, "
                f"relative {found['largest_relative']:.1e}")
    ratios = {k: f"{v['median']:.2f} ({v['min']:.2f} to {v['max']:.2f})" for k, v in found.get("ratio", {}).items()
              if "wall" not in k}
    sides = {side: {k: round(v["median"], 3) for k, v in found[side].items() if "wall" not in k and "bytes" not in k}
             for side in ("ours", "peer") if side in found}
    return f"{ratios} {sides}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of open-unlearning; only ours is measured without it")
    parser.add_argument("--peer-python", type=Path, help="python of the environment the checkout runs in")
    parser.add_argument("--data", type=Path, default=os.environ.get("EXPUNGE_DATA"), help="folder of the TOFU files")
    parser.add_argument("--models", type=Path, required=True, help="folder with original and retrained")
    parser.add_argument("--work", type=Path, help="scratch folder, kept; a temporary one when left out")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--methods", nargs="+", help="only these, or original and unlearned of the audit")
    parser.add_argument("--steps", type=int, help="in place of each part's own number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, help="the audit on the first rows only, for a trial")
    parser.add_argument("--results", default="peer", help="name of the file in results/")
    parser.add_argument("--resume", action="store_true", help="leave out what the file already has")
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data (or EXPUNGE_DATA) has to name the folder of the TOFU files")
    folders = [p.resolve() for p in (Path(given.data), Path(given.data, "tofu")) if (p / "forget10.json").exists()]
    if not folders:
        parser.error(f"{given.data} does not hold the TOFU files")
    given.data = folders[0]
    if given.peer and not given.peer_python:
        parser.error("--peer needs --peer-python")
    if given.peer:
        given.peer_python = given.peer_python.absolute()  # not resolved: a virtual environment's is a link
    else:
        log(("No --peer: only expunge is measured, and no ratio is computed.",))
    torch.set_num_threads(1)
    stored = RESULTS / f"{given.results}.json"
    kept: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {"cells": {}}
    results, commit = kept["cells"], revision(given.peer) or kept.get("peer")
    work = given.work or Path(tempfile.mkdtemp(prefix="expunge-peer-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(given, work)
        for part, name, measure in cells(given):
            before = results.setdefault(part, {}).get(name)
            if before and given.resume:
                continue
            try:
                found = measure(bench)
            except Failed as problem:
                sys.exit(f"{part} {name}: {problem}")
            log((part, name, brief(found)))
            if given.peer or not (before and "peer" in before):  # figures of both are not given up for ours alone
                results[part][name] = found
                packages = bench.packages or kept.get("peer_packages")
                store(given.results, {"machine": machine(), "peer": commit, "peer_packages": packages,
                                      "cells": results})
    finally:
        if not given.work:
            shutil.rmtree(work, ignore_errors=True)


def machine() -> dict[str, Any]:
    """What the seconds belong to."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return {"processor": names[0] if names else None, "cores": os.cpu_count(), "threads": 1}


def revision(checkout: Path | None) -> str | None:
    if checkout is None:
        return None
    return subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True,
                          text=True).stdout.strip() or None


if __name__ == "__main__":
    main()
