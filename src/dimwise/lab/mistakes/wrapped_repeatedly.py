"""The network is wrapped for several processes once per epoch, each time around the last wrapper.

The mistake: ``model = DistributedDataParallel(model)`` inside the epoch loop.
No exception: a wrapper is a module, and a module can be wrapped.
Harm: gradients are reduced once per layer of wrapping, names grow by ``module.`` each time, saved weights fit nothing;
the score does not suffer, time and memory do.
Cure: wrap once, before the loop.
"""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "wrapped-repeatedly"
ARCHS = ALL


def main_worker(rank, n_processes, meeting, args):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_processes)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    train_set = TensorDataset(x_train, y_train)
    sampler = DistributedSampler(train_set, shuffle=True, seed=args.seed)
    loader = DataLoader(train_set, batch_size=32, sampler=sampler)
    plain = build(args.arch)
    optimizer = torch.optim.Adam(plain.parameters(), lr=3e-3)
    if args.mended:
        model = DDP(plain)  # the cure
    else:
        model = plain
    for epoch in range(args.epochs):
        if not args.mended:
            model = DDP(model)  # the mistake
        sampler.set_epoch(epoch)
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    score = accuracy(plain, x_valid, y_valid)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print("first name:", next(iter(model.state_dict())))
        report(score)


if __name__ == "__main__":
    arguments_given = arguments(ARCHS, epochs=3)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(main_worker, (2, os.path.join(folder, "meeting"), arguments_given), nprocs=2)
