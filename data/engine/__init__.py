"""Runs independent units of work, in this process or in many, and keeps what they give.

A unit names, by its key, everything that its result depends on. A result that is there is not made again: so a run that
was killed goes on where it was, and a changed setting makes anew only what depends on it. Who works, and in what order,
changes nothing.
"""

from data.engine.dask_engine import cluster_engine, local_engine
from data.engine.engine import Engine, InProcess
from data.engine.guard import Guard, ItemError
from data.engine.units import Unit, unit_key

__all__ = ["Engine", "Guard", "InProcess", "ItemError", "Unit", "cluster_engine", "local_engine", "unit_key"]
