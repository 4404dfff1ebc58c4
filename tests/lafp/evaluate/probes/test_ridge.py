"""The ridge of probes: the same numbers as a plain implementation, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lafp.evaluate.probes import normal_equations
from lafp.evaluate.probes.linear import ProbeData, episode_folds, ridge_of
from lafp.evaluate.probes.normal_equations import NUM_MATRICES
from lafp.evaluate.probes.ridge import PENALTIES, Ridge, max_matrix_dim

ROOT = Path(__file__).parents[4]


pytestmark = pytest.mark.usefixtures("one_thread")


def plain_fit(x, y, penalty, scale):
    """Returns the prediction of a ridge on centred and scaled features."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    scaled = (x - x_mean) / scale
    gram = scaled.T @ scaled
    system = gram + penalty * gram.trace() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(system, scaled.T @ (y - y_mean))
    return lambda rows: (rows - x_mean) / scale @ weight + y_mean


def plain_probe(x, y, folds, scale):
    """Chooses the penalty by fitting again and again."""
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for fold in folds.unique():
            out = folds == fold
            predicted = plain_fit(x[~out], y[~out], penalty, scale)(x[out])
            error += float((predicted - y[out]).square().sum())
        errors.append(error)
    return plain_fit(x, y, PENALTIES[errors.index(min(errors))], scale)


@pytest.fixture(params=["memory", "file"])
def where(request, monkeypatch):
    """Keeps the matrices of the folds in memory, or in a file; reads a few rows at a time."""
    monkeypatch.setattr(normal_equations, "BLOCK_BYTES", 2000)
    if request.param == "file":
        monkeypatch.setattr(normal_equations, "_IN_MEMORY_BYTES", 0)


@pytest.mark.parametrize("is_scaled", [False, True])
@pytest.mark.parametrize(("num", "dim"), [(90, 12), (40, 70)])
def test_blocks_and_folds_give_what_a_plain_implementation_gives(where, num, dim, is_scaled):
    torch.manual_seed(0)
    x = torch.randn(num, dim) * torch.rand(dim) + 5
    y = x[:, :2] + 0.3 * torch.randn(num, 2) - 7
    data = ProbeData(targets=y, episode=torch.arange(num) // 6)
    equations = ridge_of(x, data)
    scale = equations.std() if is_scaled else torch.ones(dim, dtype=torch.float64)
    torch.testing.assert_close(equations.std(), x.double().std(0))
    expected = plain_probe(x.double(), y.double(), episode_folds(data.episode), scale)
    fitted = equations.fit(scale if is_scaled else None)
    fresh = torch.randn(20, dim) + 5
    torch.testing.assert_close(fitted(fresh), expected(fresh.double()), atol=1e-6, rtol=1e-6)
    assert fitted.num_fit == num


def test_only_the_chosen_rows_count():
    torch.manual_seed(0)
    x, episode = torch.randn(60, 4), torch.arange(60) // 6
    y = x[:, :1].clone()
    y[30:] = 1e6  # these rows are not chosen
    data = ProbeData(targets=y, episode=episode)
    fitted = ridge_of(x, data, torch.arange(30)).fit()
    torch.testing.assert_close(fitted(x[:30]).float(), y[:30], atol=1e-4, rtol=1e-4)


def test_less_memory_takes_fewer_transitions_spread_over_all_and_says_so():
    torch.manual_seed(0)
    x = torch.randn(400, 300)
    y = x[:, :1] + torch.linspace(0, 1, 400)[:, None]
    budget = NUM_MATRICES * 8 * 100**2
    assert max_matrix_dim(budget) == 100
    ridge = Ridge(x, y, torch.arange(400), torch.arange(400) % 5, budget)
    fitted = ridge.solve(1e-3)
    assert fitted.num_fit == 100
    # Without the last transitions the mean of the targets would be lower.
    assert float((x.double().mean(0) @ fitted.weight + fitted.bias)[0]) == pytest.approx(
        float(y.mean()), abs=0.15
    )
    narrow = Ridge(x[:, :50], y, torch.arange(400), torch.arange(400) % 5, budget)
    assert narrow.solve(1e-3).num_fit == 400


CODE = """
import resource, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from lafp.evaluate.probes.lam_probe import Rows
from lafp.evaluate.probes.linear import ProbeData
from lafp.evaluate.probes.thorough_probe import Probed

mib, folder = int(sys.argv[1]), Path(sys.argv[2])
num, dim = 48_000, 1024  # 197 MB in float32, 393 MB in float64, and half as much held out
torch.linalg.cholesky(torch.eye(300).double()); torch.randn(64, 64) @ torch.randn(64, 64)
splits, weight = [], torch.randn(dim, 2)
for name, size in (("fit", num), ("held_out", num // 2)):
    rows, targets = Rows(folder / name), []
    for _ in range(size // 1000):
        x = torch.randn(1000, dim)
        rows.add(x)
        targets.append(x @ weight / dim**0.5 + torch.randn(1000, 2))
    data = ProbeData(targets=torch.cat(targets), episode=torch.arange(size) // 100,
                     is_unseen=torch.zeros(size, dtype=torch.bool))
    splits.append((rows.all(), data))
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + mib * 2**20,) * 2)
if sys.argv[3] == "doubled":
    splits[0][0].double()
rows, score = Probed(fit=splits[0], held_out=splits[1], max_memory_bytes=40 << 20).rows("lam")
print(score.r2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "is_enough"), [("mapped", True), ("doubled", False)])
def test_a_thorough_probe_keeps_within_its_memory(tmp_path, how, is_enough):
    """All probes of wide features fit into 250 MiB; one copy of them in float64 would not."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "250", str(tmp_path), how],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == is_enough, done.stderr
    if is_enough:
        assert float(done.stdout) == pytest.approx(0.5, abs=0.08)
