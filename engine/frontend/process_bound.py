"""Objects that belong to the process that made them: a forked child lets go of them first of all."""

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_Bound = TypeVar("_Bound")

_of_this_process: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def abandon_in_forked_child(bound: _Bound, abandon: Callable[[_Bound], None]) -> None:
    """Have `abandon(bound)` called in each forked child, for as long as the object lives."""
    _of_this_process[bound] = abandon


def _abandon_all() -> None:
    for bound, abandon in list(_of_this_process.items()):
        abandon(bound)
    _of_this_process.clear()


os.register_at_fork(after_in_child=_abandon_all)
