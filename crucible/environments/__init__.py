"""Environments of reinforcement learning: the contract, plain reward functions, discovery by name."""

from crucible.environments.contract import Environment, Episode, Feedback, GroupEnvironment, Observation
from crucible.environments.registry import environment_names, load_environment
from crucible.environments.rewards import PromptTask, RewardEnvironment, RewardFunction, checked_reward

__all__ = [
    "Environment",
    "Episode",
    "Feedback",
    "GroupEnvironment",
    "Observation",
    "PromptTask",
    "RewardEnvironment",
    "RewardFunction",
    "checked_reward",
    "environment_names",
    "load_environment",
]
