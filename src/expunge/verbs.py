"""Folders that share their name with a verb: `expunge.audit` and `expunge.report` are packages that can be called.

Importing a submodule sets the package as an attribute of `expunge`, in the place of the verb of that name. The package
therefore has to be callable itself.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that passes a call on to the function of its own name."""

    _home: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(self._home), name)(*args, **options)


def make_callable(package: str, home: str) -> ModuleType:
    """Make calls of `package` go to the function of the same name in the module `home`, imported when it is called."""
    module = sys.modules[package]
    module.__class__ = CallablePackage
    module._home = home  # type: ignore[attr-defined]
    return module
