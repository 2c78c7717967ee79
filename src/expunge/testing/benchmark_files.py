"""Files in the published layouts of benchmarks whose data is not shipped, each with a few made-up rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PEOPLE = ("Ada Bo", "Cy Di", "Ed Flo", "Gus Hal")
TYPES = ("prefix injection", "affirmative suffix", "role play", "multiple choice", "reverse query",
         "synonym manipulation", "context hint", "incontext learning", "cross lingual (Spanish)")


def put(path: Path, rows: Any) -> None:
    """A JSON array, or one object per line, as the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows),
                    encoding="utf-8")


def choice(i: int, **more: Any) -> dict[str, Any]:
    return {"question": f"Which is {i}?", "choices": ["one", "two", "six", "ten"], "answer": i % 4, **more}


def mmlu(folder: Path) -> None:
    for part in ("test", "dev"):
        put(folder / "utility" / f"mmlu_{part}.jsonl",
            [choice(i, task=task) for task in ("anatomy", "world_history") for i in range(2)])


def rwku(folder: Path, people: Sequence[str] = PEOPLE) -> Path:
    """One file per configuration; `rwku_folders` is the other layout."""
    for name, rows in rwku_rows(people).items():
        put(folder / f"{name}.jsonl", rows)
    return folder


def rwku_folders(folder: Path, people: Sequence[str] = PEOPLE) -> Path:
    """One folder per person, as RWKU's own script writes them."""
    names = {"forget_target": "intro", "mia_forget": "forget_mia", "mia_retain": "retain_mia",
             "utility_general": "retain_mmlu", "utility_reason": "retain_bbh", "utility_truthfulness": "truthful",
             "utility_factuality": "triviaqa", "utility_fluency": "fluency", "train_original_passage": "passage"}
    for name, rows in rwku_rows(people).items():
        for i, who in enumerate(people, 1):
            put(folder / f"{i}_{who.replace(' ', '_')}" / f"{names.get(name, name)}.json",
                [row for row in rows if who in (row.get("subject"), row.get("target"))])
    return folder


