"""A model on the Hugging Face hub: its revision made a commit, its files fetched, safetensors only.

Offline, the local cache answers: a revision is looked up in its refs, and the files are taken from its snapshots.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trainables.base import InputError
from trainables.base_models.folder import SETTINGS, TOKENIZER_FILES
from trainables.checkpoint_files import INDEX

IDENTIFIER = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 10.0
OTHERS = ["*/*", "consolidated*"]
"""Files that allowed patterns match as well: those of subfolders, and a second copy of all weights."""


def resolve(identifier: str, revision: str | None, *, kind: str = "model") -> str:
    """Return the commit that `revision` (default: main) of a hub repository points at now.

    `kind` is "model" or "dataset". Raises InputError for an unknown repository or revision, for a model without
    safetensors, and where neither hub nor cache knows the answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    revision = revision or "main"
    if COMMIT.fullmatch(revision):
        return revision
    if is_offline_mode():
        return _cached_commit(identifier, revision, kind, "the hub is switched off (HF_HUB_OFFLINE)")
    try:
        info = HfApi().repo_info(identifier, revision=revision, repo_type=kind, timeout=TIMEOUT_S)
    except GatedRepoError:
        raise InputError(
            f"{kind} {identifier!r} asks for its licence to be accepted: do so on the hub, then hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{kind} {identifier!r} has no revision {revision!r}: give a branch, tag or commit") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"no {kind} {identifier!r} on the hub, or it is private: check the name, or hf auth login"
        ) from None
    except _connection_errors() as error:
        return _cached_commit(identifier, revision, kind, _first_line(error))
    files = [sibling.rfilename for sibling in getattr(info, "siblings", None) or ()]
    if kind == "model" and files and not any(name.endswith(".safetensors") for name in files):
        raise InputError(
            f"{identifier!r} offers no safetensors, only weights that can run code when loaded: "
            "take another revision (its pull requests may hold a conversion: --revision refs/pr/N), or convert it"
        )
    return str(info.sha)


def _cached_commit(identifier: str, revision: str, kind: str, reason: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    reference = Path(HF_HUB_CACHE) / f"{kind}s--{identifier.replace('/', '--')}" / "refs" / revision
    if reference.is_file():
        return reference.read_text().strip()
    raise InputError(
        f"cannot reach the hub for {kind} {identifier!r} ({reason}), and it is not in the cache {HF_HUB_CACHE}: "
        f"fetch it where there is a network (hf download {identifier}), or give a local folder"
    )


def fetch(identifier: str, commit: str, *, code: bool = False) -> Path:
    """Return the local folder with the model's files at `commit`, downloaded if the cache lacks them."""
    from huggingface_hub import snapshot_download

    patterns = [*SETTINGS, *TOKENIZER_FILES, INDEX, "*.safetensors", *(["*.py"] if code else [])]
    try:
        return Path(snapshot_download(identifier, revision=commit, allow_patterns=patterns, ignore_patterns=OTHERS))
    except _connection_errors() as error:
        raise InputError(
            f"cannot fetch {identifier!r} at {commit[:12]} ({_first_line(error)}): "
            f"fetch it where there is a network (hf download {identifier} --revision {commit}), or give a local folder"
        ) from None


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return what a failed request raises: huggingface_hub's errors, and its HTTP library's."""
    from huggingface_hub import errors

    return OSError, errors.HTTPError  # type: ignore[attr-defined]


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
