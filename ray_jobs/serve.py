r"""Serves a finished agent to robots over HTTP.

lafp serve runs/mine --action-decoder latent_flow
lafp serve hf://user/name --device cuda

Robots use the one-file client lafp/serve/client.py, which needs numpy and msgpack only. They send a
token with every request: the one in the variable LAFP_SERVE_TOKEN, or else one that is made and
printed at the start. SIGTERM and Ctrl-C end the server after the requests that have begun, and it
prints how long actions took.
"""

import argparse
import asyncio
import ipaddress
import os
import secrets
import signal
from typing import TYPE_CHECKING

from lafp.config import ConfigError
from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.early_checks import check_run_folder

if TYPE_CHECKING:
    from lafp.agent import Agent
    from lafp.serve.server import Latencies, PolicyServer

_VARIABLE = "LAFP_SERVE_TOKEN"
_MIN_LENGTH = 16


def parse() -> argparse.Namespace:
    """Parses the arguments. Ends the process for ``--help`` or wrong arguments."""
    parser = described_parser("lafp serve", __doc__)
    parser.add_argument(
        "run", metavar="RUN", help="folder or URI (s3://, gs://, az://, hf://) of the run"
    )
    parser.add_argument("--policy", help="default: the policy that the decoder was trained on")
    parser.add_argument("--action-decoder", help="needed when the run has several")
    parser.add_argument(
        "--lam", help="for --action-decoder idm, if the LAM lies outside of the run"
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets other machines connect (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8470, help="0 chooses a free one (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """Parses the command line and serves until a signal comes."""
    args = parse()
    with exit_codes():
        check_run_folder(args.run)
        given = given_token()
        # Imported only now, so that a wrong command line is answered before torch is loaded.
        from lafp.agent import Agent
        from lafp.serve.server import PolicyServer

        agent = Agent.load(
            args.run,
            policy=args.policy,
            action_decoder=args.action_decoder,
            lam=args.lam,
            device=args.device,
            dtype=args.dtype,
            compile=args.compile,
        )
        warm_up(agent)
        token = given or secrets.token_urlsafe(32)
        server = PolicyServer(agent, token)
        lines = [
            *about(agent, args.run, args.host),
            f"token: {f'that of {_VARIABLE}' if given else token}",
        ]
        print_latencies(asyncio.run(serve(server, args.host, args.port, lines)))


def given_token() -> str | None:
    """Returns the token of the environment variable; None if there is none.

    Raises:
        ConfigError: It is too easy to guess, or cannot be sent in a header.
    """
    token = os.environ.get(_VARIABLE)
    if token is None:
        return None
    is_sendable = token.isascii() and token.isprintable() and " " not in token
    if len(token) < _MIN_LENGTH or not is_sendable:
        raise ConfigError(
            f"{_VARIABLE} must have at least {_MIN_LENGTH} ASCII characters and no spaces, e.g. "
            "from `openssl rand -hex 32`. Unset it to have one made."
        )
    return token


def warm_up(agent: "Agent") -> None:
    """Acts a few times, because the first actions are slow and no robot should wait for them.

    With ``--compile`` these actions compile every graph: sessions of one episode have their own,
    and all larger ones share those of two, in which the number of episodes is a variable.
    """
    import numpy as np

    obs = agent.obs
    for num_episodes in (1, 2):
        image = np.zeros((num_episodes, obs.height_px, obs.width_px, 3), np.uint8)
        example: dict[str, np.ndarray] = {"image": image}
        for name, dim in obs.vector_dims.items():
            example[name] = np.zeros((num_episodes, dim), np.float32)
        agent.reset(num_episodes)
        agent.act(example)
        agent.act(example)
        agent.reset_where(np.ones(num_episodes, np.bool_))
        agent.act(example)


def about(agent: "Agent", run: str, host: str) -> list[str]:
    """Returns lines about what is served, and to whom."""
    obs, action = agent.obs, agent.action
    vectors = "".join(f", {name} [{dim}]" for name, dim in obs.vector_dims.items())
    gives = f"one of {action.dim} choices" if action.is_discrete else f"{action.dim} numbers"
    lines = [
        f"agent: {run}: image [{obs.height_px}, {obs.width_px}, 3]{vectors} -> {gives}, "
        f"{obs.fps:g} times per second"
    ]
    if not is_loopback(host):
        lines.append(
            "warning: other machines can connect, and nothing is encrypted: whoever is on the way "
            "can read pictures and token. Use a network of your own, `ssh -L`, or a proxy with TLS."
        )
    return lines


def is_loopback(host: str) -> bool:
    """Tells whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(server: "PolicyServer", host: str, port: int, lines: list[str]) -> "Latencies":
    """Serves until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: The address or the port cannot be used.
    """
    until = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, until.set)

    def say_ready(chosen_port: int) -> None:
        name = f"[{host}]" if ":" in host else host
        print(*lines, f"serving at http://{name}:{chosen_port}", sep="\n", flush=True)

    try:
        return await server.serve(host, port, until, say_ready)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Cannot listen at --host {host} --port {port}: {error}. Choose another port (0: a "
            "free one) or an address of this machine."
        ) from None


def print_latencies(latencies: "Latencies") -> None:
    """Prints how long the actions took."""
    done = f"stopped: {latencies.num_actions:,} actions in {latencies.num_sessions:,} sessions"
    if latencies.num_actions:
        done += (
            f"; agent p50 {latencies.act_p50_ms:.2f} ms, p95 {latencies.act_p95_ms:.2f} ms; with "
            f"the message p50 {latencies.request_p50_ms:.2f} ms, p95 {latencies.request_p95_ms:.2f}"
            " ms"
        )
    print(done, flush=True)


if __name__ == "__main__":
    main()
