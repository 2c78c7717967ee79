"""What `forget --method auto` prints, and when its options may be given."""

from __future__ import annotations

from pathlib import Path

from expunge.console import Reporter
from expunge.errors import UsageError
from expunge.records.choice import AUTO, AutoSettings, Choice

SHOWN = 8
"""Lines of the frontier on the screen; choice.json holds all trials."""


def check_auto(method: str | None, auto: AutoSettings) -> None:
    """Raises UsageError where options of the search are given beside a recipe."""
    given = sorted(auto.model_fields_set)
    if given and method != AUTO:
        named = ", ".join("--" + name for name in given)
        raise UsageError(f"{named} belong{'s' * (len(given) == 1)} to --method auto.", "A recipe is run as it stands.",
                         "Give --method auto, or leave the option out.")


def show_choice(out: Path, reporter: Reporter) -> None:
    """What was chosen and why, and the settings that nothing beats."""
    made = Choice.read(out / AUTO)
    pick = made.pick
    assert pick is not None
    say = reporter.out.print
    tried = f"{len(made.trials)} trial{'s' * (len(made.trials) != 1)}"
    say(f"Chosen after {tried} in {made.spent_s / 60:.1f} of {made.budget_s / 60:.1f} min: "
        f"{pick.recipe}", soft_wrap=True, markup=False)
    say(f"  Why: {made.reason}.", soft_wrap=True, markup=False)
    rehearsed = {r.number: r for r in made.rehearsed}
    if (found := rehearsed.get(pick.number)) is not None:
        say(f"  In the rehearsal, on {made.rehearsal['entities']} entities that the model had never seen: "
            f"{found.outcome} ({found.residue:.2f} left {'under ' + found.worst if found.worst else 'as asked'}).",
            soft_wrap=True, markup=False)
    elif "none" in made.rehearsal:
        say(f"  Not rehearsed. {made.rehearsal['none']}", soft_wrap=True, markup=False)
    else:
        say("  Not rehearsed: the budget had ended. A longer --budget leaves time.", soft_wrap=True, markup=False)
    rows = [[str(t.number), t.recipe, f"{t.worst[1]:.2f}", t.worst[0] or "as asked", t.kept, f"{t.train_s:.0f}",
             f"{t.cost:.2f}" if t.cost is not None else "-",
             rehearsed[t.number].outcome if t.number in rehearsed else ""] for t in made.front()[:SHOWN]]
    reporter.table("Beaten by no other trial", ["trial", "recipe", "left", "under", "kept", "train s", "of retraining",
                                                "rehearsed"], rows, "Left: 0 as never seen, 1 as before. All trials: "
                                                f"{out / AUTO / Choice.FILE}")
