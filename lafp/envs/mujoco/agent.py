"""Tells which geoms of a MuJoCo model are the agent's."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def agent_geoms(model: Any) -> np.ndarray:
    """Returns which geoms belong to what the actuators move, bool [G].

    An actuator moves the whole tree of bodies that hangs from the same child of the world: the arm
    with its gripper, but not a ball, a drawer or the ground.

    Args:
        model: A ``mujoco.MjModel``.
    """
    roots = model.body_rootid[list(_actuated_bodies(model))]
    return np.isin(model.body_rootid[model.geom_bodyid], roots[roots > 0])


def _actuated_bodies(model: Any) -> Iterator[int]:
    """Yields the bodies to which actuators are attached, through joints, tendons or sites."""
    import mujoco

    kinds, wraps = mujoco.mjtTrn, mujoco.mjtWrap
    for kind, (target, _) in zip(model.actuator_trntype, model.actuator_trnid, strict=True):
        if kind in (kinds.mjTRN_JOINT, kinds.mjTRN_JOINTINPARENT):
            yield int(model.jnt_bodyid[target])
        elif kind in (kinds.mjTRN_SITE, kinds.mjTRN_SLIDERCRANK):
            yield int(model.site_bodyid[target])
        elif kind == kinds.mjTRN_BODY:
            yield int(target)
        elif kind == kinds.mjTRN_TENDON:
            first, num = int(model.tendon_adr[target]), int(model.tendon_num[target])
            for at in range(first, first + num):
                if model.wrap_type[at] == wraps.mjWRAP_JOINT:
                    yield int(model.jnt_bodyid[model.wrap_objid[at]])
                elif model.wrap_type[at] == wraps.mjWRAP_SITE:
                    yield int(model.site_bodyid[model.wrap_objid[at]])
