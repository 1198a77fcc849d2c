"""Settings of prompts: templates, the chat template, and where a step ends."""

from __future__ import annotations

from pydantic import Field, model_validator

from psr_ray.config.base import Frozen

# Arguments by which chat templates switch thinking: Qwen 3, SmolLM 3 and GLM 4.5; DeepSeek V3.1 and
# Granite 3.
THINKING_SWITCHES = ("enable_thinking", "thinking")


class SystemConfig(Frozen):
    """System messages, by what a prompt is for. Null leaves it to the chat template, which may have one
    of its own: that of Qwen2.5-Math ("reason step by step … \\boxed{}") fits a solver, not a judge."""

    solve: str | None = None
    """Before problems to solve."""
    judge: str | None = None
    """Before steps and solutions to judge."""


class PromptConfig(Frozen):
    templates: str = "paper"
    """`paper` (the paper's structure, for chat and base models), `compact` (tiny model), a folder."""
    chat_template: bool = True
    """Wrap prompts in the tokenizer's chat template; false for base models."""
    step_stop: str = "\nStep {n}:"
    """Text at which a step ends. Leading newlines belong to the step, what follows them begins the next
    one; without leading newlines all of it belongs to the step. With `{n}` in it, the text before `{n}`
    ends a step, and the beginning of the next (`Step 2:`) is given to the model instead of sampled;
    `\\n\\n`: steps are paragraphs."""
    system: SystemConfig = SystemConfig()
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Arguments of the chat template by name. Thinking needs none: it is switched off where problems are
    solved, because the steps are the reasoning, and on by `judge.max_thinking_tokens`."""

    @model_validator(mode="after")
    def a_step_can_end(self) -> PromptConfig:
        if not self.step_stop.partition("{n}")[0]:
            raise ValueError("`step_stop` must begin with the text at which a step ends")
        if "{n}" in self.step_stop and not self.step_stop.startswith("\n"):
            raise ValueError(
                "`step_stop` with `{n}` must begin with a newline: without one the beginning of a step "
                "would belong to the step before"
            )
        return self

    @model_validator(mode="after")
    def needs_chat_template(self) -> PromptConfig:
        given = {"system": self.system != SystemConfig()} | {
            "chat_template_kwargs": bool(self.chat_template_kwargs)
        }
        taken = {"add_generation_prompt", "tokenize", "return_dict", "conversation"}
        if taken & self.chat_template_kwargs.keys():
            raise ValueError(f"`chat_template_kwargs` must not set {', '.join(sorted(taken))}")
        if self.chat_template_kwargs.keys() & set(THINKING_SWITCHES):
            raise ValueError(
                "`chat_template_kwargs` must not switch thinking: it is off, but for judgements with "
                "`judge.max_thinking_tokens` above 0"
            )
        for name, is_given in given.items():
            if is_given and not self.chat_template:
                raise ValueError(
                    f"`{name}` needs `chat_template: true`: a base model has no template"
                )
        return self
