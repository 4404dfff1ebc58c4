"""A Task small enough to train in a test, with all that makes state: weights, buffers, an EMA."""

import copy
import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lafp import storage
from lafp.config import ConfigError
from lafp.data.order.clips import ClipOrder
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.data.order.window_draws import WindowConfig
from lafp.data.windows import cut_windows
from lafp.models.ema import ema_update_
from lafp.ranks import world_size
from lafp.train.checkpoint_files import is_whole
from lafp.train.checkpoints import Checkpoints
from lafp.train.context import to_clip_batches
from lafp.train.notice import Notice
from lafp.types import LossOutput

WINDOW = WindowConfig(windows_per_clip=2)


class ToyModule(nn.Module):
    """Predicts the next frame; keeps a running mean of its input and an EMA of its encoder.

    The mean moves in every forward pass, so that what one rank meets reaches all of them at once.
    """

    def __init__(self, width: int, noise: float = 0.1, num_inputs: int = 3 * 16 * 16) -> None:
        super().__init__()
        self._noise = noise
        self.encoder = nn.Sequential(nn.Linear(num_inputs, width), nn.GELU())
        self.head = nn.Linear(width, num_inputs)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.running_mean: torch.Tensor
        self.register_buffer("running_mean", torch.zeros(num_inputs))

    def forward(self, window) -> LossOutput:
        obs, next_obs = window.obs.flatten(1), window.next_obs.flatten(1)
        self.count(obs.mean(0))
        noisy = obs + self._noise * torch.randn_like(obs)
        hidden = self.encoder(noisy - self.running_mean)
        with torch.no_grad():
            target = self.target_encoder(next_obs - self.running_mean)
        frame_loss = (self.head(hidden) - next_obs).float().square().mean()
        latent_loss = (hidden - target).float().square().mean()
        return LossOutput(
            loss=frame_loss + latent_loss,
            metrics={"frame_loss": frame_loss.detach(), "latent_loss": latent_loss.detach()},
        )

    def count(self, mean: torch.Tensor) -> None:
        """Moves the running mean towards that of all ranks."""
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.running_mean.lerp_(mean, 0.1)

    def networks(self) -> tuple[nn.Module, ...]:
        return ()

    def after_step(self) -> None:
        ema_update_(self.target_encoder, self.encoder, 0.9)

    def discard_step(self) -> None:
        pass


class ToyTask:
    """Trains a ``ToyModule`` on the clips of one shard set, or of two."""

    module_class = ToyModule

    def __init__(
        self,
        shards: str,
        clips_per_step: int = 4,
        labeled: str | None = None,
        width: int = 16,
        export_to: str | None = None,
        noise: float = 0.1,
    ) -> None:
        self.module = self.module_class(width, noise)
        self._export_to = export_to
        self._demands = {"videos": demand(shards, clips_per_step)}
        if labeled:
            self._demands["labeled"] = demand(labeled, 2)

    def prepare(self, device):
        pass

    def demands(self):
        return self._demands

    def inputs(self, clips):
        return cut_windows(clips["videos"], WINDOW, seed=0)

    def evaluate(self, module) -> dict[str, float]:
        assert not module.training
        return {"eval/weight_norm": float(module.head.weight.norm())}

    def save(self, module, uri: str, metrics) -> None:
        torch.save(module.state_dict(), (self._export_to or uri) + "/toy.pt")
        storage.write_text(uri + "/toy.json", json.dumps(metrics))


class RayletKillingTask(ToyTask):
    """Kills the raylet, which is the parent of its process, and its process as training begins."""

    def prepare(self, device):
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class KillingTask(ToyTask):
    """Kills its own process, once, where step ``at_step`` (from 0) begins.

    But not before the checkpoint of ``saved_step`` is stored, in the stage's ``folder``.
    """

    def __init__(
        self, shards: str, folder: str, rank: int, at_step: int, saved_step: int, **kwargs
    ) -> None:
        super().__init__(shards, **kwargs)
        self._saved = f"{folder}/checkpoints/step-{saved_step:09d}"
        self._marker, self._rank, self._at_step = Path(folder) / "killed", rank, at_step
        self._num_steps = 0

    def inputs(self, clips):
        is_its_turn = self._num_steps == self._at_step and not self._marker.exists()
        if is_its_turn and rank_of_this_process() == self._rank:
            self._marker.touch()
            while not is_whole(self._saved):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        self._num_steps += 1
        return super().inputs(clips)


