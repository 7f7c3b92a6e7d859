"""Environments of reinforcement learning: the contract, models to ask, reward functions, discovery by name."""

from crucible.environments.chat_model import ChatModel, ChatModelFailed, ServiceFailed
from crucible.environments.contract import (
    Environment,
    Episode,
    Feedback,
    GroupEnvironment,
    Observation,
    RolloutContext,
    TokenEpisode,
    TokenPrompt,
)
from crucible.environments.registry import environment_names, load_environment
from crucible.environments.rewards import (
    PromptTask,
    RewardEnvironment,
    RewardFunction,
    checked_metric,
    checked_reward,
)

__all__ = [
    "ChatModel",
    "ChatModelFailed",
    "Environment",
    "Episode",
    "Feedback",
    "GroupEnvironment",
    "Observation",
    "PromptTask",
    "RewardEnvironment",
    "RewardFunction",
    "RolloutContext",
    "ServiceFailed",
    "TokenEpisode",
    "TokenPrompt",
    "checked_metric",
    "checked_reward",
    "environment_names",
    "load_environment",
]
