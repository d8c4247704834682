"""An export as a model repository on the Hugging Face hub: all of its files in one commit."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from cgclora.storage.adapter_dir import MANIFEST_FILE
from cgclora.storage.atomic_io import in_short

Reason = Literal["token", "name", "denied", "taken", "public", "offline", "refused"]
"""What was wrong: the token, the repository's name, its owner, its content, that it is public, the
network; or the hub refused for a reason of its own."""

_TOKEN = re.compile(r"[!-~]{1,4096}")  # what a header of a request may hold
_HUBS_OWN = re.compile(rf"\.gitattributes|{re.escape(EVAL_RESULTS_FOLDER)}/.*")
"""What every repository has, and results of benchmarks, which others may have added."""

_REVISION = re.compile(r"[\w.-][\w./-]{0,99}", re.ASCII)


class PushError(RuntimeError):
    """A push that did not happen; the message says why and what to do, and never holds a token."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def push(
    folder: str | Path,
    repo: str,
    *,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload an export; returns the repository's address.

    A missing repository is made, and removed again if the upload fails. An older export in it is
    replaced; a repository that holds something else is left alone.

    Args:
        folder: Of the export.
        repo: `<owner>/<name>`; a name alone belongs to the token's owner.
        token: May write to it; None takes that of the environment: `HF_TOKEN` or a login.
        private: Whether a new repository is private; an existing one must be then.
        revision: Branch to write to, made if it is missing; None is the main one.
        endpoint: Address of the hub; None takes that of the environment.

    Raises:
        PushError: The hub cannot be reached, or does not take it.
        OSError: A file of the export cannot be read.
    """
    token = get_token() if token is None else token.strip()
    if not token or not _TOKEN.fullmatch(token):
        raise PushError(
            "token",
            "there is no token that may write to the hub: set HF_TOKEN, or log in with `hf auth "
            "login`."
            if not token
            else "this is no token of the hub: copy it once more.",
        )
    if revision is not None and not _REVISION.fullmatch(revision):
        raise PushError("name", f"{revision!r} is no name of a branch: use letters, digits, . - _.")
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
    api = HfApi(endpoint=endpoint, token=token, library_name="cgclora")
    try:
        return _commit(api, files, repo, revision, private=private)
    except PushError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a local file
        # Without its cause: what a library says of a failed request may quote the request.
        raise _translated(error, repo, token) from None


def _commit(
    api: HfApi, files: dict[str, Path], repo: str, revision: str | None, *, private: bool
) -> str:
    made = _make(api, repo, private=private)
    repo = made or _owned(api, repo)
    try:
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        stale = set() if made else _older_export(api, repo, revision, private=private) - {*files}
        api.create_commit(
            repo,
            [
                *(CommitOperationDelete(name) for name in sorted(stale)),
                *(CommitOperationAdd(name, path) for name, path in files.items()),
            ],
            commit_message="Upload an export of cgclora",
            revision=revision,
        )
    except BaseException:
        if made:
            with suppress(Exception):  # the first error counts
                api.delete_repo(repo, missing_ok=True)
        raise
    return f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision else "")


def _make(api: HfApi, repo: str, *, private: bool) -> str | None:
    """Make a repository; returns its whole name, or None if it exists."""
    try:
        return api.create_repo(repo, private=private).repo_id
    except HfHubHTTPError as error:
        if error.response.status_code == 409:
            return None
        raise


def _owned(api: HfApi, repo: str) -> str:
    """A repository's whole name."""
    return repo if "/" in repo else f"{api.whoami()['name']}/{repo}"


def _older_export(api: HfApi, repo: str, revision: str | None, *, private: bool) -> set[str]:
    """The files of an export in a repository; PushError if it holds something else."""
    info = api.model_info(repo, revision=revision)
    if private and not info.private:
        raise PushError(
            "public",
            f"{repo} exists and is public: make it private on the hub, or choose another name.",
        )
    files = (file.rfilename for file in info.siblings or ())
    names = {name for name in files if not _HUBS_OWN.fullmatch(name)}
    if names and MANIFEST_FILE not in names:
        raise PushError(
            "taken", f"{repo} holds something other than an export: choose another name."
        )
    return names


def _translated(error: Exception, repo: str, token: str) -> PushError:
    """An error of the hub's client in our own words."""
    if isinstance(error, HFValidationError):
        return PushError("name", f"{repo!r} is no name of a repository: use <owner>/<name>.")
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return PushError(
            "token", "the hub does not know this token: copy it once more, or make a new one."
        )
    if status in {403, 404}:
        return PushError(
            "denied",
            f"this token may not write to {repo}: take one with the permission to write, and a "
            "repository of your own.",
        )
    said = in_short(error).replace(token, "***")
    if status is not None:
        return PushError("refused", f"the hub did not take the upload: try again later. ({said})")
    return PushError(
        "offline", f"the hub cannot be reached: check the network and try again. ({said})"
    )
