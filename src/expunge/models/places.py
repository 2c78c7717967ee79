"""Whether a model can be where the user says: asked before anything is loaded, and without waiting for a network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path

from expunge.errors import MissingError, UsageError
from expunge.models.endpoint_client import is_endpoint
from expunge.models.sizes import SIZES
from expunge.records.run import RunFolder, RunRecord

PATIENCE = 5.0
"""Seconds that the hub has to say whether it knows a name."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MODEL_FILES = ("config.json", "adapter_config.json", "record.json")
"""What a folder holds that can be named as a model."""


def check_place(path: str | Path, sizes: Collection[str] = (), *, hub: bool = True) -> None:
    """Return when a model may be there: a folder, or a name that the hub or its cache knows.

    Args:
        path: what the user typed.
        sizes: built-in sizes that could be meant, where a command takes them.
        hub: whether to ask the hub for a name that is neither here nor in its cache, which may take seconds.

    Raises:
        MissingError: nothing is there; offers the nearest names at once.
        UsageError: a run is there that did not end.
    """
    if is_endpoint(path):
        raise UsageError(f"{path} is an endpoint, and this command needs the model itself.",
                         "Only `expunge audit` asks an endpoint: it answers, and its weights are elsewhere.",
                         "Name a run folder, a model folder or a hub name.")
    if Path(path).exists():
        check_ended(Path(path))
        return _check_kind(Path(path))
    text = str(path)
    if text in SIZES and not sizes:
        raise MissingError(f"There is no model at {text!r}.",
                           "It is the size of a new model, which knows no rows yet. This command needs one that does.",
                           f"Train one first, on the same rows: expunge train {text} --task authors --out original "
                           f"(or --forget FILE --retain FILE), and give its folder, original.")
    parent = Path(path).parent
    if not HUB_NAME.fullmatch(text) or text.startswith(".") or (len(Path(path).parts) > 1 and parent.is_dir()):
        raise _missing(text, _near(text, parent, ()))
    if _cached(text):
        return
    near = _near(text, Path("."), sizes)
    why = "" if not hub or (near and "/" not in text) else _not_on_the_hub(text)
    if (near and "/" not in text) or why:
        raise _missing(text, near, why, sizes)


def check_ended(run: Path) -> None:
    """Raises UsageError when a folder holds the record of a run that did not end."""
    record = RunFolder(run).record
    found = RunRecord.read(record).unfinished if record.is_file() else ""
    if found:
        raise UsageError(f"The run in {run} is unfinished: {found}.",
                         "Its weights are not those that the recipe leads to.",
                         f"Go on with --resume; `expunge ls {run}` shows the whole command.")


def _check_kind(place: Path) -> None:
    """Raises UsageError for a file, or a folder that holds something else than a model."""
    if place.is_file():
        raise UsageError(f"{place} is a file, not a model.",
                         fix="Give the folder that save_pretrained wrote, a run folder, or a hub name.")
    if any((at / name).is_file() for at in (place, place / "model") for name in MODEL_FILES[:2]):
        return
    what = next((said for name, said in NO_MODELS.items() if any(place.glob(name))), None)
    if what is not None:
        raise UsageError(f"{place} holds {what[0]}, not a model.", fix=what[1])


NO_MODELS = {
    "grid.json": ("a grid", "Name one of its cells, which are run folders: `expunge ls` with its folder lists them."),
    "bench.json": ("a benchmark", "Name one of its runs, which are run folders below `runs`."),
    "sweep.json": ("a sweep", "Run its best recipe with `expunge forget`, and name that run."),
    "shadows.json": ("shadow models' scores", "Name the run or the model itself."),
    "audit.json": ("an audit", "Name the run or the model that was audited."),
    "observations/*/source.json": ("an audit that did not end", "Name the run or the model that it asks.")}
"""What shows that a folder holds something else -> what it is, and what to name instead."""


def _near(text: str, folder: Path, sizes: Iterable[str]) -> list[str]:
    """Models and runs in a folder, and sizes, whose names are like the one typed."""
    there = {}
    if folder.is_dir():
        there = {p.name: str(folder / p.name) for p in sorted(folder.iterdir())
                 if p.is_dir() and any((p / name).exists() for name in MODEL_FILES)}
    known = there | {size: size for size in sizes}
    return [known[name] for name in get_close_matches(Path(text).name, known, n=3, cutoff=0.6)]


def _missing(text: str, near: Iterable[str], why: str = "", sizes: Collection[str] = ()) -> MissingError:
    hint = " or ".join(near)
    return MissingError(
        f"There is no model at {text!r}." + (f" Did you mean {hint}?" if hint else ""),
        f"No folder of that name is here{'; ' + why if why else ''}.",
        "Give a run folder, a folder with config.json and weights, or a hub name"
        + (f"; or start fresh with one of the sizes {', '.join(sizes)}." if sizes else "."))


def _cached(name: str) -> bool:
    """Whether the hub's cache on this machine holds a model of that name."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(name, file), str) for file in MODEL_FILES[:2])


def _not_on_the_hub(name: str) -> str:
    """Why a name cannot be had from the hub; empty when it can, or when only the loader can tell."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except GatedRepoError:  # the loader says how to ask for it
        return ""
    except RepositoryNotFoundError:
        return "the hub has no public model of that name"
    except HfHubHTTPError:
        return ""
    except Exception:  # no network, or none that leads to the hub
        return "the hub cannot be reached, and its cache does not hold it"
    return ""
