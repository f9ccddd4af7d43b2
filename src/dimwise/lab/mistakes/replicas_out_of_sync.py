"""Two processes average their gradients but began with different weights.

The mistake: each process seeds itself with its rank before it builds the network, gradients are averaged by hand, and
nobody sends the weights of one to the other.
No exception: shapes agree, so that averaging works.
Harm: each replica follows a gradient that belongs half to another network; they never become one.
Cure: broadcast the weights of rank 0 once before training (DistributedDataParallel does).
"""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "replicas-out-of-sync"
ARCHS = ALL


def average_gradients(model, world_size):
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= world_size


def worker(rank, world_size, meeting, args):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    torch.manual_seed(args.seed + rank)
    model = build(args.arch)
    if args.mended:
        for p in model.parameters():
            dist.broadcast(p.data, src=0)  # the cure
    else:
        pass  # the mistake: two seeds, two networks
    mine = torch.arange(rank, len(x_train) - len(x_train) % world_size, world_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(args.epochs):
        model.train()
        for rows in mine[torch.randperm(len(mine))].split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x_train[rows]), y_train[rows])
            loss.backward()
            average_gradients(model, world_size)
            optimizer.step()
    score = accuracy(model, x_valid, y_valid)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        report(score)


if __name__ == "__main__":
    given = arguments(ARCHS, epochs=3)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(2, os.path.join(folder, "meeting"), given), nprocs=2)
