"""Runs in two processes that train together, as `torchrun --nproc-per-node 2` starts them, but from one import.

`Doomed` has its second process killed in its fourth step.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

import torch
from accelerate.state import AcceleratorState

from patchscaler.training import loop
from patchscaler.training.patch_dit import PatchDiTSettings, PatchDiTTask
from patchscaler.training.settings import build


class Doomed(PatchDiTTask):
    steps = 0

    def loss(self, *arguments: Any) -> Any:
        self.steps += 1
        if self.steps == 4 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(*arguments)


def train_together(*runs: tuple[type[PatchDiTTask], dict[str, Any]]) -> list[int]:
    """One run after the other, each with two processes of one thread on the CPU; returns their exit codes.

    When one process dies the other is ended, which is what torchrun does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([loop.__name__, PatchDiTTask.__module__])  # imported once, not in every process
    ports = [_free_port() for _ in runs]  # one each: the store of the run before may still be closing
    processes = [context.Process(target=_process, args=(rank, ports, runs)) for rank in range(2)]
    for process in processes:
        process.start()
    with contextlib.suppress(TimeoutError):
        wait([process.sentinel for process in processes], timeout=120)
    if any(process.exitcode not in (0, None) for process in processes):
        for process in processes:
            process.terminate()
    for process in processes:
        process.join(60)
        process.kill()
    return [int(process.exitcode or 0) for process in processes]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process(rank: int, ports: Sequence[int], runs: Sequence[tuple[type[PatchDiTTask], dict[str, Any]]]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    for port, (task_type, table) in zip(ports, runs, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        settings = build(PatchDiTSettings, table)
        loop.train(task_type(settings), settings.run, settings)
        AcceleratorState._reset_state(True)  # its group of processes ended with the run
