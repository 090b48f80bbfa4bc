"""ByzFL's rules: how long one takes to aggregate, given torch's tensors, and given numpy's arrays.

The updates are as those of `fempi bench aggregate`: a common direction, and noise of half its length. A rule may have
the memory that is free; what asks for more is refused, before the machine has to end a process for it.
"""

import argparse
import json
import re
import resource
import time
from importlib.metadata import version
from pathlib import Path

import byzfl
import numpy as np
import torch


def updates(n: int, d: int) -> np.ndarray:
    """Make rows, (n, d) float32."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows *= np.float32(0.5)
    rows += rng.standard_normal(d, np.float32)
    return rows


def seconds(names: list[str], vectors: np.ndarray | torch.Tensor, f: int) -> float:
    """Time a chain of rules, the second time that it is used."""
    for _ in range(2):
        chain = [_rule(name, f) for name in names]
        out = vectors
        start = time.perf_counter()
        for rule in chain:
            out = rule(out)
        taken = time.perf_counter() - start
    return taken


def _rule(name: str, f: int) -> object:
    kind = getattr(byzfl, name)
    try:
        return kind(f=f)
    except TypeError:  # it has no f
        return kind()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rules", nargs="+")
    parser.add_argument("--cohort", type=int, required=True)
    parser.add_argument("--params", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    free = int(re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + free, -1))
    rows = updates(given.cohort, given.params)
    found, refused = {}, {}
    for kind, vectors in (("torch", torch.from_numpy(rows)), ("numpy", rows)):
        try:
            found[kind] = seconds(given.rules, vectors, given.cohort // 10)
        except (MemoryError, RuntimeError) as error:
            refused[kind] = str(error)
    out = {"package": "byzfl", "version": version("byzfl"), "seconds": min(found.values(), default=None)}
    print("\n" + json.dumps(out | {"kinds": found, "refused": refused}))
