"""What a YAML may say about a mixture, and what its mistakes are answered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.config import load
from scaling.errors import SpecError
from scaling.grid import fingerprint
from scaling.mixtures import Mixture, unknown_modalities, written
from scaling.plan import Plan, load_plan

Write = Callable[..., Path]
AT = "11: mixtures.ct_only"


@pytest.mark.parametrize(
    ("written_as", "expected"),
    [
        ("natural", "natural"),
        ("{ct: 2, mr: 1.5}", {"ct": 2, "mr": 1.5}),
        ("{temperature: 2}", Mixture(temperature=2)),
        ("{repeat: true}", Mixture(repeat=True)),
        ("{weights: {ct: 1}, repeat: 4}", Mixture(weights={"ct": 1}, repeat=4)),
        (
            "{temperature: 2, caps: {ct: 100000}, weights: {ct: 1, mr: 3}, repeat: true}",
            Mixture(temperature=2, caps={"ct": 100_000}, weights={"ct": 1, "mr": 3}, repeat=True),
        ),
        ("{caps: 500}", Mixture(caps=500)),
    ],
)
def test_every_spelling_is_read(sweep_file: Write, written_as: str, expected: object) -> None:
    sweep, _ = load(sweep_file(("{ct: 1}", written_as)))
    assert sweep.mixtures["ct_only"] == expected


MISTAKES = [
    ("{temperature: 0}", f"{AT}.temperature: should be greater than 0 (got 0)"),
    ("{temperature: 2, caps: {ct: -1}}", f"{AT}.caps.ct: should be greater than 0 (got -1)"),
    ("{temperature: 2, caps: 1.5}", f"{AT}.caps: should be an integer"),
    ("{temperature: 2, caps: {}}", f"{AT}.caps: dictionary should have at least 1 item"),
    ("{weights: {ct: 0}, repeat: true}", f"{AT}.weights.ct: should be greater than 0 (got 0)"),
    ("{temperature: 2, ct: 1}", f"{AT}.ct: unknown key 'ct'; known: caps, repeat, temperature, weights"),
    ("{temperature: 2, repaet: true}", f"{AT}.repaet: unknown key 'repaet'; did you mean 'repeat'? known: caps, "),
    *(
        (
            f"{{repeat: {given}}}",
            f"{AT}.repeat: {shown} is no way to repeat; allowed: false, true (as often as needed),",
        )
        for given, shown in (("1", "1"), ("2.5", "2.5"), ("often", "'often'"), ("-3", "-3"))
    ),
    ("{repeat: false}", f"{AT}: sets nothing; write `natural`"),
    (
        "{weights: {ct: 1}, caps: 9}",
        f"{AT}.caps: bound sizes, which weights alone do not look at; add `temperature: 1`",
    ),
    (
        "{weights: {ct: 1}, caps: {mr: 9}, temperature: 1}",
        f"{AT}.caps.mr: unknown modality 'mr'; known: ct",
    ),
]


@pytest.mark.parametrize(("written_as", "message"), MISTAKES)
def test_a_mistake_has_its_place_and_the_way_out(sweep_file: Write, written_as: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(sweep_file(("{ct: 1}", written_as)))
    (problem,) = caught.value.problems
    assert str(problem).split("sweep.yaml:")[1].startswith(message)


def test_mistakes_of_several_mixtures_are_reported_together(sweep_file: Write) -> None:
    with pytest.raises(SpecError) as caught:
        load(sweep_file(("all: natural", "all: {temperature: -1}"), ("{ct: 1}", "{weights: {ct: 1}, caps: 9}")))
    assert len(caught.value.problems) == 2


UNKNOWN = [
    ("{cd: 1}", "11: mixtures.ct_only.cd: unknown modality 'cd'; known: ct, "),
    ("{weights: {cd: 1}, repeat: true}", "11: mixtures.ct_only.weights.cd: unknown modality 'cd'; known: ct, "),
    ("{caps: {cd: 1}}", "11: mixtures.ct_only.caps.cd: unknown modality 'cd'; known: ct, "),
]


@pytest.mark.parametrize(("written_as", "message"), UNKNOWN)
def test_a_modality_that_the_source_lacks_is_named_where_it_stands(
    plan_of: Callable[..., Plan], written_as: str, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        plan_of(("{ct: 1}", written_as))
    assert str(caught.value).split("sweep.yaml:")[1].startswith(message)


def test_a_misspelt_setting_is_told_from_a_modality() -> None:
    ((at, what),) = unknown_modalities({"temperatur": 2}, ("ct", "mr"))
    assert at == ("temperatur",)
    assert what.endswith("known: ct, mr; or did you mean the setting 'temperature'?")


def test_old_spellings_are_written_as_they_always_were() -> None:
    assert written("natural") == "natural"
    assert written({"ct": 2.0}) == {"ct": 2.0}
    assert written(Mixture(temperature=2, repeat=3)) == {"temperature": 2.0, "repeat": 3}
    assert fingerprint({"weights": written(Mixture(caps={"ct": 1}))})


# --- plans of repeated sets -----------------------------------------------------------------------------------------

SMALL = ("image_size: 32", "image_size: 32\n  pool_size: 60")


def test_a_mixture_spelt_otherwise_is_the_same_run(plan_of: Callable[..., Plan]) -> None:
    plain, long = plan_of(), plan_of(("{ct: 1}", "{weights: {ct: 3}, repeat: true}"))
    assert [run.dir.run for run in plain.runs] == [run.dir.run for run in long.runs]


def test_a_modality_that_runs_out_is_an_error_unless_the_mixture_repeats(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(SpecError, match=r"mixtures.ct_only: n_images 32: ct has \d+ of the 32 images wanted; this "):
        plan_of(SMALL)
    plan = plan_of(SMALL, ("{ct: 1}", "{weights: {ct: 1}, repeat: true}"))
    run = next(run for run in plan.runs if run.point.mixture == "ct_only" and run.point.n_images == 32)
    available = run.n_unique_by_modality["ct"]
    assert available < 32
    assert run.n_by_modality == {"ct": 32}
    assert (run.spec.n_images, run.spec.n_unique, run.spec.repeated_from) == (32, available, available)
    assert run.repeated() == {"ct": 32 / available}
    once = next(run for run in plan.runs if run.point.mixture == "all")
    assert (once.spec.repeated_from, once.repeated()) == (0, {})


def test_a_kept_plan_knows_what_was_repeated(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(SMALL, ("{ct: 1}", "{weights: {ct: 1}, repeat: true}"))
    plan.save()
    kept = load_plan(plan.root, plan.sweep.name)
    assert [run.n_unique_by_modality for run in kept.runs] == [run.n_unique_by_modality for run in plan.runs]
    assert [run.repeated() for run in kept.runs] == [run.repeated() for run in plan.runs]
    assert [run.spec for run in kept.runs] == [run.spec for run in plan.runs]
    values = json.loads(plan.path.read_text())
    for run in values["runs"]:
        del run["n_unique_by_modality"]
    plan.path.write_text(json.dumps(values))
    older = load_plan(plan.root, plan.sweep.name)
    assert [run.n_unique_by_modality for run in older.runs] == [run.n_by_modality for run in plan.runs]
