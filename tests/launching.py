"""Commands in several ranks, as torchrun starts and ends them, without its seconds of imports."""

import os
import signal
import traceback

from torch.distributed import TCPStore

from nvdyn_ase.cli import main
from nvdyn_ase.dynamics.run import Run


def launched(line, ranks, prepare=lambda rank: None, restarts=0):
    """Run a command in several ranks, and end all of them when one fails.

    Parameters
    ----------
    line
        The command.
    ranks
        How many.
    prepare
        Called in each with its rank first: it may let things go wrong there.
    restarts
        How often it was started before.

    Returns
    -------
    list of int
        The exit status of each; of one that a signal has ended, its number with a minus.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(ranks),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
    }
    children = {}
    for rank in range(ranks):
        child = os.fork()
        if not child:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            _work(line, {**job, **own}, lambda rank=rank: prepare(rank))
        children[child] = rank
    status = [0] * ranks
    while children:
        child, ended = os.wait()
        rank = children.pop(child)
        status[rank] = os.waitstatus_to_exitcode(ended)
        if status[rank]:
            for other in children:
                os.kill(other, signal.SIGTERM)
    return status


def _work(line, environment, prepare):
    status = 99
    try:
        os.environ.update(environment)
        prepare()
        status = main(line.split())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # nothing of the parent is to be cleaned up here


def dying(ranks_and_steps, how=lambda: os.kill(os.getpid(), signal.SIGKILL)):
    """Return what lets ranks die after so many steps of theirs."""

    def prepare(rank):
        advance, left = Run.advance, [ranks_and_steps.get(rank, -1)]

        def counted(self):
            left[0] -= 1
            if left[0] == -1:
                how()
            advance(self)

        if rank in ranks_and_steps:
            Run.advance = counted

    return prepare
