"""Adapters on the Hugging Face hub: `owner/name` or `owner/name@revision` in a folder's place.

Only the files of an adapter are fetched, JSON and safetensors, into the hub's own cache; nothing
else of a repository is looked at. There a revision's files lie below the hash of its commit, so
that the folder itself says which one it is.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from cgclora.storage.adapter_dir import (
    CONFIG_FILE,
    MANIFEST_FILE,
    ROUTER_FILE,
    AdapterError,
    hub_origin,
)
from cgclora.storage.atomic_io import in_short
from cgclora.storage.layer_shapes import WEIGHTS_FILE

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-][\w./-]*))?", re.ASCII)
_MOST_JSON = 64 << 20
"""Bytes of a JSON file; the manifest of an adapter of many tasks takes less than one MiB."""

ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE)


def adapter_folder(source: str | Path, needed: Sequence[str] = ADAPTER_FILES) -> Path:
    """The local folder of an adapter: the folder itself, or a download of a hub id.

    What looks like neither is returned as it is; reading it says what is missing. A commit that
    was downloaded before needs no network, and without one a branch is what it was at that time. A
    process takes one commit of a branch, whatever happens on the hub meanwhile.

    Args:
        source: `folder`, `owner/name` or `owner/name@revision`: a branch, tag or commit.
        needed: Files that the repository must have; these and a router are downloaded.

    Raises:
        AdapterError: The repository is missing, private or lacks a file, or one is too large; or
            the hub cannot be reached, and the adapter was not downloaded before.
    """
    folder = Path(source).expanduser()
    if (match := _hub_id(source)) is None:
        return folder
    return _download(match["repo"], match["revision"], tuple(needed))


def adapter_name(source: str | Path) -> str:
    """The name of an adapter's folder or repository."""
    match, origin = _hub_id(source), hub_origin(source)
    repo = match["repo"] if match else origin["repo"] if origin else None
    return Path(source).resolve().name if repo is None else repo.rpartition("/")[2]


def cluster_name(source: str | Path) -> str:
    """The `adapter_name`, or that of the run whose `adapter` it is."""
    name = adapter_name(source)
    return Path(source).resolve().parent.name if name == "adapter" else name


def _hub_id(source: str | Path) -> re.Match[str] | None:
    """The parts of a hub id; None for a folder, and for what can only be the path of one."""
    if Path(source).expanduser().exists() or str(source).startswith("."):
        return None
    return _ID.fullmatch(str(source))


@lru_cache(maxsize=256)
def _download(repo: str, revision: str | None, needed: tuple[str, ...]) -> Path:
    # Slow to import, and folders need none of it.
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    name = repo if revision is None else f"{repo}@{revision}"
    patterns = [*needed, ROUTER_FILE]
    with hub_errors(name, AdapterError, "an adapter"):
        api = HfApi(library_name="cgclora")
        # The commit that is checked is the one that is fetched, whatever arrives meanwhile. Without
        # a network it is the one that the cache holds.
        commit = api.resolve_revision(repo, revision=revision)
        with suppress(LocalEntryNotFoundError):  # not here yet
            folder = Path(
                snapshot_download(
                    repo, revision=commit, allow_patterns=patterns, local_files_only=True
                )
            )
            if all((folder / one).is_file() for one in needed):
                return folder
        info = api.model_info(repo, revision=commit.resolved, files_metadata=True)
        _check({file.rfilename: file.size or 0 for file in info.siblings or ()}, name, needed)
        return Path(snapshot_download(repo, revision=commit, allow_patterns=patterns))


def _check(sizes: Mapping[str, int], name: str, needed: Sequence[str]) -> None:
    """Refuse a repository by its list of files, before any of them is downloaded."""
    if missing := [one for one in needed if one not in sizes]:
        advice = "name one that `python -m cgclora push --format cgclora` has made"
        raise AdapterError(f"{name} holds no such adapter, {missing} are missing: {advice}.")
    wanted = {one: size for one, size in sizes.items() if one in {*needed, ROUTER_FILE}}
    for one, size in wanted.items():
        if one.endswith(".json") and size > _MOST_JSON:
            raise AdapterError(
                f"{one} of {name} has {size / 1e6:.0f} MB, which no adapter needs: nothing of the "
                "repository is downloaded."
            )
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415 - as above

    cache = Path(HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    total, free = sum(wanted.values()), shutil.disk_usage(existing).free
    if total > free:
        raise AdapterError(
            f"{name} takes {total / 1e9:.2f} GB, {free / 1e9:.2f} GB are free in the hub's cache: "
            "free some, or set HF_HOME to a folder on another disk."
        )


@contextmanager
def hub_errors(name: str, kind: type[Exception], what: str = "a model") -> Iterator[None]:
    """Raise errors of a download as errors of this kind, in our own words."""
    from huggingface_hub.errors import (  # noqa: PLC0415 - slow
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )

    try:
        yield
    except kind:
        raise
    except GatedRepoError as error:
        raise kind(
            f"{name} is gated: accept its terms on the hub, then log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise kind(f"{name} has no such revision: name a branch, tag or commit of it.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise kind(
            f"{name} is neither a folder here nor {what} on the hub: check the spelling; for a "
            "private one log in with `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionResolutionError) as error:
        raise kind(
            f"{name} is no folder here, and the hub cannot be reached: check the spelling and the "
            "network, or unset HF_HUB_OFFLINE."
        ) from error
    except Exception as error:
        raise kind(
            f"{name} could not be downloaded: check network and free disk space, then try again. "
            f"({in_short(error)})"
        ) from error


def collected(sources: str, into: str | Path) -> Path:
    """A folder of adapter folders, from one or from a list of folders and hub ids.

    Args:
        sources: A folder of adapter folders; or folders of adapters and hub ids with commas
            between them.
        into: The folder to make for a list, with a link to each adapter by its `cluster_name`.

    Raises:
        AdapterError: As `adapter_folder`; or one is no adapter, or two have the same name.
    """
    words = [word.strip() for word in sources.split(",") if word.strip()]
    if len(words) == 1 and _hub_id(words[0]) is None:
        return Path(sources)
    found: dict[str, Path] = {}
    for word in words:
        folder, name = adapter_folder(word), cluster_name(word)
        if not (folder / MANIFEST_FILE).is_file():
            raise AdapterError(f"{word} holds no adapter: {MANIFEST_FILE} is missing.")
        if name in found:
            raise AdapterError(f"two adapters would be called {name!r}: leave one out.")
        found[name] = folder.resolve()
    into = Path(into)
    into.mkdir(parents=True, exist_ok=True)
    for old in into.iterdir():
        if old.is_symlink() and old.name not in found:
            old.unlink()
    for name, folder in found.items():
        fresh = into / f".{name}.{os.getpid()}"
        fresh.symlink_to(folder, target_is_directory=True)
        fresh.replace(into / name)
    return into
