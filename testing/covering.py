"""Few cases of a test with many parameters, in which still whatever two values can do to each other can be seen.

A covering array of strength two, known as pairwise testing: every value of a parameter meets every value of each other
one in some case. A test with two parameters keeps all its cases. Each case is the one with most that is new
(D. M. Cohen et al., "The AETG System", IEEE Transactions on Software Engineering 23, 1997), of those that there are.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
from itertools import combinations

PAIRS = 2


def covering(cases: Sequence[Mapping[str, Hashable]], strength: int = PAIRS) -> list[int]:
    """The numbers of the cases, in order, that any ``strength`` values still meet in which meet in one of all cases."""
    each = [set(combinations(sorted(case.items()), min(strength, len(case)))) for case in cases]
    left = set().union(*each)
    chosen: list[int] = []
    while left:
        most = max(range(len(each)), key=lambda number: len(each[number] & left))
        chosen.append(most)
        left -= each[most]
    return sorted(chosen)
