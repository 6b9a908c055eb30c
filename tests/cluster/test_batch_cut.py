"""A job's batches: all of its pictures, once, and smaller towards the end."""

from hypothesis import given
from hypothesis import strategies as st

from patchscaler.cluster.job import cut


@given(st.integers(0, 5000), st.integers(1, 64), st.integers(1, 70))
def test_batches_get_smaller_towards_the_end(count: int, together: int, actors: int) -> None:
    slices = cut(count, together, actors)
    assert [number for start, stop in slices for number in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in slices]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= together for size in sizes)
