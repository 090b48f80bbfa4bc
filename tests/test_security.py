"""Nothing that is read can make fempi run code: only the plugin files that a user names are programs."""

import ast
from pathlib import Path

import pytest

import fempi

PACKAGE = Path(fempi.__file__).parent
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "runpy",
    "code",
}
"""What makes objects, or runs programs, of text"""
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
}
"""The same"""
OFF = {"shell", "allow_pickle"}
"""Arguments that must be left out or be False, and for numpy.load be False"""
ALLOWED = {
    ("registry.py", "exec"),  # a plugin file, named in the configuration, or allowed by --allow-plugins
    ("registry.py", "compile"),
    ("datasets/pickles.py", "pickle"),  # an Unpickler that finds no class but stand-ins for arrays
}


def dangers(source):
    """Yield what a module could do to make a program of data."""
    tree = ast.parse(source)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    yield from {name.partition(".")[0] for name in known.values()} & MODULES
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, dot, rest = ast.unparse(node.func).partition(".")
        name = known.get(head, head) + dot + rest
        if name in CALLS:
            yield name
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        yield from (key for key in sorted(OFF & given.keys()) if given[key] != "False")
        if name == "numpy.load" and "allow_pickle" not in given:
            yield name


def test_no_data_become_a_program():
    found = {
        (str(path.relative_to(PACKAGE)), danger)
        for path in PACKAGE.rglob("*.py")
        for danger in dangers(path.read_text())
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("import joblib.numpy_pickle as j", ["joblib"]),
        ("import yaml\nyaml.load(text)", ["yaml"]),
        ("x = eval(text)", ["eval"]),
        ("exec(text)", ["exec"]),
        ("import torch\ntorch.load(path)", ["torch.load"]),
        ("import torch as t\nt.load(path)", ["torch.load"]),
        ("from torch import load\nload(path)", ["torch.load"]),
        ("from os import system as go\ngo(text)", ["os.system"]),
        ("import numpy as np\nnp.load(path)", ["numpy.load"]),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", ["allow_pickle"]),
        ("import numpy as np\nnp.load(path, allow_pickle=maybe)", ["allow_pickle"]),
        ("import subprocess\nsubprocess.run(text, shell=True)", ["shell"]),
        ("import numpy as np\nnp.load(path, allow_pickle=False)", []),
        ("import subprocess\nsubprocess.run(words, shell=False)", []),
        ("import json\njson.loads(text)\nmodel.eval()\nre.compile(text)", []),
    ],
)
def test_what_would_be_found(source, expected):
    assert list(dangers(source)) == expected
