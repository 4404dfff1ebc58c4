"""Registers policy ``lafp`` and environment ``lafp`` with LeRobot, which imports this package.

LeRobot finds the policy's parts by their names: ``configuration_lafp.LafpConfig``,
``modeling_lafp.LafpPolicy`` and ``processor_lafp.make_lafp_pre_post_processors``.
"""

from lerobot_policy_lafp.configuration_lafp import LafpConfig
from lerobot_policy_lafp.environment_lafp import LafpEnv
from lerobot_policy_lafp.modeling_lafp import LafpPolicy

__all__ = ["LafpConfig", "LafpEnv", "LafpPolicy"]
