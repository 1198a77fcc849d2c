"""Prompts as token ids: templates rendered with jinja2, wrapped in the chat template if set.

Sampled ids are appended to these ids and never tokenised again (only a judge's prompt
holds decoded steps).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.meta

from psr_ray.config import PromptConfig
from psr_ray.config.prompts import THINKING_SWITCHES
from psr_ray.errors import PsrError
from psr_ray.method.steps import THINKING
from psr_ray.storage.locations import local_copy

BUILT_IN = Path(__file__).parent.parent / "templates" / "prompts"
TokenIds = tuple[int, ...]
# Values of a template by name: a text, or several.
Texts = Mapping[str, str | Sequence[str]]
# Texts that only a judge may write.
VERDICTS = (r"\[\[[AB]\]\]", r"Score: [0-5]")
HOLE = "\0"
# Stands for a step's number in `prompts.step_stop`.
STEP_NUMBER = "{n}"
# Tokens and marks that are no plain text: <think>, </answer>, [INST].
MARKUP = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
LINE_START = r"(?:\A|(?<=[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]))"


def own_templates(name: str) -> Path | None:
    """The folder of the user's own templates; None for a built-in set."""
    return None if any(name == folder.name for folder in BUILT_IN.iterdir()) else Path(name)


def template_folder(name: str) -> Path:
    """The folder of a built-in set of templates, or the user's own."""
    folder = own_templates(name) or BUILT_IN / name
    for needed in ("solve.jinja", "judge.jinja", "verdict.jinja", "points.jinja"):
        if not (folder / needed).is_file():
            raise PsrError(
                f"prompts.templates: {name!r} is neither a built-in set "
                f"({', '.join(sorted(p.name for p in BUILT_IN.iterdir()))}) nor a folder "
                f"with {needed}"
            )
    return folder


