"""What the folders behind a page still hold of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from expunge.records.grid import cells_of
from expunge.records.purged import ROWS, WEIGHTS, with_rows
from expunge.report.gather import record_path

SEVERAL = 3
"""Places of one name from which they are counted and not listed."""
KNOWING = {"model": "weights", "base": "weights that know the rows"}


def behind(folders: Iterable[Path]) -> list[Path]:
    """The folders, and those of the runs that audits among them belong to; none that lies inside another."""
    roots = [folder.resolve() for folder in folders]
    cells = [cell.resolve() for root in roots for cell in cells_of(root)]
    runs = [place.parent for place in map(record_path, (*roots, *cells)) if place.is_file()]
    found = list(dict.fromkeys((*roots, *runs)))
    return [root for root in found if not any(other in root.parents for other in found)]


def still_there(folders: Iterable[Path], page: Path | None = None) -> list[str]:
    """What of the rows the folders still hold, in words; also in cells of a grid, audits inside a run, merged weights.

    Args:
        page: a page that is no such place, since it has just been redacted.
    """
    said = []
    for root in behind(folders):
        weights = [path for path in sorted(root.rglob("*")) if path.name in WEIGHTS and path.is_dir()
                   and not set(path.relative_to(root).parts[:-1]) & set(WEIGHTS)]
        places: dict[str, list[Path]] = {}
        for path in (*with_rows(root), *weights):
            if page is None or path.resolve() != page.resolve():
                places.setdefault("page" if path.suffix == ".html" else path.name, []).append(path)
        for name, paths in places.items():
            what = (ROWS | KNOWING).get(name, "a page" if name == "page" else "left by a killed write")
            said += _named(root, name, paths, what)
    return said


def _named(root: Path, name: str, paths: Sequence[Path], what: str) -> list[str]:
    if len(paths) >= SEVERAL:
        return [f"{root.name}/**/{'*.html' if name == 'page' else name} ({what}, {len(paths)} times)"]
    return [f"{root.name}/{path.relative_to(root)} ({what})" for path in paths]
