"""The best mixture from a made-up sweep over mixtures, or why it cannot be known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.laws.mixture import mixture, optimum
from analysis.sections.mixtures import best_mixtures, section, sentences, shares, table
from analysis.study import study

LAW = mixture(("ct", "mr"))
TRUTH = LAW.theta(LAW.example)
MIXTURES = {"ct_only": (1.0, 0.0), "mr_only": (0.0, 1.0), "half": (0.5, 0.5), "mostly_ct": (0.8, 0.2)}


def observations(mixtures: dict[str, tuple[float, float]], noise: float = 0.005) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for name, (ct, mr) in mixtures.items():
        for n_params in (1e6, 1e7, 1e8):
            for n_images in (1e4, 1e5, 1e6):
                error = LAW.predict(np.array([[n_params, n_images, ct, mr]]), TRUTH)[0]
                rows.append(
                    {
                        "algorithm": "mae",
                        "mixture": name,
                        "shares": f"ct={ct};mr={mr}",
                        "n_params": n_params,
                        "n_images": n_images,
                        "task": "chest",
                        "auc": 1 - error * np.exp(noise * rng.standard_normal()),
                    }
                )
    return pd.DataFrame(rows)


def test_the_planted_optimum_lies_in_its_interval() -> None:
    mean, chest = best_mixtures(study(observations(MIXTURES), pd.DataFrame()))
    assert (mean.task, chest.task) == ("", "chest")
    truth = optimum(TRUTH[None])[0]
    assert mean.shares["ct"].low <= truth[0] <= mean.shares["ct"].high
    assert mean.shares["ct"].value == pytest.approx(truth[0], abs=0.1)
    assert mean.gain is not None
    assert mean.gain.value <= 1.001  # no mixture that was run is better than the best of all
    (said,) = sentences([mean, chest])
    assert said.startswith("mae: the mixture predicted to be best for the mean over tasks is ct ")
    assert list(table([mean, chest])["task"]) == ["mean over tasks", "chest"]


def test_mixtures_that_cannot_tell_modalities_apart_are_refused_with_the_reason() -> None:
    found = best_mixtures(study(observations({"half": (0.5, 0.5)}), pd.DataFrame()))
    assert all(not best.shares for best in found)
    shown = section(found)
    assert shown is not None
    assert "the mixtures span 1 directions, too few to tell 2 modalities apart" in str(shown.blocks)


def test_a_table_that_does_not_say_what_mixtures_are_made_of_has_no_such_section() -> None:
    rows = observations(MIXTURES).drop(columns="shares")
    assert section(best_mixtures(study(rows, pd.DataFrame()))) is None


def test_shares_are_read_back() -> None:
    assert shares("ct=0.25;mr=0.75") == {"ct": 0.25, "mr": 0.75}
    assert shares("a=b=0.5; c=0.5") == {"a=b": 0.5, "c": 0.5}
    assert shares("") == {}
