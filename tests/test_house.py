"""Habits of the house: short files, documentation that runs, no paths of anybody's machine."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from expunge.audit.suite import parse_suite
from expunge.benchmarks.loading import parse_task
from expunge.cli.main import app
from expunge.judgement.leaks import DOUBTS
from expunge.plugin import KINDS
from expunge.registry import entries, of_kind
from expunge.report.text import WORDS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "expunge"
LONGEST = 400
"""Lines of a module: what one reads in one sitting."""
LONGEST_METHOD = 150
MEDIAN_METHOD = 80
"""Lines of half of the methods: a plug-in is taken in at once."""
LONGEST_LOOP = 200
LONGEST_VERBS = 300
VERBS = {SOURCE / "api.py", SOURCE / "runs.py", SOURCE / "cli" / "main.py"}
"""What a person calls and what carries it out: no place for logic of their own."""


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


METHOD_HOMES = {SOURCE / about.folder for about in KINDS.values() if about.folder.startswith("methods/")}


def methods() -> dict[str, str]:
    """Name -> text of the files that hold one method each."""
    return {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8")
            for home in sorted(METHOD_HOMES) for path in sorted(home.glob("*.py")) if path.name != "__init__.py"}


def test_most_methods_are_shorter_still() -> None:
    assert statistics.median(len(text.splitlines()) for text in methods().values()) <= MEDIAN_METHOD


def test_files_are_short() -> None:
    too_long = {}
    for path in SOURCE.rglob("*.py"):
        limit = LONGEST_METHOD if path.parent in METHOD_HOMES else LONGEST
        if path == SOURCE / "training" / "loop.py":
            limit = LONGEST_LOOP
        elif path in VERBS:
            limit = LONGEST_VERBS
        if lines(path) > limit:
            too_long[str(path.relative_to(ROOT))] = f"{lines(path)} of {limit} lines"
    assert not too_long


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith('"""')


def test_no_public_class_name_exists_twice() -> None:
    """One type, one name: a reader who meets a word knows which class is meant."""
    homes: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert not twice


SHARED = 12
"""Consecutive lines, blank ones aside, that no two places of the source may share."""
SHARED_METHODS = 10
"""The same of two methods: what they have in common belongs to methods/_lib."""


def shared_runs(files: dict[str, str], most: int = SHARED) -> list[str]:
    """Where the same lines stand twice, whatever their indentation: the first place of every pair of files."""
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    found: dict[tuple[str, str], str] = {}
    for name, text in files.items():
        solid = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        for at in range(len(solid) - most + 1):
            here = name, solid[at][0]
            there = first.setdefault(tuple(line for _, line in solid[at: at + most]), here)
            if there != here:
                found.setdefault((there[0], name), f"{there[0]}:{there[1]} and {name}:{here[1]}")
    return list(found.values())


def test_no_two_places_share_many_lines() -> None:
    assert not shared_runs({str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8")
                            for path in sorted(SOURCE.rglob("*.py"))})


def test_no_two_methods_share_many_lines() -> None:
    assert not shared_runs(methods(), SHARED_METHODS)


def test_shared_lines_are_noticed() -> None:
    run = [f"line {n}" for n in range(SHARED)]
    one, two = "\n".join(["first", *run]), "\n\n".join(f"    {line}" for line in [*run, "last"])
    assert shared_runs({"a": one, "b": two}) == ["a:2 and b:1"]
    assert shared_runs({"a": "\n".join(run * 2)}) == [f"a:1 and a:{SHARED + 1}"]
    assert not shared_runs({"a": one, "b": "\n".join(run[1:])})
    assert shared_runs({"a": one, "b": "\n".join(run[1:])}, SHARED_METHODS) == ["a:3 and b:1"]


# Documentation

