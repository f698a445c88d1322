"""An even cut of a range into parts."""

from __future__ import annotations

from ..errors import InputError


def shard(rows: int, shards: int, which: int) -> range:
    """The rows of shard `which`: consecutive, and the sizes differ by one at most.

    Raises
    ------
    InputError
        When there are more shards than rows.
    """
    if shards > rows:
        raise InputError(f"workers = {shards}: there are only {rows} rows to train on; give at most {rows}")
    size, more = divmod(rows, shards)
    start = which * size + min(which, more)
    return range(start, start + size + (which < more))
