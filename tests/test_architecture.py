"""The tree holds its own design: rows, owners of heavy packages, budgets, names. Reads sources, runs none of them."""

from __future__ import annotations

import ast
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports only from its own row or from rows above it. A name that is a folder stands for all its modules.
ROWS = {
    "scaling": [
        {"errors", "records", "failures"},
        # rundir: the caches of data/ write whole files too
        {
            "options",
            "probe_options",
            "reader_options",
            "medical_reader_options",
            "source_options",
            "medmnist_sets",
            "document",
            "catalog",
            "explaining",
            "process",
            "rundir",
        },
        {"accelerators", "execution", "mixtures", "probing", "recipes", "training", "tuning"},
        {"config"},
        {"grid"},
        {"calibration", "parallel", "models", "data", "store", "importing"},
        {"algorithms"},
        {"cost", "settings"},
        {"budgeting", "expected", "opening", "planned", "sets"},
        {"plan"},
        {"pretraining", "reading", "trajectories"},
        {"trials", "choice"},
        {"attempt", "environment", "kernels", "optim", "checkpoint", "health"},
        {"train", "probes", "pictures"},
        {"calibrate"},
        {"tracking"},
        {"worker"},
        {"launch"},
        {"control", "live", "placement", "provenance", "task"},
        {"mirror", "scheduler", "sizing"},
        {"attach", "forecast", "preflight", "pricing", "runbody"},
        {"bill", "housekeeping", "measuring", "report", "standings", "sweeping"},
        {"catalog_tables", "driver", "export", "forecasting", "tables", "tabular", "trialrun"},
        {"carry", "suggesting", "tune"},
        {"verbs"},
        {"asking", "downloading", "looking", "showing", "storing"},
        {"cli"},
    ],
    "analysis": [
        {"points"},
        {"tables"},
        {"observations", "series", "sizes", "trajectories"},
        {"laws"},
        {"objective"},
        {"solver"},
        {"fit"},
        {"bounded"},
        {"rows"},
        {"profile", "resampling"},
        {"uncertainty"},
        {"select", "compare"},
        {"fitter"},
        {"optima", "suggest", "extrapolate"},
        {"features"},
        {"floor", "association"},
        {"benefit", "correlate"},
        {"figures"},
        {"page"},
        {"answers", "confounders"},
        {"study"},
        {"sections"},
        {"report"},
        {"commands"},
        {"cli"},
        {"__main__"},
    ],
}

# Heavy package -> the modules that may import it, by name or by folder.
OWNERS = {
    "ray": {"scaling.launch", "scaling.tune"},
    "mlflow": {"scaling.tracking"},
    "timm": {"scaling.models"},
    "matplotlib": {"analysis.figures"},
    "pydicom": {"scaling.importing"},
    "gdcm": {"scaling.importing"},
    "nibabel": {"scaling.importing"},
    "tifffile": {"scaling.importing"},
    "yaml": {"scaling.document"},
    "torch": {
        "scaling.models",
        "scaling.parallel",
        "scaling.algorithms",
        "scaling.data.feed",
        "scaling.data.order",
        "scaling.data.views",
        "scaling.optim",
        "scaling.checkpoint",
        "scaling.train",
        "scaling.probes",
        "scaling.environment",
        "scaling.health",
        "scaling.pictures",
        "scaling.kernels",
        "scaling.calibrate",
        "scaling.worker",
        "scaling.launch.ranks",
    },
}

MAX_MODULE, MAX_FUNCTION = 400, 60
LONG_FUNCTIONS: dict[str, str] = {}
"""module.function -> the reason why it is above the budget."""

