"""The Hugging Face Hub: what would be pushed, and pushing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psr_ray.errors import PsrError, first_line


@dataclass(frozen=True)
class Repository:
    """One folder and the repository it goes to."""

    folder: Path
    name: str
    kind: Literal["model", "dataset"]

    @property
    def url(self) -> str:
        """Its page, below the Hub's address."""
        return self.name if self.kind == "model" else f"datasets/{self.name}"

    def files(self) -> list[tuple[str, int]]:
        """Its files and their sizes in bytes."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path.stat().st_size) for path in found]


def repositories(folder: Path, name: str) -> list[Repository]:
    """The repositories of an export: the model's, and one for each dataset.

    Raises ``PsrError`` where ``name`` is no `OWNER/NAME`.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        if "/" not in name:
            raise HFValidationError("it names no owner")
    except HFValidationError as error:
        raise PsrError(f"--push {name}: {first_line(error)}; give OWNER/NAME") from error
    found = [Repository(folder / "model", name, "model")]
    for dataset in ("ift", "eft", "preferences"):
        if (folder / dataset).is_dir():
            found.append(Repository(folder / dataset, f"{name}-{dataset}", "dataset"))
    return found


def push(found: Sequence[Repository], *, public: bool) -> list[str]:
    """Push folders, each in one commit; returns the pages. Files already there are not sent again.

    Raises ``PsrError`` where the Hub cannot be reached or refuses; what was pushed before stays.
    """
    from huggingface_hub import HfApi

    api, pages = HfApi(library_name="psr-ray"), []
    for repository in found:
        try:
            api.create_repo(
                repository.name, repo_type=repository.kind, private=not public, exist_ok=True
            )
            api.upload_folder(
                repo_id=repository.name,
                repo_type=repository.kind,
                folder_path=repository.folder,
                commit_message="psr-ray export",
                delete_patterns=["data/*", "*.safetensors*"],  # of an earlier export
            )
        except Exception as error:  # of the network, the Hub, its client's own HTTP library
            raise PsrError(
                f"{repository.name}: could not be pushed to {api.endpoint} ({first_line(error)}); "
                f"{repository.folder} is complete: see to the network and to HF_TOKEN "
                "(`hf auth login`), then give the same command again"
            ) from error
        pages.append(f"{api.endpoint}/{repository.url}")
    return pages