class TerminatedTask(ToyTask):
    """The last rank sends SIGTERM at ``at_step`` (from 0), once.

    To the process ``pid``, and from then on a step takes a second, so that the workers still train
    when they hear of it; by default to its own, which dies ``STEPS_LEFT`` steps later, once a
    checkpoint is stored.
    """

    STEPS_LEFT = 6

    def __init__(
        self, shards: str, folder: str, at_step: int, pid: int | None = None, **kwargs
    ) -> None:
        super().__init__(shards, **kwargs)
        self._marker, self._pid, self._at_step = Path(folder) / "signalled", pid, at_step
        self._is_repeated = self._marker.exists()
        self._checkpoints = Path(folder) / "checkpoints"
        self._num_steps = 0

    def inputs(self, clips):
        if rank_of_this_process() == world_size() - 1 and not self._is_repeated:
            if self._num_steps == self._at_step:
                self._marker.touch()
                os.kill(self._pid or os.getpid(), signal.SIGTERM)
            if self._num_steps >= self._at_step and self._pid:
                time.sleep(1)
            if self._num_steps == self._at_step + self.STEPS_LEFT and not self._pid:
                while not any(map(is_whole, map(str, self._checkpoints.glob("*")))):
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
        self._num_steps += 1
        return super().inputs(clips)


class WaitingTask(ToyTask):
    """Says on which node each worker starts; in the first start waits where ``at_step`` begins.

    In ``folder``: ``nodes`` with a line per started worker, ``waiting-<node>`` for each that waits,
    and ``go``, which is what they wait for.
    """

    def __init__(self, shards: str, folder: str, at_step: int, **kwargs) -> None:
        import ray

        super().__init__(shards, **kwargs)
        self._folder, self._at_step, self._num_steps = Path(folder), at_step, 0
        self._node = ray.get_runtime_context().get_node_id()
        with (self._folder / "nodes").open("a") as file:
            file.write(self._node + "\n")

    def inputs(self, clips):
        go = self._folder / "go"
        if self._num_steps == self._at_step and not go.exists():
            (self._folder / f"waiting-{self._node}").touch()
            while not go.exists():
                time.sleep(0.05)
        self._num_steps += 1
        return super().inputs(clips)


class BrokenTask(ToyTask):
    """Gives a NaN or raises, always, at step ``at_step`` (from 0) of a run from its start.

    A user's mistake is found by the last rank alone, and the others wait for it.
    """

    def __init__(self, shards: str, at_step: int, how: str, **kwargs) -> None:
        super().__init__(shards, **kwargs)
        self._steps_left, self._how = at_step + 1, how

    def inputs(self, clips):
        window = super().inputs(clips)
        self._steps_left -= 1
        if self._how == "raise" and self._steps_left <= 0:
            raise RuntimeError("a broken task")
        if (
            self._how == "config"
            and self._steps_left <= 0
            and rank_of_this_process() == world_size() - 1
        ):
            raise ConfigError("a user's mistake")
        if self._how == "nan" and self._steps_left == 0:
            window.obs.fill_(float("nan"))
        return window


def rank_of_this_process() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def demand(shards: str, clips_per_step: int) -> ClipDemand:
    return ClipDemand(
        order=ClipOrder(shard_set=shards, split="train", seed=0), clips_per_step=clips_per_step
    )


class GroupContext:
    """A TrainContext for a plain torch.distributed group on one machine."""

    device = torch.device("cpu")

    def __init__(self, uri: str, num_to_keep: int = 100) -> None:
        self.uri = uri
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.checkpoints = Checkpoints(uri, num_to_keep, self.rank, self.world_size)

    @contextmanager
    def restored(self):
        with self.checkpoints.restored() as folder:
            yield folder

    def clips(self, demands, num_rounds, start_step):
        plan = MicroBatchLayout(
            demands=demands, rank=self.rank, world_size=self.world_size, num_rounds=num_rounds
        )
        return map(to_clip_batches, MicroBatchReader(plan, 1 << 24).read_from(start_step))

    def notice(self, step: int) -> Notice:
        self.checkpoints.check()
        return Notice.NONE


def assert_same_weights(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Two state dicts, up to the order in which ranks add up."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
