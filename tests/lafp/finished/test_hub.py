"""Push to a hub on loopback and load from it, in processes of their own with HF_ENDPOINT."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import lafp
from lafp.config import ConfigError
from lafp.finished.hub import checked_names, parse
from lafp.finished.saved_model import save_model
from lafp.objectives.lapo import Lapo
from lafp.storage.clients.hf import HubUri
from tests import hub_server
from tests.lafp.test_agent import play, video, write_decoder, write_policy
from tests.synthetic_lam import write_lam
from tests.test_install import CORE_ONLY, blocked
from tests.warm_process import warm_process

ROOT = Path(__file__).parents[3]
REPO = "user/arm"
LOADS = """
import sys, numpy, lafp
agent = lafp.Agent.load(sys.argv[1], action_decoder="mine")
frames = numpy.load(sys.argv[2])
agent.reset(frames.shape[1], 0)
numpy.save(sys.argv[3], numpy.stack([agent.act(frame) for frame in frames]))
"""


@pytest.fixture(scope="module")
def hub():
    with hub_server.serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose policy says that its LAM lies elsewhere on this machine."""
    folder = tmp_path_factory.mktemp("run")
    lam = write_lam(f"{tmp_path_factory.mktemp('elsewhere')}/lam")
    with_probe(lam)
    write_policy(folder, "latent_flow")
    write_decoder(folder, "mine", "latent_flow")
    train = {"num_steps": 1000, "global_batch_size": 64}
    config = {"lam": lam, "shards": "s3://bucket/videos", "train": train}
    (folder / "policy/latent_flow/config.yaml").write_text(yaml.safe_dump(config))
    (folder / "decoder/mine/checkpoints").mkdir()
    (folder / "decoder/mine/checkpoints/secret.pt").write_text("not pushed")
    return str(folder)


def with_probe(lam):
    """Writes the LAM anew with the metrics and the model card that training leaves."""
    model = lafp.load_lam(lam).objective
    metrics = {"probe/r2": 0.81, "probe/r2_low": 0.78, "probe/r2_high": 0.84}
    metrics |= {"probe/num_episodes": 40, "probe/n": 4000, "probe/r2_obs_embedding": 0.3}
    assert isinstance(model, Lapo)
    save_model(
        lam, kind="lam", config=model.cfg, specs={"obs": model.obs}, module=model, metrics=metrics
    )
    sections = ("# LAM", "## Training data", "| kitchen videos | 12 hours |", "## More", "x")
    Path(lam, "model_card.md").write_text("\n\n".join(sections))


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """A process that finds the packages of the core alone, and has imported torch."""
    code = CORE_ONLY.replace("{blocked}", repr(blocked())) + "import lafp.agent, lafp.lam\n"
    with warm_process(code, tmp_path_factory.mktemp("said"), cwd=ROOT) as process:
        yield process


def call(core, hub, cache, *args, code=None, token=hub_server.TOKEN, **env):
    """Runs `lafp ...`, or code, with this hub and a cache, in a process of its own."""
    found = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_TOKEN": token}
    code = code or "from ray_jobs.command import main\nmain()\n"
    return core.run(code, *map(str, args), env=found | env)


