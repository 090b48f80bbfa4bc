"""Whether a record still holds what was written, and what is lost if it does not.

HDF5 itself may crash, or never come back, over a damaged file. So a check runs in a child process, and the end of that
is an answer too.
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np

from fempi import checkpoint
from fempi.digest import SEAL, RoundSums, seal
from fempi.errors import FempiError
from fempi.runfile import RunFile, final_name, opened, round_name
from fempi.schema import CHECKSUMS, VECTOR, Field, Layout
from fempi.store import committed

PATIENCE = 60
"""Seconds that reading a round may take"""
MEMORY = 8 << 30
"""Bytes of address space that the child may have: a damaged size must not be believed"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found."""

    status: str
    """complete, running or interrupted"""
    rounds: int
    """that the run was to have"""
    committed: int
    """rounds there are, whole or not"""
    problems: list[str]
    """what is lost or damaged, a sentence each; empty if the record is whole"""


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn an error over a damaged record into a FempiError that says so; one over a whole record is fempi's own."""
    try:
        yield
    except (ArithmeticError, LookupError, OSError, ValueError) as error:
        if not check(path).problems:
            raise
        what = f"{path} is damaged ({type(error).__name__}: {error})"
        raise FempiError(f"{what}; `fempi check` says what is lost") from error


def check(path: Path, *, updates: bool = True) -> Verdict:
    """Compare a packed record, or a run's folder, with its checksums, of all that it holds or of all but the updates.

    Raises FempiError for what is no record, or not one that can be read at all.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, path, updates), daemon=True)
    child.start()
    there.close()
    try:
        while here.poll(PATIENCE):
            said = here.recv()
            if isinstance(said, Verdict):
                return said
            if said:
                raise FempiError(said)
        raise FempiError(f"{path} is damaged: HDF5 has not come back from reading it for {PATIENCE} s")
    except EOFError:
        raise FempiError(f"{path} is damaged: HDF5 crashed reading it") from None
    finally:
        child.kill()
        child.join()


def _answer(to: Connection, path: Path, updates: bool) -> None:
    """Send the verdict on a record, or what is wrong in words, after an empty text each now and then."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        to.send(_examine(path, updates, beat=lambda: to.send("")))
    except FempiError as error:
        to.send(str(error))
    except Exception as error:  # h5py raises what it likes
        to.send(f"{path} is damaged: {error}")


def _examine(path: Path, updates: bool, beat: Callable[[], None]) -> Verdict:
    with RunFile(path) as run:
        if not run.is_sealed:
            what = "its master (attributes, static data)" if run.is_folder else "attributes, structure or static data"
            raise FempiError(f"{path} is damaged: {what} is not what was written, so nothing else can be trusted")
        layout, done = run.layout, run.rounds_completed
        if run.is_folder:
            evidence, problems = _evidence(path, run)
            done, later = committed(path, run.run_id)
            if later is not None:
                evidence = {f"round {later} has": later} | evidence
            lost = next((words for words, round_ in evidence.items() if round_ > done), None)
            problems += [f"round {done + 1} has no file, but {lost}"] if lost else []
            problems += _damaged_files(path, run, layout, done, updates, beat)
        else:
            problems = list(_damaged_rounds(run, layout, done, updates, beat))
        return Verdict(status=run.status, rounds=run.rounds, committed=done, problems=problems)


def _evidence(folder: Path, run: RunFile) -> tuple[dict[str, int], list[str]]:
    """Return what shows that a round was made, with its number, and what is wrong with that.

    To be asked before the rounds are counted: the run may go on meanwhile.
    """
    rounds = {"the run had ended": run.rounds} if (folder / final_name(run.run_id)).exists() else {}
    try:
        state = checkpoint.load(folder, run.run_id)
    except FempiError as error:
        return rounds, [str(error)]
    if state is not None:
        rounds[f"the checkpoint is of round {state.round}"] = state.round
    return rounds, []


