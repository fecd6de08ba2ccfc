"""The browser of an MLflow store: `mlflow server` with the flags that make it small, quiet and offline."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes and over 1 GB for features we do not use
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

PAGE = "#/experiments?workflowType=machine_learning"
"""The pages for training; without it a browser opens those for language models."""


def server_command(uri: str, artifacts: Path, host: str, port: int) -> list[str]:
    """Of a server over the store at `uri`, a database; artifacts that clients send to it go below `artifacts`."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri),
        *("--artifacts-destination", str(artifacts.resolve())),
        *("--host", host),
        *("--port", str(port)),
        *("--workers", "1"),
    ]


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Ours where the user said nothing else."""
    return {**QUIET, **environment}


def serve(uri: str, artifacts: Path, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Becomes the server, which ends by Ctrl-C or a signal. A store that is a server already is only named: 0."""
    if uri.startswith(("http://", "https://")):
        print(f"MLflow serves this store at {uri}")
        return 0
    command = server_command(uri, artifacts, host, port)
    print(f"MLflow at http://{host}:{port}/{PAGE} over {uri}; Ctrl-C ends it", flush=True)
    return os.execve(command[0], command, server_environment(os.environ))
