"""The command line of any table: one strict JSON document on success, every problem and exit code 2 for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from scaling.cli import main as scaling

X = np.geomspace(1e5, 1e9, 9)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two series of known laws; the largest two sizes are marked."""
    path = tmp_path / "runs.csv"
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal((2, len(X))))
    rows = [
        f"{name},{x!r},{float(a * x**-b * noise[i, j])!r},{int(j < 7)}"
        for i, (name, a, b) in enumerate((('"a, first"', 3.0, 0.2), ("b", 5.0, 0.1)))
        for j, x in enumerate(X.tolist())
    ]
    path.write_text("\n".join(['Name,Size,Loss,"Training, part"', *rows]))
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Of a command that must succeed: strict JSON and nothing else on standard output."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert main([*map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out, parse_constant=refuse)
    return found


def problems(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Of a command that must be refused: standard error."""
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def test_a_fit_answers_group_by_group(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "fit", runs, "--law", "power", "--x", "Size", "--by", "Name", "--train", "`Training, part`==1",
        "--bootstrap", 200,
    )  # fmt: skip
    assert [group["group"] for group in found["groups"]] == [{"Name": "a, first"}, {"Name": "b"}]
    assert found["rows"] == {"total": 18, "used": 14, "held_out": 4, "excluded": 0, "exclusions": []}
    for group, b in zip(found["groups"], (0.2, 0.1), strict=True):
        assert group["status"] == "converged"
        exponent = group["parameters"]["b"]
        assert exponent["low"] < b < exponent["high"]
        assert exponent["se"] > 0
        assert group["objective"]["name"] == "log_huber"
        np.testing.assert_allclose(group["objective"]["sum"], 7 * group["objective"]["mean"])
        held_out = group["held_out"]
        assert held_out["n"] == 2
        # the curve is known to about the noise of 1 % of seven runs, far less than 10 % at sizes nine times as large
        assert 0 < held_out["rmsle"] < 0.1
        for one in held_out["predictions"]:
            assert one["new_run"]["low"] <= one["low"] < one["value"] < one["high"] <= one["new_run"]["high"]
            assert one["times_largest_fitted"] > 1


def test_sum_and_optimum_do_not_depend_on_the_order_of_rows_or_on_units(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = runs.read_text().splitlines()
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("\n".join([header, *reversed(rows)]))
    asked = ("--law", "saturating", "--exclude", "Name==b", "--bootstrap", 0)
    first = answer(capsys, "fit", runs, "--map", "x=Size,loss=Loss", *asked)["groups"][0]
    for path, mapping in ((mixed, "x=Size,loss=Loss"), (runs, "x=Size*1e-6,loss=Loss")):
        other = answer(capsys, "fit", path, "--map", mapping, *asked)["groups"][0]
        np.testing.assert_allclose(other["objective"]["sum"], first["objective"]["sum"], rtol=1e-9)
        np.testing.assert_allclose(other["parameters"]["b"]["value"], first["parameters"]["b"]["value"], rtol=1e-6)


def test_another_table_is_predicted_by_the_map_or_by_our_names(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("fit", runs, "--law", "power", "--map", "x=Size,loss=Loss", "--by", "Name", "--intervals", "delta")
    wanted = tmp_path / "wanted.csv"
    wanted.write_text("Name,Size\nb,1e10\nb,\nc,1e10\nb,-1\n")
    found = answer(capsys, *asked, "--objective", "log_squared", "--predict", wanted)
    assert found["predicted_by_no_group"] == [3]
    assert found["groups"][0]["predictions"] == []
    rows = found["groups"][1]["predictions"]
    assert [(one["row"], one["status"], one["reason"]) for one in rows] == [
        (1, "predicted", ""),
        (2, "not_predicted", "Size: missing"),
        (4, "not_predicted", "Size: not positive"),
    ]
    assert rows[0]["observed"] is None
    assert abs(rows[0]["value"] / (5 * 1e10**-0.1) - 1) < 0.05
    wanted.write_text("x,loss\n1e10,0.5\n")
    found = answer(capsys, *asked, "--predict", wanted)
    assert [len(group["predictions"]) for group in found["groups"]] == [1, 1]
    assert found["groups"][0]["predictions"][0]["observed"] == 0.5


@pytest.mark.parametrize(
    ("cells", "status", "excluded"),
    [
        ([0] * 9, "too_few", 9),
        ([-1] * 9, "too_few", 9),
        (["nan"] * 9, "too_few", 9),
        ([1e300 * i for i in range(1, 10)], None, 0),
        (["inf", *[0.5] * 8], None, 1),
        ([0.5] * 9, None, 0),
        ([0.9, 0.8, "", 0, "NA", "-inf", 0.5, 0.45, 0.4], None, 4),
    ],
)
@pytest.mark.parametrize("law", ["power", "saturating"])
@pytest.mark.parametrize("objective", ["log_huber", "squared"])
def test_ill_numbers_are_statuses(
    cells: list[object],
    status: str | None,
    excluded: int,
    law: str,
    objective: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "ill.csv"
    path.write_text("x,y\n" + "".join(f"{x!r},{y}\n" for x, y in zip(X.tolist(), cells, strict=True)))
    asked = ("--law", law, "--objective", objective, "--bootstrap", 50, "--predict", path)
    (group,) = answer(capsys, "fit", path, *asked)["groups"]
    assert status is None or group["status"] == status
    assert group["rows"]["excluded"] == excluded == sum(one["rows"] for one in group["rows"]["exclusions"])
    assert len(group["predictions"]) == 9
    if group["status"] not in ("converged", "at_bound", "flat"):
        assert group["reason"]
        assert all(one["value"] is None for one in group["parameters"].values())
        assert all(one["value"] is None and one["reason"] for one in group["predictions"])


def test_squares_beyond_all_numbers_are_no_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "\n".join(f"{x!r},{1e300 * (1 + i)}" for i, x in enumerate(X.tolist())))
    (group,) = answer(capsys, "fit", path, "--law", "power", "--objective", "squared")["groups"]
    assert (group["status"], group["parameters"]["a"]["value"]) == ("not_finite", None)
    assert "another unit in --map" in group["reason"]


def test_one_size_cannot_tell_and_its_group_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    rows = [f"one,1e6,{0.5 + 0.01 * i}" for i in range(6)] + [f"many,{x!r},{2 * x**-0.2!r}" for x in X.tolist()]
    path.write_text("g,x,y\n" + "\n".join(rows))
    found = answer(capsys, "fit", path, "--law", "power", "--by", "g", "--bootstrap", 50)
    assert found["statuses"] == {"too_few": 1, "converged": 1}


def test_every_problem_of_a_question_is_said_at_once(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = problems(
        capsys, "fit", runs, "--law", "chinchila", "--map", "n_params=Sise,loss=Loss", "--by", "Nam", "--train", "x",
        "--objective", "huge", "--bootstrap", -1, "--seed", -2, "--level", 95, "--huber-delta", 0, "--intervals", "t",
    )  # fmt: skip
    for said in (
        "--law: unknown law 'chinchila'; did you mean 'chinchilla'?",
        "unknown column 'Sise'; did you mean 'Size'? known: Name, Size, Loss",
        "--by: unknown column 'Nam'; did you mean 'Name'?",
        "--train: no comparison can be read from 'x'",
        "--objective: unknown objective 'huge'; did you mean 'huber'?",
        "--bootstrap: -1 resamples",
        "--seed: -2 is below 0",
        "--level: 95 is no confidence",
        "--huber-delta: 0 is no corner",
        "--intervals: unknown method 't'",
    ):
        assert said in err
    assert err.startswith("10 problems, nothing was done:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--law", "power"], "has one input and no input is mapped; say which with --x COLUMN"),
        (["--law", "chinchilla", "--x", "Size"], "--x: the law chinchilla has the inputs n_params, n_images"),
        (["--law", "chinchilla", "--map", "loss=Loss,N=Size"], "needs n_images, which nothing is mapped to"),
        (["--law", "power", "--map", "loss=Loss,N=Size,D=Size"], "several inputs are mapped (n_params, n_images)"),
        (["--law", "power", "--x", "Name"], "no number in row 1 ('a, first'), row 2"),
        (["--law", "power", "--x", "Size", "--exclude", "Size>0"], "nothing is left to fit"),
        (["--law", "power", "--x", "Size", "--objective", "squared", "--huber-delta", "1"], "squared has no corner"),
        (["--law", "power", "--x", "Size", "--predict", "gone.csv"], "gone.csv: no such file"),
        (["--law", "power", "--x", "Size", "--sizes", "some"], "--sizes: unknown rule 'some'"),
        (["--law", "m4", "--x", "Size", "--sizes", "chosen"], "(power, saturating, m3)"),
    ],
)
def test_bad_input_exits_with_2_and_the_way_out(
    arguments: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in problems(capsys, "fit", runs, *arguments)


def test_what_the_parser_refuses_exits_with_2_too(runs: Path) -> None:
    for arguments in (["fit"], ["fit", str(runs), "--law", "power", "--bootstrap", "many"], ["fi"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)


def test_the_choice_of_a_law_shows_its_candidates(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--law", "auto", "--x", "Size", "--exclude", "Name==b", "--objective", "log_squared")
    (group,) = answer(capsys, "fit", runs, *asked)["groups"]
    scores = {one["law"]: one["score"] for one in group["candidates"]}
    assert {"power", "saturating", "m3", "m4"} <= scores.keys()
    assert all(one["rows_left_out"] >= 0 for one in group["candidates"])
    assert group["law"] == group["candidates"][0]["law"]
    assert abs(sum(one["weight"] for one in group["candidates"]) - 1) < 1e-12
    # what is a power law is foretold by one to about its noise of 1 %
    assert scores["power"] < 0.03


@pytest.fixture
def bent(tmp_path: Path) -> Path:
    """Sixteen sizes of a law with a limit; the smallest six stand on a plateau of another regime."""
    path = tmp_path / "bent.csv"
    sizes = np.geomspace(1e4, 1e8, 16)
    losses = np.minimum(20 * sizes**-0.3 + 0.1, 0.7)
    which = ["fit"] * 12 + ["later"] * 4
    pd.DataFrame({"Size": sizes, "Loss": losses, "When": which}).to_csv(path, index=False)
    return path


def test_a_law_that_is_to_foretell_is_fitted_to_the_sizes_that_foretell(
    bent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(*more: str) -> dict[str, Any]:
        asked = ("--x", "Size", "--map", "loss=Loss", "--objective", "log_squared", *more)
        (group,) = answer(capsys, "fit", bent, *asked)["groups"]
        return dict(group)

    foretelling = ("--train", "When==fit")
    chosen, whole = one("--law", "m2", *foretelling), one("--law", "m2", *foretelling, "--sizes", "all")
    assert chosen["sizes"]["rows_left_out"] == 4  # 40 % of twelve
    assert chosen["held_out"]["rmsle"] < whole["held_out"]["rmsle"] / 2
    assert any("4 rows of the smallest sizes" in warning for warning in chosen["warnings"])
    assert whole["sizes"]["rows_left_out"] == 0
    assert whole["objective"]["sum"] > chosen["objective"]["sum"]
    # described, not foretold: all sizes; and the slope of a power law is always that of all
    assert one("--law", "m2")["sizes"]["rows_left_out"] == 0
    assert one("--law", "power", *foretelling)["sizes"]["rows_left_out"] == 0
    assert one("--law", "power", *foretelling, "--sizes", "chosen")["sizes"]["rows_left_out"] == 4
    assert one("--law", "auto", *foretelling, "--sizes", "all")["sizes"]["rows_left_out"] == 0


def test_text_says_the_same(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(runs), "--law", "power", "--x", "Size", "--by", "Name", "--bootstrap", "100"]) == 0
    out = capsys.readouterr().out
    for said in ("18 rows: 18 fitted, 0 held out, 0 excluded", "Name a, first", "power: a x^-b", "status: converged"):
        assert said in out


@pytest.fixture
def surface(tmp_path: Path) -> Path:
    path = tmp_path / "surface.csv"
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7)))
    y = 1.8 + 480 * n**-0.35 + 2100 * d**-0.37
    y *= np.exp(0.003 * np.random.default_rng(1).standard_normal(len(y)))
    rows = [f"{a!r},{b!r},{6 * a * b!r},{c!r}" for a, b, c in zip(n.tolist(), d.tolist(), y.tolist(), strict=True)]
    path.write_text("n_params,n_images,train_flops,loss\n" + "\n".join(rows))
    return path


def test_the_frontier_of_a_planted_surface(surface: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "frontier", surface, "--budget", "1e21", "--gpu-hours", "10", "--flops-per-gpu-hour", "1e19",
        "--approach", "1,3", "--bootstrap", 200,
    )  # fmt: skip
    (group,) = found["groups"]
    assert {one["approach"] for one in group["approaches"]} == {1, 3}
    law = group["approaches"][-1]
    assert law["status"] == "answered"
    assert law["a"]["low"] < 0.37 / 0.72 < law["a"]["high"]
    assert [one["budget"] for one in law["optima"]] == [1e21, 1e20]
    for one in law["optima"]:
        np.testing.assert_allclose(6 * one["n_params"]["value"] * one["n_images"]["value"], one["budget"], rtol=1e-6)
    assert main(["frontier", str(surface), "--bootstrap", "50"]) == 0
    assert "approach 3, chinchilla: answered" in capsys.readouterr().out


def test_a_frontier_that_cannot_be_told_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "line.csv"
    path.write_text("N,D,loss\n" + "\n".join(f"{x!r},{20 * x!r},{2 + 9 * x**-0.3!r}" for x in X.tolist()))
    (group,) = answer(capsys, "frontier", path, "--map", "N=N,D=D,loss=loss", "--gpu-hours", "5")["groups"]
    assert group["gpu_hours"]["status"] == "unknown_rate"
    for one in group["approaches"]:
        assert one["status"] != "answered"
        assert one["reason"]
        assert one["a"]["value"] is None


@pytest.mark.parametrize(
    "losses", [[0.0] * 25, [2.0] * 25, np.geomspace(1e300, 1e301, 25).tolist(), [float("nan")] * 25]
)
def test_ill_numbers_of_a_frontier_are_statuses(
    losses: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ill.csv"
    sizes = [(float(a), float(b)) for a in np.geomspace(1e6, 1e9, 5) for b in np.geomspace(1e8, 1e11, 5)]
    path.write_text("N,D,loss\n" + "\n".join(f"{a!r},{b!r},{y}" for (a, b), y in zip(sizes, losses, strict=True)))
    asked = ("--map", "N=N,D=D,loss=loss", "--budget", "1e18", "--bootstrap", 50)
    (group,) = answer(capsys, "frontier", path, *asked)["groups"]
    assert [one["approach"] for one in group["approaches"]] == [1, 2, 2, 3]
    for one in group["approaches"]:
        assert one["reason"] or one["status"] == "answered"
        assert (one["a"]["value"] is None) == (one["status"] != "answered")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "-1"], "--budget: -1 is no budget"),
        (["--approach", "4"], "--approach: there is no approach 4"),
        (["--law", "power"], "--law: unknown law of N and D 'power'"),
        (["--isoflop", "budget"], "--isoflop: unknown column 'budget'"),
        (["--flops-per", "0"], "--flops-per: 0; a positive number"),
    ],
)
def test_bad_questions_of_the_frontier(
    arguments: list[str], said: str, surface: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in problems(capsys, "frontier", surface, *arguments)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Benefits of 10 tasks that go with one feature, and what is not to be taken for the key."""
    rng = np.random.default_rng(2)
    size = np.arange(1.0, 11.0)
    benefits, features = tmp_path / "benefits.csv", tmp_path / "features.csv"
    rows = [f"t{i},{a},{0.1 * s + 0.01 * rng.standard_normal():.6f}" for a in "pq" for i, s in enumerate(size)]
    benefits.write_text("dataset,algorithm,slope\n" + "\n".join([*rows, "mean,p,0.5", "mean,q,0.5"]))
    features.write_text(
        "dataset,task,size,shuffled\n" + "\n".join(f"t{i},multi,{s},{(7 * i) % 10}" for i, s in enumerate(size))
    )
    return benefits, features


def test_benefits_and_features_meet_by_their_tasks(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "correlate", "--benefits", two[0], "--features", two[1])
    assert found["settings"]["key"] == "dataset"
    assert found["settings"]["benefit"] == ["slope"]
    assert found["tasks"] == {"both": 10, "without_features": ["mean"], "without_benefit": []}
    by_pair = {(one["feature"], one["algorithm"]): one for one in found["correlations"]}
    assert set(by_pair) == {(f, a) for f in ("size", "shuffled") for a in "pq"}
    assert by_pair["size", "p"]["pearson"] > 0.95
    assert by_pair["size", "p"]["q"] < 0.05
    assert found["significant"] >= 2


def test_keys_of_different_names_meet_and_ambiguities_are_refused(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    benefits, features = two
    other = benefits.with_name("other.csv")
    other.write_text(benefits.read_text().replace("dataset", "task", 1).replace("slope", "s1", 1))
    found = answer(capsys, "correlate", "--benefits", other, "--features", features, "--key", "task=dataset")
    assert found["tasks"]["both"] == 10
    plain = features.with_name("plain.csv")
    plain.write_text(features.read_text().replace("task", "kind", 1))
    assert answer(capsys, "correlate", "--benefits", other, "--features", plain)["settings"]["key"] == "task=dataset"
    other.write_text(benefits.read_text().replace("algorithm", "how", 1))
    err = problems(capsys, "correlate", "--benefits", other, "--features", features)
    assert "tell series apart with --by, perhaps --by how" in err
    err = problems(capsys, "correlate", "--benefits", benefits, "--features", features, "--benefit", "slop")
    assert "--benefit: unknown column 'slop'; did you mean 'slope'?" in err
    other.write_text("dataset,slope\n" + "\n".join(f"t{i},nan" for i in range(10)))
    found = answer(capsys, "correlate", "--benefits", other, "--features", features)
    assert {one["reason"] for one in found["correlations"]} == {"tasks with both numbers: 0; at least 4 are needed"}
    err = problems(capsys, "correlate", "--benefits", "a.csv", "--features", "b.csv")
    assert "a.csv: no such file" in err
    assert "b.csv: no such file" in err


def test_the_program_has_the_same_words(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling(["fit", str(runs), "--law", "power", "--x", "Size", "--bootstrap", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "fit"
    assert scaling(["fit", str(runs), "--law", "pwer", "--x", "Size"]) == 2
    assert "did you mean 'power'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import analysis.cli; analysis.cli.main(['--help'])", {"numpy", "pandas", "scipy", "torch", "rich"}),
        ("import scaling.cli; scaling.cli.main(['--help'])", {"numpy", "pandas", "scipy", "torch"}),
        (
            "import analysis.cli; analysis.cli.main(['fit', 'T', '--law', 'power', '--x', 'Size', '--bootstrap', '0'])",
            {"torch", "ray", "mlflow", "pydantic", "rich", "matplotlib", "timm"},
        ),
    ],
    ids=["help of the analysis", "help of the program", "a fit"],
)
def test_nothing_heavy_is_imported(code: str, heavy: set[str], runs: Path) -> None:
    root = Path(__file__).parents[2]
    asked = (
        f"import sys\nsys.argv[0] = 'x'\ntry:\n    {code.replace(chr(39) + 'T' + chr(39), repr(str(runs)))}\n"
        f"except SystemExit: pass\nprint(' '.join({heavy!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ""
