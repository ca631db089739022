"""What replicas of a slow stage are worth: systems a second through a pipeline over ranks.

The second stage costs ten times as much as the first. Its model sleeps, as if each rank had a
device of its own, so that it does not matter how many cores there are. See README.md in this
folder.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch
from torch.distributed import barrier

from nvdyn_ase.data import AtomicData
from nvdyn_ase.dynamics import NVE, BufferConfig, DistributedPipeline, SizeAwareSampler
from nvdyn_ase.models import Harmonic

# How much faster three replicas of the slow stage have to be than one.
LIMIT = 2.4
STEPS = 5


class Slow(Harmonic):
    """A model whose forward pass takes a time."""

    seconds = 0.0

    def forward(self, batch):
        """Evaluate a batch, and sleep."""
        time.sleep(self.seconds)
        return super().forward(batch)


def main() -> int:
    """Run what the command line asks for; return 0 if the replicas are worth what they should."""
    options = parse()
    if options.replicas is not None:
        run(options)
        return 0
    rounds = [{n: launched(n, options) for n in (1, 3)} for _ in range(options.repeats)]
    for n in (1, 3):
        rate = options.systems / statistics.median(each[n] for each in rounds)
        print(f"{n} x the slow stage: {rate:6.1f} systems/s")
    ratio = statistics.median(each[1] / each[3] for each in rounds)
    print(f"three replicas are {ratio:.2f} times as fast as one")
    return 0 if ratio >= LIMIT else 1


def launched(replicas: int, options: argparse.Namespace) -> float:
    """Return the seconds that a pipeline with so many replicas takes, without its start."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={1 + replicas}"]
    command += [__file__, f"--replicas={replicas}", f"--systems={options.systems}"]
    command += [f"--seconds={options.seconds}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return max(float(word) for word in done.stdout.split())


def run(options: argparse.Namespace) -> None:
    """Be one of the ranks, and print how long the pipeline has taken."""
    torch.set_num_threads(1)
    room = BufferConfig(num_systems=2, num_nodes=2, num_edges=0)
    systems = [
        AtomicData(positions=[[0.1 * i, 0.0, 0.0]], atomic_numbers=[18])
        for i in range(options.systems)
    ]
    models = [Slow(), Slow()]
    models[0].seconds, models[1].seconds = options.seconds / 10, options.seconds
    sampler = SizeAwareSampler(systems, max_batch_size=2)
    first = NVE(models[0], dt=0.1, n_steps=STEPS, sampler=sampler, buffer_config=room)
    second = NVE(models[1], dt=0.1, n_steps=STEPS, buffer_config=room, max_batch_size=2)
    with DistributedPipeline({0: first, 1: second}, replicas={1: options.replicas}) as pipe:
        barrier()
        begun = time.perf_counter()
        pipe.run()
        print(time.perf_counter() - begun, flush=True)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.1, help="a forward pass of the slow one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--replicas", type=int, help="be one of the ranks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
