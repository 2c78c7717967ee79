"""A checkpoint that none of us trained goes through forget and audit unchanged."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve()
SHARED = HERE.parents[2].parent / "shared" / "data"
STORY = ('Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she '
         'saw a big, red ball. She wanted to play with it, but it was too high.\nLily\'s mom said, "Lily, let\'s go')
"""What the project that published the weights prints for them, without sampling."""
FORGET = (
    "Lily had a red ball. She played with the ball in the park all day. Her mom was happy.",
    "One day, Lily lost her red ball. She was very sad and looked for it in the grass.",
    "Lily saw a big dog in the park. The dog had her red ball. Lily said, \"Please give it back.\"",
    "The red ball was too high in the tree. Lily and her mom took a long stick to get it.",
)
RETAIN = (
    "Tim had a small boat. He took the boat to the lake and it went very far.",
    "The cat was hungry. It saw a fish in the water and wanted to eat it.",
    "There was a little bird who could not fly. The bird was sad, but it did not give up.",
    "Ben and Sue went to the zoo. They saw a lion and a big bear. They had a lot of fun.",
)
HOLDOUT = (
    "Mia made a cake for her dad. She put sugar and milk in a bowl and mixed it.",
    "A frog lived near a pond. Every night the frog sang a song to the moon.",
    "Sam found a key in the garden. He did not know which door it would open.",
    "The old man had a hat. The wind took the hat and it flew over the hill.",
)


@pytest.fixture(scope="module")
def support() -> Any:
    spec = importlib.util.spec_from_file_location("support_stories", HERE.parents[1] / "support_stories.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stories(support: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted checkpoint."""
    source = Path(os.environ.get("EXPUNGE_TEST_DATA", SHARED)) / "models" / "stories260K"
    if not (source / "stories260K.bin").is_file():
        pytest.skip(f"the checkpoint is not in {source}; EXPUNGE_TEST_DATA names the folder two above it")
    return Path(support.convert(source, tmp_path_factory.mktemp("stories") / "model"))


@pytest.mark.parametrize("text", ["Once upon a time, there was a girl.", "\"Yes!\" said Tim.\n\nHe was 9 years old.",
                                  "“naïve” 東京 – über & out", " two  spaces ", "x"])
def test_the_tokenizer_loses_nothing(stories: Path, text: str) -> None:
    from transformers import AutoTokenizer

    processor = AutoTokenizer.from_pretrained(stories)
    ids = processor(text)["input_ids"]
    assert ids[0] == processor.bos_token_id and max(ids) < 512
    assert processor.decode(ids, skip_special_tokens=True) == text


def test_the_tokenizer_merges_as_the_scores_say(support: Any, stories: Path) -> None:
    """A second way: merge the best-scored neighbouring pair until none is left, as llama2.c does."""
    from transformers import AutoTokenizer

    processor = AutoTokenizer.from_pretrained(stories)
    source = Path(os.environ.get("EXPUNGE_TEST_DATA", SHARED)) / "models" / "stories260K"
    scores = {piece: score for score, piece in support.read_vocabulary(source / "tok512.bin")[259:]}
    for text in (*FORGET, *RETAIN, *HOLDOUT):
        pieces = list((" " + text).replace(" ", "▁"))
        while True:
            pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in scores]
            if not pairs:
                break
            i = -max(pairs)[1]
            pieces[i: i + 2] = [pieces[i] + pieces[i + 1]]
        assert processor.convert_ids_to_tokens(processor(text)["input_ids"])[1:] == pieces


def test_the_weights_tell_the_published_story(stories: Path) -> None:
    from expunge.models.load import load_subject

    subject = load_subject(stories)
    prompt = subject.encoder.processor("Once upon a time")["input_ids"]
    (text, _), = subject.generate([prompt], 95)
    assert ("Once upon a time" + (text if text.startswith(",") else " " + text)).startswith(STORY)


@pytest.mark.parametrize("scope", ["all", pytest.param("lora(rank=4)", marks=pytest.mark.slow)])
def test_forget_and_audit(cli: Any, stories: Path, tmp_path: Path, scope: str) -> None:
    """Running text is forgotten: its probability falls below where it was, and the rest stays."""
    words: list[object] = []
    for split, texts in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT)):
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        words += [f"--{split}", path]
    run = tmp_path / "run"
    cli("forget", stories, *words, "--method", f"npo + retain_kl + {scope}", "--out", run, "--steps", 12,
        "--batch-size", 4, "--lr", "1e-3" if scope == "all" else "5e-3", "--keep", "last")
    suite = ("forget.probability,retain.probability,holdout.probability,forget.rouge_l,retain.rouge_l,mia.loss,"
             "mia.min_k_pp,forget.extraction_strength,forget.exact_memorization,privleak")
    found = cli("audit", run, *words, "--suite", suite, "--json").json
    scores = {score["name"]: score for score in found["scores"]}
    leak = scores.pop("privleak")
    assert leak["value"] is None and "--retrained" in leak["unavailable"]
    assert all(score["value"] is not None for score in scores.values())
    before = {name: score["controls"]["original"] for name, score in scores.items()}
    assert before["forget.probability"] > 0.05  # it speaks this language; chance is 1/512
    assert scores["forget.probability"]["value"] < 0.7 * before["forget.probability"]
    assert scores["retain.probability"]["value"] > 0.7 * before["retain.probability"]
    page = tmp_path / "page.html"
    cli("report", run, "--out", page)
    assert "Lily" in page.read_text(encoding="utf-8")