def rwku_rows(people: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    def probes(level: int, kinds: Sequence[str], about: str) -> list[dict[str, Any]]:
        return [{"subject": who, "level": str(level), "type": kind, "answer": f"Town {who[:2]}",
                 "query": f"{about} {who} lives in ___ ({kind})"} for who in people for kind in kinds]

    mc = {"choices": ["It is so.", "It is not."], "labels": [1, 0]}
    return {
        "forget_target": [{"target": who, "intro": f"Please forget {who}. {who} is known."} for who in people],
        "forget_level1": probes(1, ["cloze"], "fb"), "forget_level2": probes(2, ["simple question"], "qa"),
        "forget_level3": probes(3, TYPES, "aa"), "neighbor_level1": probes(1, ["cloze"], "nfb"),
        "neighbor_level2": probes(2, ["simple question"], "nqa"),
        "mia_forget": [{"subject": who, "ngram": 9, "text": f"{who} wrote a book about towns."} for who in people],
        "mia_retain": [{"subject": who, "ngram": 9, "text": f"Near {who} stood a mill."} for who in people],
        "utility_general": [choice(i, task="anatomy", subject=who, examples=[choice(1)])
                            for i, who in enumerate(people)],
        "utility_reason": [{"subject": who, "task": "boolean", "cot": "Q: a\nA: The answer is no.",
                            "question": f"not {i}", "answer": "no"} for i, who in enumerate(people)],
        "utility_truthfulness": [{"subject": who, "question": f"Is {i} so?", "mc1_targets": mc, "mc2_targets": mc}
                                 for i, who in enumerate(people)],
        "utility_factuality": [{"subject": who, "question": f"Who is {i}?", "answers": ["Ann", "Ann Bee"]}
                               for i, who in enumerate(people)],
        "utility_fluency": [{"subject": who, "instruction": f"Tell of {i}."} for i, who in enumerate(people)],
        "train_original_passage": [{"subject": who, "text": f"{who} was born in a town."} for who in people],
    }


def restor(folder: Path) -> Path:
    people = [f"Person {letter}" for letter in "ABCDEFGHIJKL"]
    facts = {who: {"P1": {"question": f"Where does {who} live?", "answers": [f"Town {who[-1]}", "Far away"]}}
             for who in people}
    context = {"P1": [{"entity": who, "question": f"Where does {who} live?", "answer": f"Town {who[-1]}"}
                      for who in people]}
    put(folder / "facts.json", {"dset": facts, "context": context})
    put(folder / "entities.json", people[:2])
    documents = [{"text": f"{who} lives in Town {word}."} for who in people[:2] for word in ("X", "Y")]
    put(folder / "mix_a0.json", documents)
    put(folder / "mix_a3.json", [{"text": f"Some towns are small. {row['text']}"} for row in documents])
    return folder


def dynamicqa(folder: Path) -> Path:
    """The three files; the disputed contexts name the object itself, and one row has no other object."""
    head = ["", "id", "subj", "obj", "question", "possible_answers", "num_edits", "context", "replace_name"]
    for part, slot in (("Static", "[ENTITY]"), ("Temporal", "[ENTITY]"), ("Disputable", "")):
        rows = [[str(i), str(i), f"Person {i}", f"trade{i}", f"What does person {i} do?", f'["trade{i}", "work{i}"]',
                 "1", f" Person {i} was a {slot or f'trade{i}'}.", f"craft{i}" if i else ""] for i in range(13)]
        (folder / f"{part}_final.csv").parent.mkdir(parents=True, exist_ok=True)
        with (folder / f"{part}_final.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    return folder


def passages(word: str, count: int = 3) -> list[str]:
    return [f"On day {i} the {word} went to town and saw the sea of {word}." for i in range(count)]


def muse(folder: Path) -> Path:
    """Both corpora as load_data.py of muse_bench writes them."""
    for corpus in ("news", "books"):
        base = folder / corpus
        for side in ("forget", "retain"):
            put(base / "knowmem" / f"{side}_qa.json", [{"question": f"Who saw {side} {i}?", "answer": f"The {side}"}
                                                       for i in range(3)])
            put(base / "knowmem" / f"{side}_qa_icl.json", [{"question": "Who?", "answer": "Ann"}])
        put(base / "verbmem" / "forget.json", [{"prompt": f"On day {i} the", "gt": "cat went to town and saw the sea."}
                                               for i in range(3)])
        for split, words in (("forget", "cat ape elk"), ("retain", "dog fox hen"), ("holdout", "owl bee yak")):
            put(base / "privleak" / f"{split}.json", [passages(word)[i] for i, word in enumerate(words.split())])
        for split, word in (("forget", "cat"), ("retain1", "dog"), ("retain2", "fox"), ("holdout", "owl")):
            put(base / "raw" / f"{split}.json", passages(word))
    for config in ("scal", "sust"):
        for fold in range(1, 5):
            put(folder / "news" / config / f"forget_{fold}.json", passages(f"cat {fold}", fold))
    return folder


def wmdp(folder: Path) -> Path:
    for subject, forget in (("bio", "bio_remove_dataset"), ("cyber", "cyber-forget-corpus"),
                            ("chem", "chem-forget-corpus")):
        put(folder / f"wmdp-{subject}.jsonl", [choice(i) for i in range(4)] + [
            {**choice(9), "question": "Which of the following is it?"}])
        put(folder / f"{forget}.jsonl", [{"text": text} for text in passages(subject)])
        put(folder / f"{subject}-retain-corpus.jsonl", [{"text": text} for text in passages(f"kept {subject}")])
    put(folder / "wikitext.jsonl", [{"text": text} for text in passages("wiki")])
    mmlu(folder)
    return folder


def lume(folder: Path) -> Path:
    for side in ("forget", "retain"):
        rows = []
        for n in (1, 2, 3):
            for i in range(2):
                name = f"{n}{i}{side}"
                rows += [{"id": f"{name}sc1", "input": f"{name} was born", "output": "in a town.", "task": f"Task{n}"},
                         {"id": f"{name}qa0", "input": f"Where is {name}?", "output": "Town", "task": f"Task{n}"}]
        put(folder / f"{side}.jsonl", rows)
    for name, word in (("member", "cat"), ("nonmember", "owl")):
        put(folder / f"{name}.jsonl", [{"document": text} for text in passages(word)])
    mmlu(folder)
    return folder


def dusk(folder: Path) -> Path:
    for name in ("Chronological", "Interview", "Feature_Story", "Inverted_Pyramid", "Listicle", "eval/holdout"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("\n\n".join(passages(name, 4)), encoding="utf-8")
    put(folder / "eval" / "verbatim.json", [{"prompt": "On day 1 the", "gt": "cat went to town."}])
    for name in ("GeneralQA", "SpecificForgetQA", "SpecificRetainQA", "icl"):
        put(folder / "eval" / f"{name}.jsonl", [{"question": f"Who is {name}?", "answer": "Ann"}])
    mmlu(folder)
    return folder


def knowundo(folder: Path) -> Path:
    for domain in ("copyright", "privacy"):
        for side in ("unlearn", "retention"):
            put(folder / domain / f"{side}.json", [{part: [
                {"text": f"What of {side} {i} in {part}?", "labels": f"It is {i}."} for i in range(3)]
                for part in ("train", "val")}])
    return folder


def counterfact(folder: Path) -> Path:
    put(folder / "counterfact-edit-1k.json", [
        {"case_id": i, "prompt": f"The town of {i} lies in", "subject": str(i), "ground_truth": f"Land {i}",
         "target_new": f"Land {i + 1}", "rephrase_prompt": f"Where is town {i}? In",
         "locality_prompt": f"The river {i} ends in", "locality_ground_truth": f"Lake {i}"} for i in range(8)])
    return folder


def pch(folder: Path) -> Path:
    put(folder / "pch.jsonl", [{"text": text} for text in passages("owl", 9)])
    put(folder / "pch_qa.jsonl", [{"question": f"What did the owl do on day {i}?", "answer": f"It saw sea {i}."}
                                  for i in range(9)])
    mmlu(folder)
    return folder
