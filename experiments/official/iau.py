"""iau against the authors' script: new weights of a small classifier after its one step of Adam."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.methods.edits.iau import single_step
from official.bed import Difference, Found, difference
from official.taken import statements

REPOSITORY = "Lolo1222/IAU"
COMMIT = "a45c8af5e7258eaa452a7c7a387c638fa88621a9"
FILE = "IAU_unlearn.py"
FIRST = """for idx, (t_data, t_target) in enumerate(remain_loader):
    t_data, t_target = (t_data.to(device), t_target.to(device))
    pred = model(t_data)
    loss1 = criterion(pred, t_target)
    loss1.backward()"""


def compare(code: Path, seed: int) -> Iterator[Difference]:
    for lr in (1e-3, 1e-1):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
        forget, retain = ([(torch.randn(n, 6).double(), torch.randint(0, 3, (n,)))] for n in (4, 9))
        criterion, before = torch.nn.CrossEntropyLoss(), [p.detach().clone() for p in model.parameters()]
        sides = [torch.autograd.grad(criterion(model(x), y), list(model.parameters()))
                 for ((x, y),) in (forget, retain)]
        ours = [single_step(w, f, r, lr, "adam") for w, f, r in zip(before, *sides, strict=True)]
        exec(statements(code / FILE, FIRST, 3), {
            "remain_loader": retain, "unlearn_loader": forget, "model": model, "criterion": criterion, "device": "cpu",
            "optimizer": torch.optim.Adam(model.parameters(), lr=lr)})
        change = [[new - old for new, old in zip(end, before, strict=True)] for end in (ours, model.parameters())]
        yield difference(f"change of the weights, lr {lr}", *(Found(None, part) for part in change))
