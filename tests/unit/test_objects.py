"""Objects between ranks: what a killed rank no longer sends is not taken for what it sent."""

from __future__ import annotations

import pytest

from cooptim_lab.comm import objects


class Done:
    def Test(self):
        return True


class Comm:
    """Rank 0 of two that send the same; of the second's bytes so many never come, and MPI says nothing."""

    def __init__(self, missing):
        self.missing = missing

    def Get_size(self):
        return 2

    def Get_rank(self):
        return 0

    def Igather(self, head, heads, root=0):
        heads[:] = head
        return Done()

    def Igatherv(self, mine, every, root=0):
        every[0][:] = [*mine, *mine]
        every[0][len(every[0]) - self.missing :] = 0
        return Done()

    def Iallgather(self, head, heads):
        return self.Igather(head, heads)

    def Iallgatherv(self, mine, every):
        return self.Igatherv(mine, every)


@pytest.mark.parametrize("collect", [objects.gather, objects.allgather])
def test_what_is_sent_arrives(collect):
    assert collect(Comm(missing=0), {"a": [1.5, None]}) == [{"a": [1.5, None]}] * 2


@pytest.mark.parametrize("missing", [1, 10_000])
@pytest.mark.parametrize("collect", [objects.gather, objects.allgather])
def test_what_has_not_arrived_is_not_opened(collect, missing):
    with pytest.raises(RuntimeError, match="rank 1 sent has not arrived"):
        collect(Comm(missing), bytes(range(1, 256)) * 100)