def _damaged_files(
    folder: Path, run: RunFile, layout: Layout, done: int, updates: bool, beat: Callable[[], None]
) -> Iterator[str]:
    for round_ in range(1, done + 1):
        beat()
        path = folder / round_name(run.run_id, round_)
        try:
            with opened(path) as file:
                wrong = _wrong(file, None, layout, round_, updates)
        except Exception:
            wrong = "cannot be read"
        if wrong:
            yield f"round {round_} {wrong} ({path.name})"
    final = folder / final_name(run.run_id)
    if final.exists():
        try:
            with opened(final) as file:
                whole = file.attrs[SEAL] == seal(file)
        except Exception:
            whole = False
        if not whole:
            yield f"the final parameters are damaged ({final.name})"


def _damaged_rounds(run: RunFile, layout: Layout, done: int, updates: bool, beat: Callable[[], None]) -> Iterator[str]:
    for round_ in range(1, layout.sizes["round"] + 1):
        beat()
        try:
            if round_ <= done:
                wrong = _wrong(run.file, round_ - 1, layout, round_, updates)
            else:
                wrong = "" if _is_blank(run.file, layout, round_, updates) else "has data, but was never made"
        except Exception:
            wrong = "cannot be read"
        if wrong:
            yield f"round {round_} {wrong}"


def _wrong(file: h5py.File, place: int | None, layout: Layout, round_: int, updates: bool) -> str:
    """Say what is wrong with a round, at a place of a packed file or alone in its own; empty if nothing is."""
    sums = RoundSums(round_)
    malicious = file["rounds/malicious"][() if place is None else place]
    blank = True
    for f in layout.fields():
        if f in CHECKSUMS or f.dims[0] not in ("round", "evaluation") or (VECTOR in f.dims and not updates):
            continue
        where = _place(f, place, layout, round_)
        if where is None or (VECTOR in f.dims and not layout.keeps_vectors(round_)):
            blank &= where is None or place is None or _all_fill(file[f.path], where, f)
            continue
        if f.path in ("rounds/update", "rounds/trained_update"):
            for slot in range(layout.size("slot")):
                values = file[f.path][(*where, slot)]
                if malicious[slot] or f.path == "rounds/update":
                    sums.add(f, values)
                else:
                    blank &= _is_fill(values, f)
            continue
        values = file[f.path][where]
        if "rank" in f.dims:
            blank &= _is_fill(values[layout.ranks(round_) :], f)
            values = values[: layout.ranks(round_)]
        sums.add(f, values)
    if not blank:
        return "has data where none was written"
    there = {f.path for f in layout.fields()}
    for path, digest in sums.digests().items():
        if path not in there or (path == "checksums/updates" and not updates):
            continue
        if file[path][() if place is None else place].tobytes() != digest.tobytes():
            return f"has other {path.rpartition('/')[2]} than were written"
    return ""


def _is_blank(file: h5py.File, layout: Layout, round_: int, updates: bool) -> bool:
    blank = True
    for f in layout.fields():
        if f.dims[0] in ("round", "evaluation") and (updates or VECTOR not in f.dims):
            where = _place(f, round_ - 1, layout, round_)
            blank &= where is None or _all_fill(file[f.path], where, f)
    return blank


def _place(f: Field, place: int | None, layout: Layout, round_: int) -> tuple[int, ...] | None:
    """Where a round's values of a field are; None if the model was not tested after it."""
    if f.dims[0] == "evaluation":
        if round_ not in layout.evaluated:
            return None
        return () if place is None else (layout.evaluated.index(round_),)
    return () if place is None else (place,)


def _all_fill(dataset: h5py.Dataset, where: tuple[int, ...], f: Field) -> bool:
    if f.path not in ("rounds/update", "rounds/trained_update"):
        return _is_fill(dataset[where], f)
    return all(_is_fill(dataset[(*where, slot)], f) for slot in range(dataset.shape[1]))


def _is_fill(values: np.ndarray, f: Field) -> bool:
    return bool(np.isnan(values).all() if np.isnan(f.fill) else (values == f.fill).all())
