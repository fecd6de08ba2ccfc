"""What ended an attempt is told by names, texts and codes; each class has its policy."""

from __future__ import annotations

import errno
import pickle
import zipfile
import zlib

import pytest
import torch

from scaling.execution import Retry
from scaling.failures import (
    FAILURE_CLASSES,
    POLICIES,
    FailureClass,
    Policy,
    Stopped,
    classify_exception,
    classify_exit,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "gpu_oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "gpu_oom"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "host_oom"),
        (MemoryError(), "host_oom"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host_oom"),
        (OSError(errno.ENOSPC, "No space left on device"), "io"),
        (FileNotFoundError("pack.npz"), "io"),
        (ConnectionResetError(), "io"),
        (zipfile.BadZipFile("File is not a zip file"), "io"),
        (zlib.error("Error -3 while decompressing data"), "io"),
        (EOFError(), "io"),
        (pickle.UnpicklingError("pickle data was truncated"), "io"),
        (Stopped("asked to stop"), "preempted"),
        (ValueError("shapes do not match"), "error"),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), "error"),
        (KeyError("model"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_exception_is_classed_by_name_and_text(error: Exception, kind: str) -> None:
    assert classify_exception(error) == kind


@pytest.mark.parametrize(
    ("code", "log", "oom_killed", "kind"),
    [
        (-9, "", True, "host_oom"),
        (-9, "", False, "preempted"),
        (-15, "", False, "preempted"),
        (143, "", False, "preempted"),
        (75, "", False, "preempted"),
        (None, "", False, "preempted"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", False, "host_oom"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", False, "gpu_oom"),
        (-11, "", False, "error"),
        (1, "KeyError: 'x'", False, "error"),
    ],
)
def test_a_process_that_said_nothing_is_classed_by_its_end(
    code: int | None, log: str, oom_killed: bool, kind: str
) -> None:
    found, words = classify_exit(code, log, oom_killed=oom_killed)
    assert found == kind
    assert words


def test_a_segmentation_fault_is_named() -> None:
    assert classify_exit(-11, "")[1] == "killed by SIGSEGV"


def test_backoff_doubles_and_is_capped() -> None:
    policy = Policy(tries=9, backoff=10, longest=600)
    assert [policy.delay(n) for n in (1, 2, 3, 7, 9)] == [10, 20, 40, 600, 600]


def test_the_yaml_can_set_the_tries_of_every_class_and_nothing_else_changes() -> None:
    wanted: dict[FailureClass, int] = {kind: i for i, kind in enumerate(FAILURE_CLASSES)}
    policies = Retry(**wanted).policies()
    assert {kind: policy.tries for kind, policy in policies.items()} == wanted
    assert {kind: policy.backoff for kind, policy in policies.items()} == {k: p.backoff for k, p in POLICIES.items()}
    assert Retry().policies() == POLICIES
