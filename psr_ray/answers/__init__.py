"""Final answers: found in a solution, and compared with the gold one."""

from psr_ray.answers.boxed import extract_boxed, stated_answer
from psr_ray.answers.equality import is_equal
from psr_ray.answers.groups import groups_of

__all__ = ["extract_boxed", "groups_of", "is_equal", "stated_answer"]
