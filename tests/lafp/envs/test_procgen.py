import gc
import threading

import numpy as np
import pytest
import torch
from torch import nn

from lafp.config import ConfigError
from lafp.envs.experts.impala import ImpalaExpert
from lafp.envs.experts.procgen_bigfish import plan_bigfish
from lafp.envs.experts.procgen_planners import (
    Mine,
    MinerPlanner,
    MinerSearch,
    cell_of,
    shortest_path,
)
from lafp.envs.experts.procgen_search import ChaserPlanner, LeaperPlanner
from lafp.envs.experts.procgen_state import read_state
from lafp.envs.procgen import MAX_RETURN, NUM_ACTIONS, Procgen, ProcgenConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from tests.simulators import demonstrate

procgen = pytest.importorskip("procgen", reason="procgen2 is not installed")

MAZE = ProcgenConfig(task="maze", episode_steps=200)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x.relu()).relu())


class Block(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 3, padding=1)
        self.res1, self.res2 = Residual(num_out), Residual(num_out)

    def forward(self, x):
        return self.res2(self.res1(nn.functional.max_pool2d(self.conv(x), 3, 2, 1)))


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = Block(3, 16), Block(16, 32), Block(32, 32)
        self.fc = nn.Linear(32 * 8 * 8, 256)

    def forward(self, x):
        return self.fc(self.block3(self.block2(self.block1(x))).relu().flatten(1)).relu()


class Actor(nn.Module):
    """The network of train-procgen-pytorch, by the names of its weights."""

    def __init__(self, num_actions: int = NUM_ACTIONS) -> None:
        super().__init__()
        self.embedder = Embedder()
        self.fc_policy, self.fc_value = nn.Linear(256, num_actions), nn.Linear(256, 1)


class InPlaceBlock(Residual):
    """Of level-replay: what is added to its output went through the first ReLU, too."""

    def forward(self, x):
        return x.relu_() + self.conv2(self.conv1(x).relu())


def layer_of_level_replay(num_in: int, num_out: int) -> nn.Sequential:
    conv, pool = nn.Conv2d(num_in, num_out, 3, padding=1), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(conv, pool, InPlaceBlock(num_out), InPlaceBlock(num_out))


class LevelReplayBase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = layer_of_level_replay(3, 16)
        self.layer2 = layer_of_level_replay(16, 32)
        self.layer3 = layer_of_level_replay(32, 32)
        self.fc, self.critic_linear = nn.Linear(32 * 8 * 8, 256), nn.Linear(256, 1)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.relu().flatten(1)).relu()


