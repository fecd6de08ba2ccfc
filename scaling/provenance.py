"""The code a sweep runs with, kept: queued runs compute what they were planned to, whatever is edited meanwhile.

<root>/code/HASH/scaling/           the package as it was
<root>/code/HASH/provenance.json    commit, versions, command
<root>/code/HASH/changes.diff       what the commit does not have

Standard library only.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from uuid import uuid4

from scaling.rundir import write_json, write_whole

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """With what a sweep was started; attempts add their machine and device."""

    code: str
    """Hash over the package's files."""
    commit: str
    """`unknown` outside a git checkout."""
    dirty: bool
    """Whether the checkout differs from the commit; `changes.diff` has how."""
    python: str
    packages: str
    """SHA-256 over the names and versions of everything installed."""
    versions: dict[str, str]
    """Of the packages that decide numbers."""
    argv: list[str]
    user: str
    host: str
    time: float
    """Seconds since 1970."""


VERSIONS = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "ray", "mlflow", "mlflow-skinny")


def freeze(root: Path) -> Path:
    """Folder with the package as it is now, made once per state of the code; put it first on PYTHONPATH."""
    files = {path.relative_to(PACKAGE): path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    code = digest.hexdigest()[:12]
    kept = root / "code" / code
    if not kept.exists():
        draft = kept.with_name(f".{code}.{uuid4().hex[:8]}")
        for name, content in files.items():
            write_whole(draft / PACKAGE.name / name, content)
        provenance, changes = _provenance(code)
        write_json(draft / "provenance.json", asdict(provenance))
        if changes:
            write_whole(draft / "changes.diff", changes)
        try:
            draft.rename(kept)
        except OSError:  # another driver was as fast, with the same files
            shutil.rmtree(draft)
    return kept.resolve()


def _provenance(code: str) -> tuple[Provenance, bytes]:
    installed = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    known = dict(line.split("==", 1) for line in installed)
    commit = _git("rev-parse", "HEAD").decode().strip()
    changes = _git("diff", "HEAD", "--", str(PACKAGE)) if commit else b""
    return Provenance(
        code=code,
        commit=commit or "unknown",
        dirty=bool(changes),
        python=platform.python_version(),
        packages=hashlib.sha256("\n".join(installed).encode()).hexdigest(),
        versions={name: known[name] for name in VERSIONS if name in known},
        argv=sys.argv,
        user=_user(),
        host=platform.node(),
        time=time.time(),
    ), changes


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _git(*arguments: str) -> bytes:
    """Output of git in the package's folder; empty where that fails."""
    try:
        return subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return b""
