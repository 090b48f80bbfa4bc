"""Plugins by kind and name, with hyper-parameters bound strictly.

A plugin is a function (or class) in a file of its own; its keyword-only arguments are its hyper-parameters, and
their annotations and defaults are all the schema there is. Being in the folder of its kind, or in a file named
under `[plugins]`, is being registered.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import inspect
import linecache
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from fempi.errors import FempiError

KINDS: Mapping[str, str] = {
    "aggregator": "fempi.aggregators",
    "pre_aggregator": "fempi.aggregators.pre",
    "attack": "fempi.attacks",
    "dataset": "fempi.datasets",
    "model": "fempi.models",
    "partition": "fempi.datasets.partition",
}

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Plugin:
    """A registered function or class and what is known about it."""

    kind: str
    name: str
    make: Callable[..., Any]
    parameters: type[pydantic.BaseModel]
    paper: str
    needs: tuple[str, ...]
    cost: str
    origin: str

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.make) or "").split("\n", 1)[0].rstrip(".")

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check hyper-parameters and fill in the defaults; `pydantic.ValidationError` lists every problem."""
        return dict(self.parameters.model_validate(dict(values)))


_plugins: dict[tuple[str, str], Plugin] = {}
_loaded: dict[str, str] = {}
_sources: dict[str, str] = {}


def register(kind: str, name: str, *, paper: str = "", needs: tuple[str, ...] = (), cost: str = "") -> Callable[[T], T]:
    """Register the decorated function or class under `name`.

    `paper` cites its source. `needs` says what it cannot do without; an aggregator may need "reference" (the
    server's own update), "columns" (the coordinates themselves, not only inner products) or "clients" (rows that each
    come from one client, whom it follows over rounds), an attack "rule" (what the server would decide). `cost` is the
    leading term of its running time, in n rows of d coordinates, f of them an attacker's; of a rule that needs no
    columns, beyond the Gram matrix that every round has.
    """
    if kind not in KINDS:
        raise FempiError(f"cannot register {name!r}: no kind of plugin is called {kind!r}{nearest(kind, KINDS)}")

    def decorate(make: T) -> T:
        origin = inspect.getsourcefile(make) or ""
        known = _plugins.get((kind, name))
        if known is not None and (known.origin, known.make.__qualname__) != (origin, make.__qualname__):
            built_in = Path(known.origin).is_relative_to(Path(__file__).parent)
            where = "is built in" if built_in else f"is registered by {known.origin} too"
            raise FempiError(f"{kind} {name!r} of {Path(origin).name} {where}; choose another name")
        _plugins[kind, name] = Plugin(kind, name, make, _parameters(make, f"{kind}_{name}"), paper, needs, cost, origin)
        return make

    return decorate


def names(kind: str) -> list[str]:
    """All registered names of a kind, sorted."""
    _discover(kind)
    return sorted(name for known, name in _plugins if known == kind)


def find(kind: str, name: str) -> Plugin:
    """Look a plugin up; a FempiError names the nearest one there is."""
    _discover(kind)
    if (kind, name) not in _plugins:
        raise FempiError(f"no {kind} is called {name!r}{nearest(name, names(kind))}")
    return _plugins[kind, name]


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """Return "; did you mean ...?", or the whole list where nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f" (there are: {', '.join(known)})" if known else ""


def load_file(path: Path) -> str:
    """Import a user's plugin file, which registers what it defines; return the SHA-256 of its text."""
    try:
        if not path.is_file():
            raise FempiError(f"no such file: {path}")
        if path.suffix != ".py":
            raise FempiError(f"{path} is not a Python file (.py)")
        text = path.read_bytes()
    except OSError as error:
        raise FempiError(f"{path} cannot be read: {error.strerror}") from error
    return _load(text, path)


def load_source(text: str, path: Path) -> str:
    """Load a plugin whose text a record has kept, as if it were in a file at `path`; return its SHA-256."""
    linecache.cache[str(path.absolute())] = (len(text), None, text.splitlines(keepends=True), str(path))
    return _load(text.encode(), path)


def source(digest: str) -> str:
    """Return the text of a loaded plugin file, by its SHA-256."""
    return _sources[digest]


def _load(text: bytes, path: Path) -> str:
    for kind in KINDS:
        _discover(kind)  # so that what is built in is there first
    digest = hashlib.sha256(text).hexdigest()
    module_name = f"fempi_plugin_{path.stem}_{hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]}"
    if _loaded.get(module_name) == digest:
        return digest
    module = types.ModuleType(module_name)
    module.__file__ = str(path.absolute())
    sys.modules[module_name] = module
    try:
        # This very text, and not what Python may have compiled of an earlier one: its cache goes by time and size.
        exec(compile(text, module.__file__, "exec"), vars(module))
        _sources[digest] = text.decode()
    except FempiError:
        del sys.modules[module_name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise FempiError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    _loaded[module_name] = digest
    return digest


@functools.cache
def _discover(kind: str) -> None:
    package = importlib.import_module(KINDS[kind])
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        importlib.import_module(f"{package.__name__}.{module.name}")


def _parameters(make: Callable[..., Any], title: str) -> type[pydantic.BaseModel]:
    hints = typing.get_type_hints(make, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(make).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in hints:
            raise FempiError(f"{title}: annotate the hyper-parameter {parameter.name!r} with its type")
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    strict = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    model: type[pydantic.BaseModel] = pydantic.create_model(title, __config__=strict, **fields)
    return model