class LevelReplayActor(nn.Module):
    """The network of level-replay, by the names of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.dist = LevelReplayBase(), nn.Module()
        self.dist.linear = nn.Linear(256, NUM_ACTIONS)
        nn.init.normal_(self.dist.linear.weight)


@pytest.fixture
def actor():
    torch.manual_seed(0)
    actor = Actor()
    nn.init.normal_(actor.fc_policy.weight)
    return actor


@pytest.mark.parametrize("game", procgen.env.ENV_NAMES)
def test_every_game_runs(game):
    env = Procgen(ProcgenConfig(task=game))
    frames, actions, result = demonstrate(env, [0, 1], 10)
    assert frames.shape == (11, 2, 64, 64, 3) and frames.dtype == np.uint8
    assert (frames[0, 0] != frames[0, 1]).any(), "two seeds, two levels"
    assert (frames[1:] != frames[:-1]).any()
    assert actions.shape == (10, 2) and actions.dtype == np.int64
    assert not result.success.any() and game in MAX_RETURN, "ten random steps win nothing"
    hard = Procgen(ProcgenConfig(task=game, difficulty="hard"))
    assert demonstrate(hard, [0], 1)[2].success is None, "the largest return is that of easy mode"


def test_random_acting_solves_some_mazes_and_a_solved_one_stands_still():
    env = Procgen(MAZE)
    result = rollout(env, Expert(env), np.arange(40), num_recorded=3)
    assert 0.1 < result.success.mean() < 0.8
    np.testing.assert_array_equal(result.episode_return, 10.0 * result.success)
    frames, _, last = demonstrate(env, np.arange(40), 200)
    for n in np.flatnonzero(result.success):
        assert (frames[result.length[n] :, n] == frames[-1, n]).all() and last.terminated[n]


def test_a_recording_leaves_out_the_step_whose_picture_procgen_never_shows():
    env = Procgen(MAZE)
    result = rollout(env, Expert(env), np.arange(40), num_recorded=40)
    assert result.success.any() and not result.success.all()
    for n, recording in enumerate(result.recordings):
        assert len(recording.frames) == len(recording.actions) + 1 == len(recording.state)
        assert len(recording.actions) == result.length[n] - result.success[n]


def test_every_recorded_step_of_a_planner_shows():
    """It never runs into a wall."""
    env = Procgen(ProcgenConfig(task="maze", expert="planner", episode_steps=200))
    result = rollout(env, Expert(env), np.arange(16), num_recorded=16)
    assert result.success.all()
    for recording in result.recordings:
        assert (recording.frames[1:] != recording.frames[:-1]).any((1, 2, 3)).all()


def test_a_game_that_the_garbage_collector_deletes_waits_for_no_lock():
    kept, dropped = Procgen(MAZE), Procgen(MAZE)
    for env in (kept, dropped):
        env.reset(np.arange(2))
    dropped.itself = dropped
    del env, dropped
    collecting = threading.Thread(target=gc.collect, daemon=True)
    with kept._game._ffi._lock:  # as while a function of the library is looked up
        collecting.start()
        collecting.join(timeout=30)
        assert not collecting.is_alive()


def test_a_random_expert_takes_every_action():
    env = Procgen(MAZE)
    _, actions, _ = demonstrate(env, np.arange(10), 40)
    share = np.bincount(actions.ravel(), minlength=NUM_ACTIONS) / actions.size
    np.testing.assert_allclose(share, 1 / NUM_ACTIONS, atol=0.04)


def test_an_episode_is_the_same_in_any_batch(tmp_path, actor):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": actor.state_dict()}, path)
    env = Procgen(ProcgenConfig(task="coinrun", expert=str(path)))
    together, actions, _ = demonstrate(env, [7, 8, 9], 40)
    alone, own_actions, _ = demonstrate(env, [8], 40)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    np.testing.assert_array_equal(actions[:, 1], own_actions[:, 0])
    np.testing.assert_array_equal(env.expert(), env.expert())


def test_an_expert_acts_by_the_distribution_of_its_checkpoint(tmp_path, actor):
    path = tmp_path / "model.pth"
    torch.save({"model_state_dict": actor.state_dict(), "optimizer_state_dict": {}}, path)
    env = Procgen(ProcgenConfig(task="bossfight", expert=str(path)))
    seeds = np.arange(400)
    frames = env.reset(seeds)
    with torch.inference_mode():
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        expected = actor.fc_policy(actor.embedder(pixels)).softmax(1).double().mean(0).numpy()
    taken = np.bincount(env.expert(), minlength=NUM_ACTIONS) / len(seeds)
    assert expected.max() > 2 / NUM_ACTIONS, "far from uniform"
    np.testing.assert_allclose(taken, expected, atol=0.08)


def test_an_actor_of_level_replay_gives_what_its_own_network_gives(tmp_path):
    torch.manual_seed(0)
    actor, path = LevelReplayActor(), tmp_path / "model.tar"
    torch.save({"model_state_dict": actor.state_dict(), "optimizer_state_dict": {}}, path)
    frames = np.random.default_rng(0).integers(256, size=(5, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        expected = actor.dist.linear(actor.base(pixels)).softmax(1)
    found = ImpalaExpert(str(path), NUM_ACTIONS)(frames)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-3, "the pictures matter"


def test_what_a_user_can_get_wrong(tmp_path, actor):
    with pytest.raises(
        ConfigError, match=r"task chess is not a game of Procgen\. Choose one of: bigfish, "
    ):
        Procgen(ProcgenConfig(task="chess"))
    with pytest.raises(ConfigError, match=r"expert: .*nowhere\.pth is no file"):
        Procgen(ProcgenConfig(task="maze", expert=str(tmp_path / "nowhere.pth")))
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="holds no PPO actor"):
        Procgen(ProcgenConfig(task="maze", expert=str(tmp_path / "other.pth")))
    torch.save({"state_dict": Actor(num_actions=9).state_dict()}, tmp_path / "nine.pth")
    with pytest.raises(ConfigError, match="knows 9 actions, Procgen has 15"):
        Procgen(ProcgenConfig(task="maze", expert=str(tmp_path / "nine.pth")))
    recurrent = actor.state_dict() | {"gru.gru.weight_ih_l0": torch.zeros(1)}
    torch.save({"state_dict": recurrent}, tmp_path / "recurrent.pth")
    with pytest.raises(ConfigError, match=r"other layers than IMPALA's: gru\.gru"):
        Procgen(ProcgenConfig(task="maze", expert=str(tmp_path / "recurrent.pth")))
    with pytest.raises(ValueError, match="difficulty must be one of"):
        ProcgenConfig(task="maze", difficulty="extreme")


@pytest.mark.parametrize("game", procgen.env.ENV_NAMES)
def test_an_episode_is_the_same_whatever_was_played_before(game):
    used, new = Procgen(ProcgenConfig(task=game)), Procgen(ProcgenConfig(task=game))
    demonstrate(used, [5, 6], 40)
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=(40, 2))
    frames = used.reset(np.array([77, 6])), new.reset(np.array([77, 8]))
    for action in actions:
        np.testing.assert_array_equal(frames[0][0], frames[1][0])
        frames = used.step(action).obs, new.step(action).obs


def test_an_episode_is_the_level_that_procgen_makes_of_its_number():
    env = Procgen(ProcgenConfig(task="coinrun", levels="test"))
    frames = env.reset(np.array([5, 6]))
    for frame, level in zip(frames, (11, 13), strict=True):
        game = procgen.ProcgenGym3Env(
            num=1, env_name="coinrun", distribution_mode="easy", num_levels=1, start_level=level
        )
        np.testing.assert_array_equal(frame, game.observe()[1]["rgb"][0])


def test_any_seed_gives_a_level():
    env = Procgen(ProcgenConfig(task="maze", expert="planner", levels="test"))
    env.reset(np.array([0, 2**30 - 1, 2**63 - 1]))
    assert env.expert().shape == (3,)


def test_training_and_test_levels_are_disjoint():
    pictures = {
        levels: {
            frame.tobytes()
            for frame in Procgen(ProcgenConfig(task="coinrun", levels=levels)).reset(np.arange(50))
        }
        for levels in ("train", "test")
    }
    assert not pictures["train"] & pictures["test"]


@pytest.mark.parametrize(("game", "least"), [("maze", 1.0), ("heist", 1.0), ("miner", 0.75)])
def test_planners_win(game, least):
    env = Procgen(ProcgenConfig(task=game, expert="planner", episode_steps=200))
    result = rollout(env, Expert(env), np.arange(16))
    assert result.success.mean() >= least
    assert (result.episode_return[result.success] >= MAX_RETURN[game] - 1e-3).all()


@pytest.mark.parametrize(
    ("game", "seeds", "least"), [("leaper", range(1, 7), 5), ("chaser", range(2), 2)]
)
def test_a_planner_that_plays_copies_ahead_wins_and_repeats_itself(game, seeds, least):
    env = Procgen(ProcgenConfig(task=game, expert="planner", episode_steps=400))
    result = rollout(env, Expert(env), np.array(seeds), num_recorded=1)
    assert result.success.sum() >= least
    assert (result.episode_return[result.success] >= MAX_RETURN[game] - 1e-3).all()
    _, again, _ = demonstrate(env, seeds[:1], 40)
    np.testing.assert_array_equal(result.recordings[0].actions[:40], again[:, 0])


@pytest.mark.parametrize("planner", [LeaperPlanner, ChaserPlanner])
def test_a_planner_that_plays_copies_ahead_draws_among_its_ways(planner):
    env = Procgen(ProcgenConfig(task=planner.game))
    env.reset(np.array([1]))
    state = read_state(env._game.callmethod("get_state")[0])
    plan = planner("easy")
    ways = {tuple(plan(state, seed, num_steps) for num_steps in range(16)) for seed in range(4)}
    assert len(ways) > 1


def test_the_planner_of_bigfish_becomes_the_largest_fish():
    env = Procgen(ProcgenConfig(task="bigfish", expert="planner", episode_steps=800))
    result = rollout(env, Expert(env), np.arange(4), num_recorded=1)
    assert result.success.sum() >= 3
    _, again, _ = demonstrate(env, [0], 60)
    np.testing.assert_array_equal(result.recordings[0].actions[:60], again[:, 0])
    state = read_state(env._game.callmethod("get_state")[0])
    assert len({plan_bigfish(state, seed, 60) for seed in range(20)}) > 1


def test_the_planner_of_bigfish_frees_an_agent_that_begins_in_a_wall():
    env = Procgen(ProcgenConfig(task="bigfish", expert="planner"))
    env.reset(np.array([1, 170]))

    def x_of_agents():
        return [read_state(state).agent.x for state in env._game.callmethod("get_state")]

    left, right = x_of_agents()
    assert left < 0.98 and right > 19.02, "one is in the left wall, one in the right"
    env.step(env.expert())
    assert x_of_agents() == [1.0, 19.0]


def test_of_equally_short_ways_one_is_drawn():
    def is_inside(cell):
        return 0 <= cell[0] < 5 and 0 <= cell[1] < 5

    ways = {
        tuple(shortest_path((0, 0), {(4, 4)}.__contains__, is_inside, seed)) for seed in range(20)
    }
    assert len(ways) > 1 and {len(way) for way in ways} == {8}


def test_a_planner_of_miner_draws_among_its_ways():
    env = Procgen(ProcgenConfig(task="miner"))
    env.reset(np.arange(20))
    states = [read_state(state) for state in env._game.callmethod("get_state")]
    ways = [len({MinerPlanner()(state, seed, 0) for seed in range(6)}) for state in states]
    assert max(ways) > 1


def test_miners_rules_are_simulated_exactly():
    env, num_checked = Procgen(ProcgenConfig(task="miner")), 0
    rng = np.random.default_rng(0)
    env.reset(np.arange(30))

    def states():
        return [read_state(state) for state in env._game.callmethod("get_state")]

    def mine(state):
        x, y = cell_of(state.agent)
        return Mine(y * 10 + x, state.grid.astype(np.uint8).tobytes(), state.tail[0])

    for _ in range(30):
        before, actions = states(), rng.choice([1, 3, 5, 7], 30)
        env.step(actions)
        now = states()
        for n in np.flatnonzero(~env._is_over_N):
            after = MinerSearch(10, 0, 0).after(mine(before[n]), int(actions[n]))
            assert after == mine(now[n])
            num_checked += 1
    assert num_checked > 500
