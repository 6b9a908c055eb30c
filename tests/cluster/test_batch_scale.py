"""The plan past one machine: the cost model finds what was put in, the simulated schedule keeps 64 workers busy."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from batch_scale import Cost, fit, mixed, simulate
from hypothesis import given
from hypothesis import strategies as st

from patchscaler.cluster.job import cut
from patchscaler.cluster.manifest import Row, table_of

COST = Cost(0.03, 3.0, 0.01, 0.02)


def test_the_cost_is_found_again(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(200):
        side, counts = int(rng.integers(16, 400)), rng.integers(0, 9, 3).tolist()
        patches = counts[1] + counts[2]  # simple ones have no steps
        seconds = COST.of(side * side, patches, counts[1] + 3 * counts[2]) * float(rng.normal(1, 0.01))
        row = Row(str(number), "done", height=side, width=side, seconds=seconds)
        names = ("patches_simple", "patches_medium", "patches_hard", "steps_medium", "steps_hard")
        rows.append(row._replace(**dict(zip(names, (*counts, 1, 3), strict=True))))
    parquet.write_table(table_of(rows), tmp_path / "manifest.parquet")
    found, explained, count = fit([tmp_path / "manifest.parquet"])
    assert count == 200
    assert explained > 0.99
    assert np.allclose(found, COST, rtol=0.1, atol=2e-3)


def test_no_cost_is_negative(tmp_path: Path) -> None:
    rows = [Row(str(n), "done", height=n, width=n, seconds=1 / n, patches_hard=n, steps_hard=2) for n in range(1, 9)]
    parquet.write_table(table_of(rows), tmp_path / "manifest.parquet")
    assert min(fit([tmp_path / "manifest.parquet"])[0]) >= 0


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=80), st.integers(1, 9), st.integers(1, 9))
def test_a_schedule_is_neither_faster_nor_much_slower_than_it_can_be(
    seconds: list[float], workers: int, together: int
) -> None:
    found = simulate(seconds, workers, together)
    work = sum(seconds)
    batches = [sum(seconds[start:stop]) for start, stop in cut(len(seconds), together, workers)]
    assert found.makespan >= max(work / workers, *batches, 0) * (1 - 1e-9)
    # Each batch waits behind one other at most that could have gone elsewhere.
    assert found.makespan <= work / workers + 2 * max(batches) + 1e-9
    assert 0 < found.utilisation <= 1 + 1e-9


def test_reading_and_committing_can_be_what_holds_it_up() -> None:
    seconds = [1.0] * 640
    free = simulate(seconds, 8, 10)
    assert free.makespan == pytest.approx(80)
    assert free.utilisation == pytest.approx(1)
    batches = len(cut(640, 10, 8))
    slow = simulate(seconds, 8, 10, read=10.0).makespan
    assert 10 * (batches - 1) < slow <= 10 * batches
    assert simulate(seconds, 8, 10, commit=20.0).makespan >= 20 * batches


@given(st.integers(0, 5000), st.integers(1, 64), st.integers(1, 70))
def test_batches_get_smaller_towards_the_end(count: int, together: int, actors: int) -> None:
    slices = cut(count, together, actors)
    assert [number for start, stop in slices for number in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in slices]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= together for size in sizes)


@pytest.mark.parametrize("steps", [(1, 2, 3), (8, 14, 20)])
@pytest.mark.parametrize("count", [20_000, 50_000])
def test_64_workers_are_used_on_mixed_sizes(steps: tuple[int, int, int], count: int) -> None:
    pictures = mixed(COST, count, steps)
    found = simulate([picture.seconds for picture in pictures], 64, 32, commit=0.01)
    assert found.utilisation >= 0.95
    assert {picture.pixels for picture in pictures} == {side * side for side in (64, 128, 256, 512, 1024)}
