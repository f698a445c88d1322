"""The lessons, a file each: what is asked, how it is answered, in which words. What is listed can be checked."""

from __future__ import annotations

from ..claims import Claim, Lesson
from .shards import SHARDS
from .small_networks import SMALL_NETWORKS

LESSONS: dict[int, Lesson] = {lesson.number: lesson for lesson in (SMALL_NETWORKS, SHARDS)}
"""By number, in the order in which they are taken."""
CLAIMS: dict[str, Claim] = {claim.id: claim for lesson in LESSONS.values() for claim in lesson.claims}
