"""A job from end to end: Ray Data reads, enlarges and writes; this process alone says what is done.

    units -> tasks that read -> actors with the networks -> tasks that write -> rows, which are committed here

Ray Data holds back readers while actors are busy and actors while writers are, so its object store bounds memory.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from patchscaler.cluster.manifest import Ledger, Row, rows_of, table_of
from patchscaler.cluster.reading import Found, read_units
from patchscaler.cluster.retries import Retries
from patchscaler.cluster.sinks import Sink, result_table, results_of
from patchscaler.cluster.sources import Unit, find_units
from patchscaler.cluster.storage import StoragePath
from patchscaler.cluster.worker import Work, Worker, name_clashes
from patchscaler.engines.load import check_model
from patchscaler.errors import ConfigError, PatchScalerError

MIB = 2**20
BLOCK = 16 * MIB  # of Ray Data: what a task hands on at once
TASK_CORES = 0.25  # of a reading or writing task, which mostly waits
SPARE_CORES = 1  # of a local cluster, for those tasks
SHARES = 4  # a batch is at most so small a part of what an actor would have left of an even share
IN_FLIGHT = 2  # batches that an actor has: one it works on, one that is there when it is done


@dataclass(frozen=True)
class Cluster:
    """Where the work is done.

    address   of a running cluster ("auto": the one of this machine); None: this process starts one for itself
    actors    copies of the networks
    cores     of each, which are its threads; gpus: of each, fractions too
    together  pictures that an actor takes at a time: their patches share batches
    part      results in a shard or table
    store     MiB of shared memory for pictures on their way, of a local cluster
    """

    address: str | None = None
    actors: int = 1
    cores: int = 1
    gpus: float = 0.0
    together: int = 32
    part: int = 64
    store: int = 512


class Outcome(NamedTuple):
    """Pictures: made by this run and failed in it; finished and failed before it, and left alone."""

    done: int
    failed: int
    before: int
    failed_before: int = 0


def run_job(
    source: str,
    sink: Sink,
    work: Work,
    cluster: Cluster,
    *,
    retry_failed: bool = False,
    notify: Callable[[int, int], None] = lambda done, failed: None,
) -> Outcome:
    """Enlarge all pictures of a source that the sink doesn't have yet.

    notify  called after each commit with the pictures done and failed by this run

    Raises ConfigError for a source or sink that can't be used, PatchScalerError where Ray gives up.
    """
    units = _not_results(find_units(source), source, sink)
    if clash := name_clashes(work, ((unit.key, unit.name) for unit in units if unit.kind == "file")):
        raise ConfigError(
            f"{clash[0]}: would be the result of {clash[1]} and of {clash[2]}; rename one, or use two sinks"
        )
    ledger, retries = Ledger(sink.root), Retries(sink.root)
    ledger.open(describe(sink, work), retry_failed)
    sink.tidy(ledger.shards)
    failed_before, done, failed = ledger.failed, 0, 0
    before = len(ledger.keys) - failed_before
    todo = [unit for unit in units if unit.kind != "file" or unit.key not in ledger.keys]
    if todo:
        check_model(work.model)
        for rows in _stream(todo, frozenset(ledger.keys), sink, work, retries, cluster):
            fresh = commit(ledger, sink, rows)
            failed += sum(row.status == "failed" for row in fresh)
            done += sum(row.status == "done" for row in fresh)
            notify(done, failed)
    ledger.close()
    retries.forget()
    return Outcome(done, failed, before, failed_before)


def _not_results(units: list[Unit], source: str, sink: Sink) -> list[Unit]:
    """The units but those that lie in a sink below the source: results. Raises ConfigError where the two are one."""
    searched, own = (str(path).rstrip("/") for path in (StoragePath.at(source), sink.root))
    if searched == own:
        raise ConfigError(f"{own}: is the source too, where results would be taken for pictures; choose another sink")
    below = own.startswith(f"{searched}/")
    return [unit for unit in units if not (below and unit.url.startswith(f"{own}/"))]


def describe(sink: Sink, work: Work) -> dict[str, Any]:
    """What the results depend on, as JSON."""
    options = asdict(work.options.with_steps(work.options.groups.steps))
    options.pop("batch_size")  # memory, not the result
    order = {"model": work.model, "size": work.size, "saving": work.saving}
    job = {**order, **options, "label": work.label, "suffix": work.suffix, "sink": sink.kind}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in job.items()}


def commit(ledger: Ledger, sink: Sink, rows: Sequence[Row]) -> list[Row]:
    """Write these rows down, but for pictures that are done already; those that are new."""
    fresh = [row for row in rows if row.key not in ledger.keys]
    doubled = {row.shard for row in rows if row.key in ledger.keys and row.shard} - ledger.shards
    for shard in doubled:  # nobody shall find a picture twice: what else is in there is made again
        (sink.root / shard).remove()
    fresh = [row for row in fresh if row.shard not in doubled]
    if fresh:
        ledger.add(fresh)
        ledger.shards.update(row.shard for row in fresh)
    return fresh


def _stream(
    todo: Sequence[Unit], done: frozenset[str], sink: Sink, work: Work, retries: Retries, cluster: Cluster
) -> Iterator[list[Row]]:
    """The rows of results that have been written, part by part."""
    ray = start_ray(cluster)
    try:
        from ray.exceptions import RayError

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.target_max_block_size = BLOCK
        # Files one by one are read as many as an actor takes; others are read whole, and cut afterwards.
        files = all(unit.kind == "file" for unit in todo)
        slices = cut(len(todo), cluster.together, cluster.actors) if files else [(n, n + 1) for n in range(len(todo))]
        blocks = [table_of(Unit, todo[start:stop]) for start, stop in slices]
        known = ray.put(done) if not files else None
        dataset = ray.data.from_arrow(blocks).map_batches(
            _read, batch_size=None, batch_format="pyarrow", num_cpus=TASK_CORES, fn_kwargs={"known": [known]}
        )
        if not files:
            dataset = dataset.repartition(target_num_rows_per_block=cluster.together)
        dataset = dataset.map_batches(
            _Actor,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=cluster.actors, max_tasks_in_flight_per_actor=IN_FLIGHT),
            num_cpus=cluster.cores,
            num_gpus=cluster.gpus or None,
            fn_constructor_args=(work, retries),
        ).map_batches(
            _write,
            batch_size=None if sink.kind == "folder" else cluster.part,
            batch_format="pyarrow",
            num_cpus=TASK_CORES,
            fn_kwargs={"sink": sink},
        )
        try:
            for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield rows_of(rows)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise PatchScalerError(
                f"Ray gave up ({last}); what is finished is kept, and the same call goes on"
            ) from error
    finally:
        ray.shutdown()


def cut(count: int, together: int, actors: int) -> list[tuple[int, int]]:
    """[0, count) in batches of `together`, and towards the end of fewer, so that no actor ends long before the last."""
    slices: list[tuple[int, int]] = []
    start = 0
    while start < count:
        stop = start + max(1, min(together, (count - start) // (SHARES * actors)))
        slices.append((start, stop))
        start = stop
    return slices


def start_ray(cluster: Cluster) -> Any:
    """The module ray, connected. Raises PatchScalerError where it is not installed or the address doesn't answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default, without its announcement
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its remarks are about its own making
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise PatchScalerError('batch jobs need Ray; install it with: pip install "patchscaler[cluster]"') from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the error itself comes to us
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if cluster.address is None:
        options |= {
            "address": "local",  # without it, Ray joins whatever cluster this machine happens to run
            "num_cpus": cluster.actors * cluster.cores + SPARE_CORES,
            "object_store_memory": cluster.store * MIB,
            "include_dashboard": False,
        }
    else:
        options["address"] = cluster.address
    try:
        ray.init(**options)
    except Exception as error:  # what Ray raises where its start takes too long
        words = " ".join(str(error).split())
        if cluster.address is None:
            raise PatchScalerError(f"Ray did not start ({words}); close other programs or lower --store") from error
        cure = "check the address, and set RAY_AUTH_MODE=token where the cluster asks for a token"
        raise PatchScalerError(f"--address {cluster.address}: no Ray answers ({words}); {cure}") from error
    return ray


def _read(units: pa.Table, known: list[Any]) -> Iterator[pa.Table]:
    """A reading task."""
    import ray

    done = frozenset() if known[0] is None else ray.get(known[0])
    pile: list[Found] = []
    for found in read_units([Unit(**row) for row in units.to_pylist()], done):
        pile.append(found)
        if sum(len(each.data or b"") for each in pile) >= BLOCK // 2:
            yield table_of(Found, pile)
            pile = []
    yield table_of(Found, pile)


class _Actor:
    """An actor's side of Ray Data around the worker."""

    def __init__(self, work: Work, retries: Retries) -> None:
        self.worker = Worker(work, retries)

    def __call__(self, pictures: pa.Table) -> Iterator[pa.Table]:
        if not len(pictures):
            yield result_table([])
            return
        for result in self.worker([Found(**row) for row in pictures.to_pylist()]):
            yield result_table([result])


def _write(results: pa.Table, sink: Sink) -> pa.Table:
    """A writing task."""
    return table_of(Row, sink.write(results_of(results)))
