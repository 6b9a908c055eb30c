"""Runs in processes that train together, as `torchrun` starts them, but from one import."""

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch
from accelerate.state import AcceleratorState

from patchscaler.cli.train import Part, types_of
from patchscaler.training import loop
from patchscaler.training.settings import build


class Run(NamedTuple):
    """A part and its settings; killed_at: the last process is killed when it is asked for the loss of its n-th step."""

    part: str
    table: dict[str, Any]
    killed_at: int | None = None


def train_together(*runs: Run, processes: int = 2) -> list[int]:
    """One run after the other, each in so many processes of one thread on the CPU; returns their exit codes.

    When one process dies the others are ended, which is what torchrun does.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once, not in every process.
    context.set_forkserver_preload([f"patchscaler.training.{name}" for name in ("loop", "patch_dit", "texture")])
    ports = [_free_port() for _ in runs]  # one each: the store of the run before may still be closing
    started = [context.Process(target=_process, args=(rank, processes, ports, runs)) for rank in range(processes)]
    for process in started:
        process.start()
    with contextlib.suppress(TimeoutError):
        wait([process.sentinel for process in started], timeout=300)
    if any(process.exitcode not in (0, None) for process in started):
        for process in started:
            process.terminate()
    for process in started:
        process.join(60)
        process.kill()
    return [int(process.exitcode or 0) for process in started]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process(rank: int, processes: int, ports: Sequence[int], runs: Sequence[Run]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    for port, run in zip(ports, runs, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        settings_type, task_type = types_of(Part(run.part))
        settings = build(settings_type, run.table)
        task = task_type(settings)
        if run.killed_at is not None and rank == processes - 1:
            _doom(task, run.killed_at)
        loop.train(task, settings.run, settings)
        AcceleratorState._reset_state(True)  # its group of processes ended with the run


def _doom(task: Any, step: int) -> None:
    loss, asked = task.loss, []

    def loss_or_death(*arguments: Any) -> Any:
        asked.append(1)
        if len(asked) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(*arguments)

    task.loss = loss_or_death
