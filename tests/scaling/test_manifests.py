"""Files under experiments/cluster/: what their tools would refuse is refused here, as far as that needs no cluster."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from scaling.cli import _parser

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "experiments" / "cluster"
PINNED = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

# KubeRay's API reference for ray.io/v1 (ray-project/kuberay, docs/reference/api.md): names this manifest may use.
RAY_JOB = {
    "entrypoint",
    "backoffLimit",
    "activeDeadlineSeconds",
    "submissionMode",
    "submitterConfig",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "runtimeEnvYAML",
    "suspend",
    "rayClusterSpec",
}
RAY_CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling", "autoscalerOptions"}
HEAD_GROUP = {"rayStartParams", "template", "serviceType"}
WORKER_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def opening(name: str) -> str:
    lines = (CLUSTER / name).read_text().splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def commands(text: str) -> list[list[str]]:
    """Calls of `scaling run` in a file, as words."""
    return [shlex.split(found)[1:] for found in re.findall(r"scaling run [^'\"\n]+", text)]


@pytest.mark.parametrize("name", sorted(path.name for path in CLUSTER.glob("*.yaml")))
def test_a_file_opens_with_the_two_commands_that_use_it_and_they_are_valid(name: str) -> None:
    shown = [line for line in opening(name).splitlines() if line.startswith("#   ")]
    assert any(name in line for line in shown)
    assert len(shown) >= 2
    found = commands((CLUSTER / name).read_text())
    assert found
    for words in found:
        sweep = _parser().parse_args(words).sweep
        assert (ROOT / "experiments" / sweep.name).exists(), sweep


def test_ray_up_accepts_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    full = prepare_config(config)
    validate_config(full)
    head, worker = full["available_node_types"]["head"], full["available_node_types"]["worker"]
    assert head["resources"] == {"CPU": 0}, "the head would carry runs"
    assert worker["min_workers"] == worker["max_workers"] == full["max_workers"]
    assert any("/mnt/scaling" in command and "mount -t nfs4" in command for command in full["initialization_commands"])


def test_the_ray_job_uses_names_that_kuberay_knows() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert set(spec) <= RAY_JOB
    assert set(cluster) <= RAY_CLUSTER
    assert set(cluster["headGroupSpec"]) <= HEAD_GROUP
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_all_pods_of_the_ray_job_mount_the_root_at_the_same_path() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "emptyDir" not in v}
        (container,) = pod["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert claims == {"root": "scaling"}
        assert mounts["root"] == "/mnt/scaling"
        assert set(mounts) <= {volume["name"] for volume in pod["volumes"]}
        assert "cd /mnt/scaling &&" in job["spec"]["entrypoint"]


def test_the_files_name_the_ray_that_is_pinned() -> None:
    assert PINNED is not None
    assert yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]["rayVersion"] == PINNED[1]
    for path in CLUSTER.glob("*.yaml"):
        images = re.findall(r"rayproject/ray:(\S+?)-py", path.read_text())
        assert images == [PINNED[1]], path.name


def test_the_extra_that_the_files_install_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for path in CLUSTER.glob("*.yaml") for name in re.findall(r"\[(\w+)\]['\"]", path.read_text())}
    assert named
    assert named <= extras.keys()
