"""Data flows one way, and so do imports. What needs no torch does not import it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import expunge

ROOT = Path(expunge.__file__).parent
FOUNDATION = {"errors", "needs", "plugin", "registry", "taxonomy", "terms", "seeding", "console", "progress",
              "processes", "verbs"}
"""Modules that know nothing of the folders; everyone but `records` may use them."""
EVERYTHING = {"__init__", "__main__", "api", "auditing", "auto", "benching", "certifying", "cli", "demonstration",
              "evaluating", "grids", "merging", "output", "presets", "purging", "requests", "runs", "saving", "serving",
              "shadows", "studies", "submissions", "testing", "tuning", "watching"}
MAY: dict[str, set[str]] = {
    "records": set(),
    "data": {"records"},
    "models": {"records", "data", "models.fast"},
    "models.fast": {"records", "data", "models"},
    "training": {"records", "data", "models"},
    "methods": {"records", "data", "models", "models.fast", "training"},
    "probes": {"records", "data", "models"},
    "attacks": {"records", "data", "models", "training"},
    "metrics": {"records"},
    "judgement": {"records", "metrics"},
    "benchmarks": {"records", "data", "probes", "attacks", "metrics"},
    "audit": {"records", "data", "models", "probes", "attacks", "metrics", "judgement", "benchmarks"},
    "report": {"records"},
    "comparator": {"records", "metrics", "report"},
    "serve": {"records", "data", "models", "models.fast", "guards"},
    "certify": {"records", "ledger"},
    "ledger": {"records"},
    **{room: {"records", "data", "models", "models.fast", "training", "methods"}
       for room in ("guards", "exact", "sequential", "federated")},
}
"""Folder -> folders it may import; DESIGN, section 1. Nobody but its own folder is left out.

`models.fast` is a unit of its own. The plain code beside it asks it whether a trick is on and hands over to it, and
the tricks stand on the plain code, so these two import each other.
"""
LEAVES = ("expunge.metrics.text.",)
"""Modules that import nothing else of ours, so every folder but `records` may use them."""


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of ours, those inside functions and under TYPE_CHECKING too."""
    package = ["expunge", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module or "") if part)
            # `from expunge import registry` names a module in its second half.
            whole = module in ("expunge", "expunge.models")
            names = [f"{module}.{alias.name}" for alias in node.names] if whole else [module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            names = [str(node.args[0].value)] if isinstance(node.args[0], ast.Constant) else []
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "expunge")


def unit(module: str) -> str:
    """The folder or top-level module: `metrics` of `expunge.metrics.base`."""
    parts = module.split(".")
    if parts[1:3] == ["models", "fast"]:
        return "models.fast"
    return parts[1] if len(parts) > 1 else "expunge"


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_import_direction_is_data_direction(path: Path) -> None:
    me = unit(".".join(["expunge", *path.relative_to(ROOT).with_suffix("").parts]))
    if me in EVERYTHING:
        return
    assert me in MAY or me in FOUNDATION, f"DESIGN names no place for {me}"
    allowed = {me, "errors"} | MAY.get(me, set()) | (set() if me == "records" else FOUNDATION)
    wrong = [f"line {line}: {name}" for line, name in imported(path)
             if unit(name) not in allowed and not (name.startswith(LEAVES) and me != "records")]
    assert not wrong, f"{path.relative_to(ROOT)} may not import: {', '.join(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_nobody_imports_the_contract(path: Path) -> None:
    """It needs the extra `test`."""
    me = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert me == "testing" or not [line for line, name in imported(path) if unit(name) == "testing"]


@pytest.mark.parametrize("path", sorted((ROOT / "metrics" / "text").glob("*.py")), ids=lambda p: p.stem)
def test_leaves_import_each_other_at_most(path: Path) -> None:
    assert not [name for _, name in imported(path) if not name.startswith(LEAVES)]


def test_the_check_sees_every_way_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checker that finds nothing proves nothing."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "probes").mkdir()
    path = tmp_path / "probes" / "x.py"
    path.write_text("import expunge.methods.base\nfrom expunge import methods\nfrom ..methods import plan\n"
                    "def f():\n    from expunge.methods.plan import Plan\n    import_module('expunge.methods')\n",
                    encoding="utf-8")
    assert [unit(name) for _, name in sorted(imported(path))] == ["methods"] * 5


@pytest.mark.parametrize("code", [
    "import expunge",
    "import expunge.report.page",
    "import expunge.comparator.page, expunge.ledger.store, expunge.certify.checks, expunge.certify.claim",
    "import expunge.metrics.evaluate",
    "import expunge.records.run, expunge.records.score, expunge.records.task, expunge.records.observation",
    "import expunge.terms, expunge.registry, expunge.console",
    "from expunge.cli.main import app; app(['--help'], standalone_mode=False)",
    "import expunge.requests.verbs, expunge.requests.telling",
    "from expunge.cli.main import app; app(['forget', '--help'], standalone_mode=False)",
    "from expunge.cli.main import app; app(['ls'], standalone_mode=False)",
    "from expunge.cli.main import app; app(['ls', 'metrics', '--json'], standalone_mode=False)",
    "import expunge; dir(expunge); expunge.ExpungeError, expunge.RunRecord, expunge.Audit, expunge.load_task",
])
def test_no_torch(code: str) -> None:
    check = f"{code}\nimport sys\nheavy = {{'torch', 'transformers'}} & set(sys.modules)\nassert not heavy, heavy"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_nobody_takes_private_names_of_the_tricks() -> None:
    assert unit("expunge.models.fast.linear") == "models.fast" and unit("expunge.models.faster") == "models"
    private = re.compile(r"import .*\b_\w|\bfast\._")
    assert private.search("from expunge.models.fast.linear import product, _kernel")
    found = [f"{path.relative_to(ROOT)}: {line}" for path in FILES if "fast" not in path.parts
             for line in path.read_text(encoding="utf-8").splitlines() if "fast" in line and private.search(line)]
    assert not found


def test_every_public_name_is_there() -> None:
    for name in expunge.__all__:
        assert getattr(expunge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'unlearn'"):
        expunge.unlearn  # noqa: B018
