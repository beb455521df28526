"""Policies on the Hugging Face hub: `hf://user/repo` for a folder, `hf://user/repo@revision` for one version.

Its library keeps what it has loaded: the second time needs no network, and `HF_HUB_OFFLINE=1` none at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from equipoise.prerequisites import extra
from equipoise.trainer.configuration.errors import ConfigError

_PLACE = re.compile(r"hf:/{1,2}(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>.+))?")  # a Path makes one slash of two

_LONGEST = 300
"""Characters of what the library says; advice follows."""


def is_remote(location: str | Path) -> bool:
    return str(location).startswith("hf:")


def local(location: str | Path) -> Path:
    """The folder on this machine: loaded from the hub where `location` is there, else `location` itself.

    Raises:
        ConfigError: the hub has no such repository, or it cannot be reached.
    """
    if not is_remote(location):
        return Path(location)
    found = _PLACE.fullmatch(str(location))
    address = re.sub("^hf:/+", "hf://", str(location))  # a Path has one slash
    if found is None:
        raise ConfigError(f"{address}: must be hf://<user>/<repository>, with @<revision> for one version")
    require(address)
    from huggingface_hub import snapshot_download

    with _worded(f"{address} cannot be loaded"):
        wanted = ["*.safetensors", "*.json", "*.md"]
        return Path(snapshot_download(found["repo"], revision=found["revision"], allow_patterns=wanted))


def push(folder: Path, repo: str) -> str:
    """Upload the folder of a policy, into a repository that is made where there is none; its address.

    Raises:
        ConfigError: the hub refuses it (log in with `hf auth login`), or cannot be reached.
    """
    require(f"push = {repo}")
    from huggingface_hub import HfApi

    with _worded(f"push = {repo}"):
        api = HfApi()
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Policy of Equipoise")
    return str(url)


def require(what: str) -> None:
    """Raise `ConfigError` where the hub's library is missing."""
    if find_spec("huggingface_hub") is None:
        raise ConfigError(f"{what}: needs the package huggingface_hub, which comes with {extra('hub')}")


@contextmanager
def _worded(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the library, and of the two below it that speak HTTP
        said = " ".join(str(error).split())
        raise ConfigError(f"{what}: {type(error).__name__}: {said[:_LONGEST]}") from error
