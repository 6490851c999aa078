"""Run by mpirun in `test_nccl.py`: a command of minissl, or the steps of `several_processes.py`, on stand-ins of GPUs.

mpirun -n 2 python several_gpus.py pretrain --device cuda …
mpirun -n 2 python several_gpus.py steps FILE
"""

import os
import sys

import several_processes
import stand_in_nccl
from minissl.cli import main
from minissl.training import loop
from minissl.workers import rank


def die_in_step(number):
    """Let process 1 end in a step."""
    step = loop.Trainer.train_step

    def dying(self, batches):
        if self.step + 1 == number and rank() == 1:
            raise MemoryError("no room")
        return step(self, batches)

    loop.Trainer.train_step = dying


if __name__ == "__main__":
    with stand_in_nccl.in_place_of_cupy(nccl="NO_NCCL" not in os.environ):
        if "DIES_IN_STEP" in os.environ:
            die_in_step(int(os.environ["DIES_IN_STEP"]))
        if sys.argv[1] == "steps":
            several_processes.write(sys.argv[2], 1, "cuda")
        else:
            sys.exit(main(sys.argv[1:]))
