"""What `scaling catalog` prints of a name: its options, or which names there are."""

from __future__ import annotations

import pytest
from rich.console import Console

from scaling.catalog_tables import ENTRIES, options_of
from scaling.cli import main
from scaling.explaining import sections

EVERY = [pytest.param(table, name, id=f"{table}-{name}") for table, of in ENTRIES.items() for name in of]
KNOWN = "dicom, folder, huggingface, nifti, npz, table, webdataset"
ASKED = "algorithms, sources, readers, probes"


def test_a_reader_is_shown_with_its_options_their_values_defaults_and_meanings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["catalog", "readers", "dicom"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "dicom: DICOM files, with or without their ending"
    assert "option default what it takes, what it means" in lines
    assert "path required text" in lines
    voi = lines.index("voi auto auto | file | rule")
    assert lines[voi + 1].startswith("Which window maps values to 8 bits")


@pytest.mark.parametrize(("table", "name"), EVERY)
def test_no_name_of_an_option_is_cut_in_a_narrow_terminal(
    table: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=80, highlight=False)
    for shown in options_of(table, name):
        console.print(shown)
    first_words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    options = [option for section in sections(ENTRIES[table][name].options) for option in section.options]
    assert {option.name for option in options} <= first_words


def test_an_option_whose_values_look_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "readers", "folder"]) == 0
    assert "[blank | nan, ...]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["readers", "dicm"], f"catalog readers: unknown reader 'dicm'; did you mean 'dicom'? known: {KNOWN}"),
        (["probes", "forest"], "catalog probes: unknown probe 'forest'; known: biovfm, knn, linear, ridge"),
        (["models", "vit_s"], f"catalog models: has no options to show of 'vit_s'; leave it out, or ask of {ASKED}"),
    ],
)
def test_a_name_without_options_is_refused_with_the_way_out(
    asked: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["catalog", *asked]) == 2
    assert capsys.readouterr().err == f"1 problem, nothing was shown:\n  {said}\n"
