"""A run as typed, frozen settings (``Config``), and reading them from YAML (``file``)."""

from psr_ray.config.base import Frozen
from psr_ray.config.data import DataConfig, SourceConfig
from psr_ray.config.engine import EngineConfig
from psr_ray.config.judge import JudgeConfig
from psr_ray.config.method import MethodConfig, RefreshConfig
from psr_ray.config.prompts import PromptConfig
from psr_ray.config.run import (
    Config,
    EvaluationConfig,
    ModelConfig,
    SearchConfig,
    TelemetryConfig,
)
from psr_ray.config.training import DPOConfig, LoraConfig, SFTConfig, TrainingConfig

__all__ = [
    "Config",
    "DPOConfig",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "Frozen",
    "JudgeConfig",
    "LoraConfig",
    "MethodConfig",
    "ModelConfig",
    "PromptConfig",
    "RefreshConfig",
    "SFTConfig",
    "SearchConfig",
    "SourceConfig",
    "TelemetryConfig",
    "TrainingConfig",
]
