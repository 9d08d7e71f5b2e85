"""How much of a walk one run takes: of each point a passage by seed, or all of them.

`./scripts/crash_walk` takes all. RINGBLK_WALK_SEED is the seed; whole numbers, 1 where it is not set.
"""

import os
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

IS_WHOLE = os.environ.get("RINGBLK_WALK") == "whole"
SEED = int(os.environ.get("RINGBLK_WALK_SEED", "1"))

_Choice = TypeVar("_Choice")


def one_of(choices: Sequence[_Choice], what: str) -> list[_Choice]:
    """All of them in a whole walk, else one, which seed and `what` choose."""
    return list(choices) if IS_WHOLE else [random.Random(f"{SEED} {what}").choice(choices)]


def walk(passages: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    """The (point, passage) at which a test is to have somebody die: each point is among them."""
    return [(point, passage) for point, each in passages.items() for passage in one_of(each, point)]