TOP_LEVEL = {
    "pyproject.toml",
    "constraints.txt",
    "Makefile",
    "LICENSE",
    "README.md",
    "scaling",
    "analysis",
    "experiments",
    "tests",
    "results",
}
FORBIDDEN_FOLDERS = {"ssl"}
FORBIDDEN_MODULES = {"logging", "types", "statistics", "ssl", "utils", "common", "helpers", "manager"}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for package in ROWS for path in sorted((ROOT / package).rglob("*.py"))}


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """Full names of all that a module imports anywhere, inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= whole or {str(node.module)}
    return frozenset(found)


def _ours(module: str) -> set[str]:
    return {name for name in _imports(module) if name.split(".")[0] in ROWS} - {module}


def _row(module: str) -> int:
    package, *rest = module.split(".")
    return next(row for row, members in enumerate(ROWS[package]) if rest[0] in members)


def _inside(module: str, owner: str) -> bool:
    return module == owner or module.startswith(f"{owner}.")


@pytest.mark.parametrize("package", ROWS)
def test_every_module_stands_in_exactly_one_row(package: str) -> None:
    placed = list(itertools.chain.from_iterable(ROWS[package]))
    there = {name.split(".")[1] for name in FILES if name.startswith(f"{package}.")}
    assert sorted(placed) == sorted(there)


@pytest.mark.parametrize("module", [name for name in FILES if "." in name])
def test_a_module_imports_only_from_its_own_row_or_rows_above(module: str) -> None:
    package = module.split(".")[0]
    below = {name for name in _ours(module) if name.startswith(f"{package}.") and _row(name) > _row(module)}
    assert not below, f"{module} of row {_row(module)} imports from rows below it: {sorted(below)}"


def test_analysis_knows_of_scaling_only_its_records() -> None:
    used = {name for module in FILES if _inside(module, "analysis") for name in _ours(module)}
    assert {name for name in used if name.startswith("scaling")} <= {"scaling.records"}


def test_of_scaling_only_what_asks_laws_knows_analysis() -> None:
    users = {m for m in FILES if _inside(m, "scaling") and any(name.startswith("analysis") for name in _ours(m))}
    assert users <= {"scaling.report", "scaling.tabular", "scaling.forecasting", "scaling.suggesting", "scaling.cli"}


def test_no_module_reaches_itself_through_its_imports() -> None:
    waiting = {module: {name for name in _ours(module) if name in FILES} for module in FILES}
    while free := {module for module, needs in waiting.items() if not needs}:
        waiting = {module: needs - free for module, needs in waiting.items() if module not in free}
    assert not waiting, f"import cycle among {sorted(waiting)}"


@pytest.mark.parametrize("package", OWNERS)
def test_a_heavy_package_is_imported_only_by_its_owners(package: str) -> None:
    users = {module for module in FILES if any(name.split(".")[0] == package for name in _imports(module))}
    strangers = {module for module in users if not any(_inside(module, owner) for owner in OWNERS[package])}
    assert not strangers


@pytest.mark.parametrize("module", FILES)
def test_a_module_is_short_and_so_are_its_functions(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= MAX_MODULE
    long = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION
    }
    assert {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS} == {}


def test_every_exception_to_the_length_of_functions_still_exists() -> None:
    for name in LONG_FUNCTIONS:
        module, function = name.rsplit(".", 1)
        assert any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(_tree(module)))


@pytest.mark.parametrize("module", FILES)
def test_a_module_opens_with_why_it_exists(module: str) -> None:
    if FILES[module].read_text(encoding="utf-8").strip():
        opening = ast.get_docstring(_tree(module))
        assert opening, f"{module} has no docstring"
        assert len(opening.splitlines()) <= 15


@pytest.mark.parametrize("module", FILES)
def test_no_module_has_a_name_that_says_nothing_or_hides_the_standard_library(module: str) -> None:
    *folders, last = FILES[module].relative_to(ROOT).with_suffix("").parts
    assert last not in FORBIDDEN_MODULES
    assert not FORBIDDEN_FOLDERS & set(folders)


def test_the_top_of_the_repository_holds_only_what_is_known() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize(
    "code",
    [
        "from scaling.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass",
        "import scaling.config, scaling.grid",
        "import scaling.plan, scaling.bill, scaling.tables, scaling.standings, scaling.preflight",
        "import scaling.rundir, scaling.live",
        "import analysis.observations",
    ],
    ids=["help", "reading a sweep", "planning and status", "watching a run", "reading a table"],
)
def test_what_must_answer_at_once_imports_nothing_heavy(code: str) -> None:
    asked = f"import sys\n{code}\nprint('\\n' + ' '.join({set(OWNERS) - {'yaml'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == ""
