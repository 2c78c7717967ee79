"""Every plug-in has a place in the taxonomy, the one that its card and kind say, and `ls --by` shows it there."""

from __future__ import annotations

from typing import Any

import pytest

from expunge.plugin import KINDS
from expunge.records.score import ACCESS
from expunge.registry import entries
from expunge.taxonomy import AXES, place_of, place_text


def test_axes_are_those_of_the_records() -> None:
    assert list(AXES) == ["target", "guarantee", "access", "modality"] and tuple(AXES["access"]) == ACCESS


@pytest.mark.parametrize("name", sorted(entries()))
def test_every_plug_in_has_a_place(name: str) -> None:
    place = place_of(name)
    assert list(place) == list(AXES) and all(set(values) <= set(AXES[axis]) for axis, values in place.items())
    assert all(len(place[axis]) == 1 for axis in ("target", "guarantee", "access")) and place["modality"]
    card = entries()[name].load().card  # what is read without importing is what the card says
    said = {axis: value for axis in ("target", "guarantee", "access") if (value := getattr(card, axis))}
    assert said == dict(entries()[name].said) and all(place[axis] == (value,) for axis, value in said.items())


def test_places_follow_from_the_kind() -> None:
    assert place_text("npo").startswith("target sample; guarantee empirical; access weights; modality text")
    assert place_of("sisa")["guarantee"] == ("exact",) and place_of("uld")["guarantee"] == ("none",)
    assert place_of("retain_kl")["guarantee"] == ("none",), "a part of a recipe claims nothing by itself"
    assert place_of("rmu")["target"] == place_of("wmdp")["target"] == ("capability",)
    assert place_of("crosslingual")["target"] == place_of("code_leaks")["target"] == ("entity",)
    assert place_of("rome")["target"] == ("entity",) and place_of("concept_vectors")["target"] == ("concept",)
    assert place_of("relearn")["access"] == ("weights",) and place_of("paraphrase")["access"] == ("text",)
    probes = ("generation", "likelihood", "gradient", "hidden")
    assert tuple(place_of(probe)["access"][0] for probe in probes) == ACCESS
    assert all(place_of(e.name)["access"] == ("weights",) for e in entries().values()
               if KINDS[e.kind].method and e.kind != "guard")


@pytest.mark.parametrize("axis", AXES)
def test_ls_by_shows_every_plug_in(cli: Any, axis: str) -> None:
    found = cli("ls", "--by", axis, "--json").json
    assert [group.partition(":")[0] for group in found] == list(AXES[axis]), "a value without a plug-in is told too"
    shown = {word.split()[1] for rows in found.values() for word in rows}
    assert shown == set(entries())
    some = cli("ls", "edits", "--by", axis).out
    assert "edit rome" in some and "objective npo" not in some


def test_a_wrong_axis_is_refused(cli: Any) -> None:
    cli.refused("ls", "--by", "colour", says=["There is no axis 'colour'"])
    assert "place" in cli("explain", "tofu:forget10").out and "target entity" in cli("explain", "tofu").out
