"""Exports one step of an agent to a ``torch.export`` (.pt2) or ONNX file that needs no lafp."""

# Shape suffixes in this file: N episodes, H height, W width.

import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lafp import storage
from lafp.config import ConfigError
from lafp.finished.step import AgentStep, Memory
from lafp.storage import strict_json
from lafp.storage.temporary import TemporaryFolder
from lafp.types import PolicyState

CARD = "lafp_agent.json"
EXPORT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StateTensor:
    """Describes one state tensor, which callers pass from step to step, without its first axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class ExportedStep(nn.Module):
    """``AgentStep`` with plain tensors in place of ``Memory``, so that a file can contain it."""

    def __init__(self, step: AgentStep, example: Memory) -> None:
        super().__init__()
        self.step = step
        self.state = _state_tensors(step, example)

    def forward(
        self, frame: Tensor, is_first: Tensor, noise: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        """Acts once.

        Args:
            frame: uint8 [N, H, W, 3].
            is_first: bool [N], true for episodes that begin. Their state is ignored.
            noise: float32 [N, noise_dim], drawn from N(0, I) at every step.
            *others: The concatenated vectors, float32 [N, V], if the policy reads any, then the
                tensors that ``state`` describes, which are zeros before the first step.

        Returns:
            The action, then the next state.
        """
        num_given = len(others) - len(self.state)
        vectors = others[0] if num_given else None
        given = dict(zip((tensor.name for tensor in self.state), others[num_given:], strict=True))
        frames = given.pop("frames", frame[:, None])
        memory = Memory(frames=frames, policy=PolicyState(**given))
        action, after = self.step(frame, noise, memory, is_first, vectors)
        return action, *(_tensor(after, tensor.name) for tensor in self.state)


def export_agent(step: AgentStep, uri: str) -> None:
    """Writes the step to a ``.pt2`` or ``.onnx`` file, local or S3. See ``Agent.export``."""
    suffix = Path(uri).suffix
    if suffix not in (".pt2", ".onnx"):
        raise ConfigError(
            f"An agent is exported to a .pt2 or an .onnx file, got {uri}. End its name in one of "
            "these."
        )
    if suffix == ".onnx" and step.dtype != torch.float32:
        # The ONNX operators that torch writes have no bfloat16 convolution, so no runtime could
        # read the file.
        step = AgentStep(
            copy.deepcopy(step.policy), step.action_decoder, torch.float32, step.sample_actions
        )
    device = next(step.policy.parameters()).device
    arguments = _example(step, device)
    with torch.no_grad():
        _, memory = step(arguments[0], arguments[2], None, None, *arguments[3:])
        module = ExportedStep(step, memory).eval()
        card = strict_json.dumps(_card(module), indent=1)
        # Cloned, because a tensor that occurs twice would become a single input.
        arguments += tuple(_tensor(memory, tensor.name).clone() for tensor in module.state)
        episodes = torch.export.Dim("num_episodes", min=1)
        # The varargs of ``forward`` are a single entry, which is absent if there are none.
        others = [({0: episodes},) * (len(arguments) - 3)] if len(arguments) > 3 else []
        program = torch.export.export(
            module,
            arguments,
            dynamic_shapes=(*[{0: episodes}] * 3, *others),
            strict=True,  # plain tracing would make len(tensor) a constant
        )
    with TemporaryFolder() as folder:
        path = Path(folder) / f"agent{suffix}"
        if suffix == ".pt2":
            torch.export.save(program, path, extra_files={CARD: card})
        else:
            _save_onnx(program, path, module, card)
        storage.upload(path, uri)


def _save_onnx(program: Any, path: Path, module: ExportedStep, card: str) -> None:
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it, but its own error is less clear
    except ImportError:
        raise ConfigError(
            "Export to ONNX needs the extra onnx: pip install 'lafp[onnx]'."
        ) from None
    names = [f"state_{tensor.name}" for tensor in module.state]
    read = ["vectors"] if module.step.policy.obs.vector_dim else []
    onnx_program = torch.onnx.export(
        program,
        input_names=["frame", "is_first", "noise", *read, *names],
        output_names=["action", *(f"next_{name}" for name in names)],
        dynamo=True,
        verbose=False,
    )
    assert onnx_program is not None
    onnx_program.model.metadata_props[CARD] = card
    # Weights in a file beside it would stay behind, because one file is uploaded.
    onnx_program.save(path, external_data=False)


def _card(module: ExportedStep) -> dict[str, object]:
    """Describes the file for a caller without lafp: inputs, shapes, rate and bounds."""
    policy, action = module.step.policy, module.step.action_decoder.action
    return {
        "format": EXPORT_VERSION,
        "inputs": "frame uint8 [N, H, W, 3], is_first bool [N], noise float32 [N, noise_dim], "
        "vectors float32 [N, state_dim + condition_dim], the robot's state and the condition, if "
        "that is > 0, then the state; outputs: action, then the next state",
        "obs": policy.obs,
        "action": action,
        "noise_dim": module.step.noise_dim,
        "state": module.state,
    }


def _example(step: AgentStep, device: torch.device) -> tuple[Tensor, ...]:
    """Makes inputs for two episodes, because a size of 1 would become a constant of the graph."""
    obs = step.policy.obs
    read = (torch.zeros(2, obs.vector_dim, device=device),) if obs.vector_dim else ()
    return (
        torch.zeros(2, obs.height_px, obs.width_px, 3, dtype=torch.uint8, device=device),
        torch.zeros(2, dtype=torch.bool, device=device),
        torch.zeros(2, step.noise_dim, device=device),
        *read,
    )


def _state_tensors(step: AgentStep, example: Memory) -> tuple[StateTensor, ...]:
    names = ["frames"] if step.policy.obs.frame_stack > 1 else []
    names += [f.name for f in fields(PolicyState) if getattr(example.policy, f.name) is not None]
    tensors = ((name, _tensor(example, name)) for name in names)
    return tuple(
        StateTensor(name=name, shape=tuple(tensor.shape[1:]), dtype=str(tensor.dtype).split(".")[1])
        for name, tensor in tensors
    )


def _tensor(memory: Memory, name: str) -> Tensor:
    return memory.frames if name == "frames" else getattr(memory.policy, name)
