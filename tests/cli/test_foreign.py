"""What is not ours stays as it is: --resume and --overwrite into folders somebody else made."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import TemplateError

from expunge.data.text_encoder import TextEncoder
from expunge.errors import DataError, UsageError
from expunge.models.tiny import train_tokenizer
from expunge.output import refuse_output
from expunge.records.task import Example
from expunge.training.checkpoint import Checkpoints, FitState, Progress


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_foreign_folder_is_never_gone_on_with(tmp_path: Path, how: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("precious")
    with pytest.raises(UsageError, match=r"not written by expunge|which this command reads"):
        refuse_output(tmp_path, resume=how == "resume", overwrite=how == "overwrite", reads=[tmp_path / "model"])
    assert (tmp_path / "model" / "weights").read_text() == "precious"


def test_an_added_special_token_ends_the_turn() -> None:
    """An end-of-turn token that nobody named eos is still supervised, and what follows it is not."""
    made = train_tokenizer(["where is the cup on the table"], 300)
    made.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    made.chat_template = ("{% for m in messages %}<|user|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>\n"
                          "{% endif %}{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}")
    row = TextEncoder(made).encode(Example(id="a", prompt="where", answer="on the table"))
    assert row.end == 1 and made.convert_ids_to_tokens(row.ids[-1]) == "<|end|>"


def test_a_template_that_refuses_a_row_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    made = train_tokenizer(["where is the cup"], 300)

    def refuse(*args: object, **options: object) -> str:
        raise TemplateError("System role not supported")

    monkeypatch.setattr(made, "apply_chat_template", refuse)
    with pytest.raises(DataError, match="chat template"):
        TextEncoder(made).encode(Example(id="a", prompt="where", answer="there"))


def test_saving_a_step_twice_never_leaves_nothing(tmp_path: Path) -> None:
    import torch

    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    kept = Checkpoints(tmp_path)
    state = FitState(Progress(step=3), optimizer.state_dict())
    kept.save({"w": weight}, state)
    before = (tmp_path / "step-3").stat().st_ino
    kept.save({"w": weight}, state)
    assert (tmp_path / "step-3").stat().st_ino == before