def any_of(texts: Set[str]) -> str:
    """A pattern of any of some texts; of nothing where there are none."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)"


def apart(found: re.Match[str]) -> str:
    """A match with a space after its first character that is not blank."""
    text = found[0]
    place = len(text) - len(text.lstrip()) + 1
    return f"{text[:place]} {text[place:]}"


class Answer(NamedTuple):
    """A completion: all of its text, the text behind its thinking (none where that has not ended), and
    the number of its tokens that are thinking."""

    text: str
    final: str
    num_thinking_tokens: int


class PromptBuilder:
    """Builds the kinds of prompt for one tokenizer (any Hugging Face tokenizer)."""

    def __init__(self, tokenizer: Any, settings: PromptConfig) -> None:
        self.tokenizer = tokenizer
        self.chat = settings.chat_template
        self.stop, numbered, _ = settings.step_stop.partition(STEP_NUMBER)
        self.opening = settings.step_stop.lstrip("\n") if numbered else ""
        self.system = settings.system
        self.chat_arguments = settings.chat_template_kwargs
        if self.chat and not tokenizer.chat_template:
            raise PsrError(
                f"model {tokenizer.name_or_path}: its tokenizer has no chat template; "
                "set prompts.chat_template to false for a base model"
            )
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        markup = {t.content for t in added if t.special or MARKUP.fullmatch(t.content)}
        control = markup | set(tokenizer.all_special_tokens)
        self.control = re.compile(any_of(control))
        marks = {mark for pair in THINKING.items() for mark in pair}
        self.special_marks = {
            tokenizer.convert_tokens_to_ids(token.content)
            for token in added
            if token.special and token.content in marks
        }
        self.folder = template_folder(settings.templates)
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(self.folder),
            undefined=jinja2.StrictUndefined,
            autoescape=False,
        )
        self.marks = self._marks()

    def solve_ids(self, problem: str) -> TokenIds:
        """The prompt after which a solution begins."""
        return self._ids(self._render("solve", problem=self.as_data(problem)), self.system.solve)

    def opening_ids(self, number: int) -> TokenIds:
        """The beginning of step ``number`` where `prompts.step_stop` gives one; it is not sampled."""
        return self.encode(self.opening.replace(STEP_NUMBER, str(number)))

    def judging_ids(
        self,
        template: str,
        texts: Texts,
        *,
        opening: str = "",
        thinking: bool = False,
        after: Sequence[tuple[str, str]] = (),
    ) -> TokenIds:
        """A judge's prompt: a template filled in with a problem's and a model's texts.

        ``opening`` is the text with which the model's answer begins; with ``thinking`` it may think
        before it answers. ``after`` are the questions and answers before it in the same conversation,
        the questions as ``judging_text`` makes them, the answers as the model wrote them.
        """
        text = self.judging_text(template, texts)
        answered = [(question, self.as_data(answer, judged=True)) for question, answer in after]
        if not self.chat:
            return self._ids(joined(answered) + text + opening)
        return self._ids(text, self.system.judge, thinking=thinking, after=answered) + self.encode(
            opening
        )

    def judging_text(self, template: str, texts: Texts) -> str:
        """The same prompt as plain text, for a model behind any chat template."""
        values = {
            name: self.as_data(value, judged=True)
            if isinstance(value, str)
            else [self.as_data(step, judged=True) for step in value]
            for name, value in texts.items()
        }
        return self._render(template, **values)

    def text_ids(self, text: str) -> TokenIds:
        """A ready-made prompt, as the model is to see it."""
        return self._ids(self.as_data(text))

    def encode(self, text: str) -> TokenIds:
        """Ids of a text that follows a prompt: no special tokens are added."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids without special tokens but thinking marks, unchanged otherwise."""
        if self.special_marks.isdisjoint(token_ids):
            return self._text(token_ids, without_special=True)
        parts = groupby(token_ids, key=self.special_marks.__contains__)
        return "".join(self._text(list(ids), without_special=not marks) for marks, ids in parts)

    def answer(self, token_ids: TokenIds, *, thinking: bool = False) -> Answer:
        """A completion's text, with what stands behind the model's thinking. With ``thinking``, its
        prompt let it think, as in ``judging_ids``."""
        text = self.decode(token_ids)
        for opening, closing in THINKING.items():
            if closing in text:
                final = text.rpartition(closing)[2]
                return Answer(text, final, max(len(token_ids) - len(self.encode(final)), 0))
            if text.lstrip().startswith(opening):
                return Answer(text, "", len(token_ids))
        if thinking and self.opens_thinking:
            return Answer(text, "", len(token_ids))
        return Answer(text, text, 0)

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether a prompt that lets the model think already holds the mark that opens its thinking."""
        return self.chat and bool(self._end_of_thinking(self._ids("", thinking=True)))

    def _text(self, token_ids: Sequence[int], *, without_special: bool) -> str:
        text: str = self.tokenizer.decode(
            list(token_ids),
            skip_special_tokens=without_special,
            clean_up_tokenization_spaces=False,
        )
        return text

    def as_data(self, text: str, *, judged: bool = False) -> str:
        """A problem's or model's text made safe for a prompt: without the tokenizer's control tokens and
        where it is to be judged, without verdicts and the template's section marks. A space after their
        first character makes them plain text; all other text is unchanged."""
        for pattern in (self.control, self.marks) if judged else (self.control,):
            text = pattern.sub(apart, text)
        return text

    def _marks(self) -> re.Pattern[str]:
        """Verdicts, and what the templates of judging begin their lines with: a mark of letters at the
        start of a line, any other (and brackets behind a text) wherever it stands."""
        starts, ends = set(), set()
        for path in sorted(self.folder.glob("*.jinja")):
            if path.stem == "solve":
                continue
            text = self._render(path.stem, **self._holes(path))
            for line in text.splitlines():
                start, *rest = map(str.strip, line.split(HOLE))
                starts.add(start)
                ends |= {mark for part in rest for mark in MARKUP.findall(part)}
        letters = {start for start in starts if start[:1].isalnum()}
        anywhere = "|".join([*VERDICTS, any_of((starts | ends) - letters - {""})])
        return re.compile(rf"{anywhere}|{LINE_START}\s*(?:{any_of(letters)})")

    def _holes(self, path: Path) -> dict[str, Any]:
        """Values that show where a judging template puts its texts: of the names that ours use, and for
        templates beside them of whatever names they use."""
        names = {"problem", "steps_so_far", "step_a", "step_b", "solution"}
        if path.stem not in ("judge", "verdict", "points"):
            names |= jinja2.meta.find_undeclared_variables(self.templates.parse(path.read_text()))
        return {name: [HOLE] if name == "steps_so_far" else HOLE for name in names}

    def _render(self, name: str, **values: Any) -> str:
        """A template filled in. Raises ``PsrError`` with the template and what is wrong in it."""
        try:
            return self.templates.get_template(f"{name}.jinja").render(**values)
        except jinja2.TemplateError as error:
            raise PsrError(
                f"prompts.templates: {self.folder / name}.jinja: {error}; it may use the names that the "
                "built-in ones use"
            ) from error

    def _ids(
        self,
        text: str,
        system: str | None = None,
        *,
        thinking: bool = False,
        after: Sequence[tuple[str, str]] = (),
    ) -> TokenIds:
        """A user's message as the model sees it, up to its answer; ``after`` other messages and their
        answers."""
        if not self.chat:
            return tuple(self.tokenizer.encode(text))
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question, answer in after:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        try:
            ids = self.tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": text}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **dict.fromkeys(THINKING_SWITCHES, thinking),
                **self.chat_arguments,
            )
        except jinja2.TemplateError as error:
            raise PsrError(
                f"model {self.tokenizer.name_or_path}: its chat template takes no such messages "
                f"({error}); leave out prompts.system, where it is set"
            ) from error
        return tuple(ids) if thinking else tuple(ids) + self._end_of_thinking(ids)

    def _end_of_thinking(self, prompt_ids: Sequence[int]) -> TokenIds:
        """What closes the thinking that a prompt's last tokens have opened, as some templates do."""
        end = self.tokenizer.decode(list(prompt_ids[-8:]), skip_special_tokens=False).rstrip()
        closing = next((c for o, c in THINKING.items() if end.endswith(o)), "")
        return self.encode(f"\n{closing}\n\n") if closing else ()


def joined(answered: Sequence[tuple[str, str]]) -> str:
    """Questions and answers as the text of one prompt, for base models and teachers."""
    return "".join(f"{question}{answer}\n" for question, answer in answered)


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder; ``PsrError`` with the folder where there is none."""
    from transformers import AutoTokenizer

    try:
        folder = local_copy(model, without=".safetensors")
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # of the tokenizers library: a bare one
        raise PsrError(
            f"model {model}: no tokenizer could be loaded ({' '.join(str(error).split())[:200]}); "
            "give a folder in Hugging Face format"
        ) from error
