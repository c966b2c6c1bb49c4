"""On PYTHONPATH this makes a run keep no visual features: every forward of the network encodes what it shows.

Python imports it at the start of each process, Ray's workers too. It changes a default when `pixelis.memory.model` is
imported, and then writes the process's number into the file that PIXELIS_UNCACHED names.
"""

import importlib.abc
import importlib.util
import os
import sys

NAME = "pixelis.memory.model"


class Loader(importlib.abc.Loader):
    """Loads the module as its own loader does, then takes the room of its cache away."""

    def __init__(self, inner):
        self.inner = inner

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        self.inner.exec_module(module)
        init = module.FeatureCache.__init__
        dtype, limit = init.__defaults__
        assert limit > 0, "FeatureCache has another signature: nothing was changed"
        init.__defaults__ = (dtype, 0)
        with open(os.environ["PIXELIS_UNCACHED"], "a") as file:
            file.write(f"{os.getpid()}\n")


class Finder(importlib.abc.MetaPathFinder):
    """Finds that one module."""

    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())