@pytest.fixture(scope="module")
def pushed(core, hub, run, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    done = call(core, hub, cache, "push", run, f"hf://{REPO}", "--private")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_push_holds_the_models_and_a_card_and_nothing_else(hub, run, pushed):
    files = hub.files(REPO)
    model = ("model.json", "model.safetensors")
    wanted = {f"{f}/{m}" for f in ("lam", "policy/latent_flow", "decoder/mine") for m in model}
    wanted |= {"README.md", "lam/model_card.md", "policy/latent_flow/config.yaml", ".gitattributes"}
    assert set(files) == wanted and hub.private[REPO]
    assert f"pushed: {hub.url}/{REPO}/commit/" in pushed
    weights = Path(run, "decoder/mine/model.safetensors").read_bytes()
    assert files["decoder/mine/model.safetensors"] == weights
    # The LAM lies in the repository, so the path on this machine is gone.
    assert yaml.safe_load(files["policy/latent_flow/config.yaml"])["lam"] is None


def test_the_card_says_data_probe_and_use(hub, pushed):
    card = hub.files(REPO)["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "lafp" and front["pipeline_tag"] == "robotics"
    for words in (
        'agent = lafp.Agent.load("hf://user/arm", action_decoder="mine")',
        'lam = lafp.load_lam("hf://user/arm/lam")',
        "| kitchen videos | 12 hours |",
        "| latent action z | 0.810 | [0.780, 0.840] |",
        "| `policy/latent_flow` | 1,000 of 64 | `s3://bucket/videos` |",
        "2 RGB frames of 12x16 px at 10 per second",
    ):
        assert words in card


def load(core, hub, tmp_path, uri, **env):
    frames, actions = tmp_path / "frames.npy", tmp_path / "actions.npy"
    np.save(frames, video(4, num_episodes=2))
    done = call(core, hub, tmp_path / "cache", uri, frames, actions, code=LOADS, **env)
    return done, actions


def test_an_agent_from_the_hub_acts_as_the_pushed_one_also_offline(
    core, hub, run, pushed, tmp_path
):
    expected = play(lafp.Agent.load(run, action_decoder="mine"), video(4, num_episodes=2))
    hub.fetched.clear()
    done, actions = load(core, hub, tmp_path, f"hf://{REPO}")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(actions), expected)
    assert {Path(name).suffix for name in hub.fetched} == {".json", ".safetensors", ".yaml"}
    actions.unlink()
    hub.requests.clear()
    done, actions = load(core, hub, tmp_path, f"hf://{REPO}", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(actions), expected)
    assert hub.requests == []


def test_a_lam_comes_alone(core, hub, pushed, tmp_path):
    hub.fetched.clear()
    code = "import sys, lafp\nprint(lafp.load_lam(sys.argv[1]).latent_action_dim)\n"
    done = call(core, hub, tmp_path, f"hf://{REPO}/lam", code=code)
    assert done.stdout == "4\n", done.stderr
    assert sorted(hub.fetched) == ["lam/model.json", "lam/model.safetensors"]
    whole = call(core, hub, tmp_path, f"hf://{REPO}", code=code)
    assert f"hf://{REPO} is the folder of a run. Its LAM is hf://{REPO}/lam." in whole.stderr


def test_a_revision_is_what_was_pushed_there(core, hub, run, pushed, tmp_path):
    write_policy(tmp_path / "new", "latent_flow", seed=7)
    write_decoder(tmp_path / "new", "mine", "latent_flow")
    done = call(core, hub, tmp_path, "push", tmp_path / "new", f"hf://{REPO}@second")
    assert done.returncode == 0, done.stderr
    # The branch began as main, whose LAM the new run does not have.
    assert not any(name.startswith("lam/model.") for name in hub.files(REPO, "second"))
    frames = video(4, num_episodes=2)
    for revision, folder in (("@second", tmp_path / "new"), ("", run)):
        done, actions = load(core, hub, tmp_path, f"hf://{REPO}{revision}")
        assert done.returncode == 0, done.stderr
        expected = play(lafp.Agent.load(folder, action_decoder="mine"), frames)
        np.testing.assert_array_equal(np.load(actions), expected)


def test_weights_that_were_changed_on_the_hub_are_refused(core, hub, pushed, tmp_path):
    files = dict(hub.files(REPO))
    name = "policy/latent_flow/model.safetensors"
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    hub.commit(REPO, "changed", files)
    done, _ = load(core, hub, tmp_path, f"hf://{REPO}@changed")
    assert "model.safetensors is not the file that model.json describes" in done.stderr


def test_sizes_are_checked_before_anything_is_fetched(core, hub, pushed, tmp_path):
    hub.fetched.clear()
    hub.sizes["lam/model.safetensors"] = 1 << 40
    done, _ = load(core, hub, tmp_path, f"hf://{REPO}")
    hub.sizes.clear()
    assert "lam/model.safetensors has 1099511627776 bytes" in done.stderr and not hub.fetched


def test_a_dry_run_asks_the_hub_nothing(core, hub, run, tmp_path):
    hub.requests.clear()
    done = call(core, hub, tmp_path, "push", run, "hf://user/other", "--dry-run")
    assert done.returncode == 0 and "# user/other" in done.stdout and hub.requests == []


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        ((".", "hf://user/arm"), {}, "has no finished model"),
        (("RUN", "user/arm"), {}, "is no model repository"),
        (("RUN", "hf://user/arm/lam"), {}, "is pushed to a whole repository"),
        (("RUN", "hf://user/arm"), {"HF_TOKEN": "hf_wrong"}, "401 Unauthorized"),
        (("RUN", "hf://user/arm"), {"HF_HUB_OFFLINE": "1"}, "offline"),
        (("RUN", "hf://user/arm"), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused"),
    ],
)  # fmt: skip
def test_a_push_that_fails_is_one_line(core, hub, run, tmp_path, args, env, words):
    folder = run if args[0] == "RUN" else tmp_path
    done = call(core, hub, tmp_path, "push", folder, args[1], **env)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("uri", ["hf://user/none", f"hf://{REPO}@none", f"hf://{REPO}/none"])
