"""The weights a run leaves, with their model card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from expunge.models.load import auto_class, own_module, save_in
from expunge.models.subject import Subject
from expunge.records.base import write_text
from expunge.records.run import RunRecord


def save_run(subject: Subject, folder: Path, dtype: torch.dtype, record: RunRecord) -> None:
    """Save the model and its card in a new folder, then rename it: nothing half-written is ever called `model`."""
    fresh = folder.with_name(".model.new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_in(subject, fresh, dtype, record.seed)
    write_text(fresh / "README.md", model_card(record, subject))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def _listed(targets: Any) -> list[str]:
    return [targets] if isinstance(targets, str) else sorted(targets or ())


def _adapted(subject: Subject) -> list[str]:
    """The layers and matrices that an adapter sits on, as their names end."""
    found = [name for config in subject.model.peft_config.values()
             for name in (*_listed(config.target_modules), *(getattr(config, "target_parameters", None) or ()))]
    return sorted({".".join(name.split(".")[-2:]) if name.endswith(".weight") or "experts" in name
                   else name.rpartition(".")[2] for name in found})


def model_card(record: RunRecord, subject: Subject) -> str:
    """README.md of the saved weights: what they are, where they come from and what loading them needs."""
    done = "unlearned" if record.kind == "forget" else "trained"
    kept = {k: v for k, v in record.best.get("kept", {}).items() if isinstance(v, int | float)}
    own, loader = own_module(subject.model.config.model_type), auto_class(type(subject)).__name__
    return "\n".join([
        "---", "library_name: transformers", "tags: [machine-unlearning, expunge]", "---", "",
        f"# {Path(record.model).name}, {done}", "",
        f"- recipe: `{record.recipe}`", f"- task: `{record.task}`", f"- seed: {record.seed}",
        f"- weights before: fingerprint `{record.model_fingerprint}`",
        *(["- these weights are an adapter: the model it sits on still knows the rows "
           "(`expunge merge` makes whole weights)", f"- it sits on: {', '.join(_adapted(subject))}"]
          if hasattr(subject.model, "peft_config") else []),
        *(f"- {name} at the kept step: {value:.4g}" for name, value in kept.items()), "",
        "The run's `record.json` holds every option, input and version. What the model still knows is",
        "for an audit to say: `expunge audit`.", "",
        *(f"Its class is expunge's own: `import {module}` before `{loader}.from_pretrained`.\n"
          for module in own),
    ])