PAGES = [*(p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if p.exists()),
         *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text) if name == language]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `$ expunge ...` in a page's console blocks."""
    for block in blocks(text, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ expunge"):
                yield shlex.split(line[2:], comments=True)[1:]


PROGRAMS = {str(p.relative_to(ROOT)): "\n\n".join(found) for p in PAGES
            if (found := blocks(p.read_text(encoding="utf-8"), "python"))}
"""Page -> its blocks of Python: one program."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, to the end; a page that shows Python shows this package."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(PROGRAMS[name], name, "exec"), names)
    assert any(str(getattr(value, "__name__", "")).startswith("expunge") or
               str(getattr(value, "__module__", "")).startswith("expunge") for value in names.values())


def check_command(words: list[str]) -> None:
    """Parse as typer would, and look at what the words name; nothing is run."""

    group = typer.main.get_command(app)
    name = words[0]
    assert name in group.commands, f"there is no command {name}"  # type: ignore[attr-defined]
    with group.commands[name].make_context(name, words[1:]) as context:  # type: ignore[attr-defined]
        given = context.params
    methods = given.get("method") or ()
    for method in {methods} - {"auto"} if isinstance(methods, str) else methods:
        from expunge.methods.recipe import parse, trainer_stage

        parse(method) if name != "train" else trainer_stage(method, None, 1e-5)
    if given.get("task"):
        parse_task(str(given["task"]))
    if given.get("suite"):
        parse_suite(str(given["suite"]))


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_commands_parse(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        if words and words[0] != "--help":
            check_command(words)


def test_pages_of_plug_ins() -> None:
    """The site has one per plug-in, made from its card; the command it shows is a command."""
    site = load_script("site_pages")
    for entry in entries().values():
        text = site.page(entry)
        assert text.startswith(f"# {entry.name}\n")
        for words in commands(text):
            check_command(words)


def load_script(name: str) -> Any:
    """A script of experiments/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tour_names_what_exists() -> None:
    page = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+/(?:[a-z_]+\.py)?)`", page)
    assert len(named) > 20
    assert not [name for name in named if not ((SOURCE / name).exists() or (ROOT / name).exists())]
    flow, plug_ins = page.split("## Adding a plug-in")
    folders = {name for line in flow.split("## The flow")[1].splitlines()
               for name in re.findall(r"`([a-z]+)/`", line.split("|")[1] if line.startswith("|") else "")}
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} <= folders, "every folder has a row"
    kinds = {kind for line in plug_ins.splitlines() if line.startswith("|") for kind in line.split("|")[1].split(",")}
    assert not set(KINDS) - {kind.strip() for kind in kinds}, "every kind of plug-in has a row"


def test_the_page_and_the_screen_use_words_of_the_glossary() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    defined = {name: " ".join(said.replace("`", "").split()) for name, said in re.findall(
        r"^- \*\*([^*]+)\*\*[^:\n]*: (.*?)(?=\n- \*\*|\n\n|\Z)", page, re.MULTILINE | re.DOTALL)}
    assert not [word for word, said in WORDS.items() if not defined[word].startswith(said)]
    failing = re.findall(r"\*([a-z ]+)\*", page.partition("What a comparison fails at:")[2].partition("\n- **")[0])
    assert sorted(failing) == sorted(DOUBTS), "every doubt, by its word"
    code = " ".join(re.findall(r"`([^`]+)`", page))
    assert not [e.name for e in of_kind("metric") if e.name not in code]
    assert {"forgets", "suppresses", "over-forgets", "ruined", "retains", "undecided", "not tested"} <= set(defined)


def test_the_readme_is_short() -> None:
    assert lines(ROOT / "README.md") <= 200


def test_the_checks_notice_mistakes() -> None:
    page = '```console\n$ expunge forget M --methud "npo" --out x  # a comment\n$ make demo\n```\n'
    words, = commands(page)
    assert words == ["forget", "M", "--methud", "npo", "--out", "x"]
    for wrong in (words, ["forgets", "M"], ["forget", "M", "--method", "npo"], ["audit", "r", "--suite", "nonesuch"],
                  ["forget", "M", "--method", "nppo", "--out", "x"], ["audit", "r", "--task", "autors"]):
        with pytest.raises(Exception):  # noqa: B017
            check_command(wrong)
    assert blocks("```python\na = 1\n```\ntext\n```python\nb = a\n```\n", "python") == ["a = 1\n", "b = a\n"]


# Paths

MACHINE = re.compile(r"(?<![\w.~$})-])/(?:" + "|".join(("work", "root", "home", "tmp", "Users")) + r")/[\w.]")
TEXT = {".py", ".md", ".toml", ".json", ".jsonl", ".txt", ".cfg", ".ini", ".yml", ".yaml", ".sh", ".html", ".csv", ""}


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout, so what is tracked is not known")
    return [ROOT / name for name in listed.decode().split("\0") if name]


def test_no_paths_of_a_machine() -> None:
    found = []
    for path in tracked():
        if path.suffix in TEXT and path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if MACHINE.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found


def test_the_path_check_notices_one() -> None:
    for folder in ("home/me", "tmp/x", "root/y", "root/.cache/z"):
        assert MACHINE.search(f'open("/{folder}")') and MACHINE.search(f"see /{folder}")
    for fine in ("~/work/here", "$HOME/tmp/a", "a/home/b", "https://x.org/home/page", "/temporary/x"):
        assert not MACHINE.search(fine), fine


# Hooks

HOOK = re.compile(r"register_(?:forward|full_backward|module)\w*hook|\.register_hook\(|register_post_accumulate"
                  r"|_forward_hooks|_forward_pre_hooks")
SITES = SOURCE / "models" / "sites.py"


def test_hooks_are_registered_in_one_file() -> None:
    """DESIGN, section 4: where something is read, written or stopped in a model is a Site.

    The contract checks in `testing/` use hooks of their own: they are the slow twins.
    """
    found = [str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")
             if path != SITES and "testing" not in path.parts and HOOK.search(path.read_text(encoding="utf-8"))]
    assert not found, "use expunge.models.sites (read, write, stop_after, without_hooks) there"
    assert HOOK.search(SITES.read_text(encoding="utf-8")), "the pattern notices one"
