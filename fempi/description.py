"""What a record says of its run beside the rounds: its shape, when and with what it was made, on which ranks."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
import torch

import fempi
from fempi import comm as mpi
from fempi import registry
from fempi.comm import Comm
from fempi.problem import Problem
from fempi.schema import Layout
from fempi.store import Arrays, Description


def layout_of(problem: Problem, ranks: int) -> Layout:
    """Return the shape of this run's record."""
    config = problem.config
    return Layout(
        sizes={
            "round": config.rounds,
            "slot": config.train.cohort,
            "param": problem.model.d,
            "client": config.data.clients,
            "class": problem.images.num_classes,
            "layer": len(problem.model.layers),
            "plugin": len(config.plugins.files),
        },
        launches=[[1, ranks]],
        evaluate_every=config.evaluation.every,
        updates=config.record.updates,
        every=config.record.every,
        sketch_size=config.record.sketch_size,
        has_reference=problem.needs_reference,
        per_client=config.evaluation.per_client,
        seed=config.seed,
    )


def expected_bytes(problem: Problem, ranks: int) -> int:
    """Size of the packed record, known beforehand because the cohorts are."""
    layout = layout_of(problem, ranks)
    kept = (r for r in range(1, problem.config.rounds + 1) if layout.keeps_vectors(r))
    malicious_rows = sum(int(problem.malicious[problem.cohort(r)].sum()) for r in kept)
    return layout.nbytes(malicious_rows)


def describe(problem: Problem, comm: Comm) -> Description:
    """Return what the record of a run that begins now says of it; all ranks must call it, to say where they are."""
    return Description(
        layout=layout_of(problem, comm.size), attributes=_attributes(problem), static=_static(problem, comm)
    )


def _attributes(problem: Problem) -> dict[str, Any]:
    config = problem.config
    libraries = ("torch", "numpy", "scikit-learn", "dp-accounting", "mpi4py", "h5py")
    return {
        "fempi_version": fempi.__version__,
        "config": config.to_toml(),
        "config_hash": config.hash,
        "seed": config.seed,
        "problem": problem.digest,
        "noise_std": problem.mechanism.noise_std if problem.mechanism is not None else 0.0,
        "created": _now(),
        "git_commit": _git_commit(),
        "python_version": platform.python_version(),
        **{f"{name.replace('-', '_')}_version": importlib.metadata.version(name) for name in libraries},
        "mpi_library": mpi.library(),
    }


def _static(problem: Problem, comm: Comm) -> Arrays:
    device = str(problem.model.device)
    if problem.model.device.type == "cuda":
        device = f"{device} {torch.cuda.get_device_name(problem.model.device)}"
    layers = problem.model.layers
    facts: dict[str, Any] = {
        "clients/malicious": problem.malicious,
        "clients/num_examples": problem.num_examples,
        "clients/label_counts": problem.label_counts,
        "layers/name": np.array([layer.name for layer in layers], dtype=object),
        "layers/shape": np.array([str(list(layer.shape)) for layer in layers], dtype=object),
        "layers/offset": np.array([layer.offset for layer in layers]),
        "launches/first_round": np.array([1]),
        "launches/ranks": np.array([comm.size]),
        "launches/started": np.array([_now()], dtype=object),
        "launches/software": np.array([software()], dtype=object),
        "ranks/host": np.array([comm.describe(comm.host)], dtype=object),
        "ranks/device": np.array([comm.describe(device)], dtype=object),
        "ranks/threads": np.array([[int(n) for n in comm.describe(str(torch.get_num_threads()))]]),
    }
    if files := problem.config.plugins.files:
        facts["plugins/file"] = np.array(files, dtype=object)
        facts["plugins/source"] = np.array(
            [registry.source(digest) for digest in problem.config.plugins.sha256], dtype=object
        )
    if problem.config.evaluation.per_client:
        owners = problem.test_owner[problem.test_owner >= 0]
        facts["clients/num_test_examples"] = np.bincount(owners, minlength=problem.config.data.clients)
    return facts


def software() -> str:
    """Return what computes here, as far as the last bits of a result may depend on it, with versions."""
    import scipy.linalg  # noqa: F401  # scikit-learn's: some rules' BLAS, to be named whether or not one has run yet

    blas = {
        f"{pool['internal_api']} {pool['version']}" + (f" ({pool['architecture']})" if "architecture" in pool else "")
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }
    named = [f"fempi {fempi.__version__}", f"torch {torch.__version__}", f"numpy {np.__version__}", *sorted(blas)]
    return ", ".join([*named, platform.machine()])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _git_commit() -> str:
    """Commit of the checkout this code runs from, "+" after it if changed; empty for an installed package."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", "--", "run.py"):
            return ""
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except OSError:
        return ""
