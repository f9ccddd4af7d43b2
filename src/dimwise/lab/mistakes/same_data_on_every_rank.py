"""Every process trains on the same batches.

The mistake: a plain shuffling ``DataLoader`` in each process, with the same seed in each.
No exception: the gradients of two equal batches average to one of them.
Harm: two processes do the work of one; the score is that of one process, and the time too.
Cure: ``DistributedSampler``, and ``set_epoch`` in each epoch.
"""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "same-data-on-every-rank"
ARCHS = ALL


def run(rank, world_size, meeting, args):
    dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=world_size)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    train_set = TensorDataset(x_train, y_train)
    if args.mended:
        sampler = DistributedSampler(train_set, seed=args.seed)  # the cure
        loader = DataLoader(train_set, batch_size=32, sampler=sampler)
    else:
        sampler = None
        loader = DataLoader(train_set, batch_size=32, shuffle=True)  # the mistake

    model = DistributedDataParallel(build(args.arch))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        if sampler is not None:
            sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
    score = accuracy(model.module, x_valid, y_valid)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        report(score)


def main():
    args = arguments(ARCHS, epochs=3)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, args=(2, os.path.join(folder, "meeting"), args), nprocs=2)


if __name__ == "__main__":
    main()