def test_what_is_not_on_the_hub_is_named(core, hub, pushed, tmp_path, uri):
    done, _ = load(core, hub, tmp_path, uri)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"lafp.config.errors.ConfigError: {uri}"), done.stderr


def test_uris_are_split():
    assert parse("hf://a/b") == HubUri("model", "a/b", None, "")
    found = parse("hf://a/b.c@refs%2Fpr%2F1/lam/")
    assert found == HubUri("model", "a/b.c", "refs/pr/1", "lam")
    for wrong in (
        "hf://a",
        "hf:///b",
        "hf://a/..",
        "hf://datasets/a/b",
        "hf://a/b@",
        "hf://a/b@c@d",
    ):
        with pytest.raises(ConfigError, match="is no model repository"):
            parse(wrong)


@pytest.mark.parametrize(
    "name", ["../model.json", "/etc/model.json", "a/.git/model.json", "a\\b/model.json",
             "a/b/c/d/model.json", "é/model.json"]
)  # fmt: skip
def test_names_that_lead_out_of_the_folder_are_refused(name):
    with pytest.raises(ConfigError, match="holds the file"):
        checked_names("hf://a/b", {"lam/model.json": 1, name: 1})


def test_a_run_in_a_folder_of_a_repository_may_be_as_deep_as_one_that_is_the_repository():
    below = {name: 9 for name in ("lam/model.json", "decoder/lafp/policy/model.json")}
    assert checked_names("hf://a/b", below) == list(below)
    sizes = {f"runs/mine/{name}": size for name, size in below.items()}
    assert checked_names("hf://a/b/runs/mine", sizes, "runs/mine") == list(sizes)
    with pytest.raises(ConfigError, match="up to 4 levels deep in its folder"):
        checked_names("hf://a/b/runs/mine", {"runs/mine/a/b/c/d/model.json": 9}, "runs/mine")


def test_what_is_no_model_is_left_there():
    sizes = {"lam/model.json": 9, "pytorch_model.bin": 9, "code.py": 9, "policy/x/model.json": 9}
    assert checked_names("hf://a/b", sizes, "lam") == ["lam/model.json"]
    with pytest.raises(ConfigError, match="holds no model of lafp"):
        checked_names("hf://a/b", {"pytorch_model.bin": 9})


def test_without_its_extra_the_hub_says_what_to_install(tmp_path):
    text = CORE_ONLY.replace("{blocked}", repr(blocked() | {"huggingface_hub"}))
    text += "import lafp\nlafp.Agent.load('hf://user/arm')\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert "pip install 'lafp[hub]'" in done.stderr
