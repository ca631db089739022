"""Functions run by several ranks of a gloo process group on this machine."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from datetime import timedelta

import torch.distributed as dist

# Whoever has a thread of its own cannot be forked; forking is what makes these tests cheap.
_FORK = multiprocessing.get_context("fork")


class RankError(Exception):
    """A rank raised; the message is its traceback."""


def run_ranks(function, size, *arguments, limit=60.0, init=True):
    """Return what ``function(rank, *arguments)`` returns or raises on each rank.

    Parameters
    ----------
    function
        What every rank does.
    size
        How many there are.
    limit
        Seconds after which those that have not ended are killed; theirs is None, as is that of a
        rank that died.
    init
        Whether there is a process group already when the function begins; otherwise it finds what
        torchrun tells it in the environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_FORK.Pipe(duplex=False) for _ in range(size)]
        port = str(20000 + (os.getpid() * 7 + time.monotonic_ns() // 1000) % 30000)
        ranks = [
            _FORK.Process(
                target=_as_rank, args=(rank, size, folder, port, init, pipes, function, arguments)
            )
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        for _, writer in pipes:
            writer.close()
        end = time.monotonic() + limit
        found = []
        for reader, _ in pipes:
            value = None
            try:
                if reader.poll(max(end - time.monotonic(), 0.0)):
                    value = pickle.loads(reader.recv_bytes())
            except EOFError:
                pass
            found.append(value)
        for process in ranks:
            process.join(max(end - time.monotonic(), 1.0))
            if process.is_alive():
                process.kill()
                process.join()
    return found


def results(found):
    """Return what the ranks returned; raise what one of them raised."""
    wrong = []
    for rank, value in enumerate(found):
        if value is None:
            wrong.append(f"rank {rank} did not end")
        elif value[0] == "raised":
            wrong.append(f"rank {rank}: {value[1][2]}")
    if wrong:
        raise RankError("\n".join(wrong))
    return [content for _, content in found]


def _as_rank(rank, size, folder, port, init, pipes, function, arguments):
    for number, (reader, writer) in enumerate(pipes):
        reader.close()
        if number != rank:
            writer.close()
    pipe = pipes[rank][1]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo")
    try:
        if init:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder}/store",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=60),
            )
        value = "returned", function(rank, *arguments)
    except BaseException as error:
        value = "raised", (type(error).__name__, str(error), traceback.format_exc())
    finally:
        # By bytes: tensors in shared memory would be gone with the process.
        pipe.send_bytes(pickle.dumps(value))
        pipe.close()
        if dist.is_initialized():
            dist.destroy_process_group()
