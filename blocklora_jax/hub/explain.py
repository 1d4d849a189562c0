"""Explains errors of huggingface_hub in one line that names the way out."""

from __future__ import annotations

from collections.abc import Iterator

from blocklora_jax.errors import UserError

# By name, because huggingface_hub changed its network library (requests, then httpx) between versions.
NO_NETWORK = frozenset({"OfflineModeIsEnabled", "ConnectionError", "Timeout", "TransportError"})
_NOT_CACHED = NO_NETWORK | {"LocalEntryNotFoundError", "IncompleteSnapshotError"}
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_unreachable(error: BaseException) -> bool:
    """Whether the hub could not be reached, does not work, or must not be asked (HF_HUB_OFFLINE)."""
    return bool(class_names(error) & NO_NETWORK) or (_status(error) or 0) >= 500


def is_missing(error: BaseException) -> bool:
    """Whether there is no such repository, or it is private and the token is not for it."""
    names = class_names(error)
    return "RepositoryNotFoundError" in names and "GatedRepoError" not in names


def explained(error: Exception, at: str, *, missing: str, offline: str, action: str = "fetch") -> Exception:
    """The UserError that explains an error of huggingface_hub; other errors are returned unchanged.

    Args:
        error: what huggingface_hub raised.
        at: what was asked for, for messages.
        missing: the message if there is no such repository, or none that the user may see.
        offline: the message if the hub cannot be reached and the files are not in its cache.
        action: what was tried.
    """
    kinds = class_names(error)
    if "GatedRepoError" in kinds:
        return UserError(
            f"{at} on the Hugging Face hub requires that you accept its terms there, then run `hf auth login`"
        )
    if "RepositoryNotFoundError" in kinds:
        return UserError(missing)
    if "RevisionNotFoundError" in kinds:
        return UserError(f"there is no {at} on the Hugging Face hub")
    if kinds & _NOT_CACHED:
        return UserError(offline)
    if why := _refusal(_status(error)):
        return UserError(f"cannot {action} {at} on the Hugging Face hub: {why}")
    if isinstance(error, OSError) or kinds & {"HfHubHTTPError", "HTTPError", "HFValidationError"}:
        return UserError(f"cannot {action} {at} from the Hugging Face hub: {first_line(error)}")
    return error


def class_names(error: BaseException) -> set[str]:
    """The names of the error's classes, and of those of the errors that caused it."""
    return {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}


def first_line(error: BaseException) -> str:
    """The first line of the message that is not empty, or the kind of the error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. huggingface_hub wraps errors of single files in others."""
    each: BaseException | None = error
    for _ in range(8):
        if each is None:
            return
        yield each
        each = each.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status of the hub's answer; None if there was none."""
    for each in _causes(error):
        if (status := getattr(getattr(each, "response", None), "status_code", None)) is not None:
            return status
    return None


def _refusal(status: int | None) -> str:
    """Why the hub refused a request; "" if the status does not say."""
    return {
        401: f"it does not accept the token: {LOG_IN}",
        403: f"the token does not allow it: use one that may, or {LOG_IN}",
        409: "there is already one of this name that you cannot see or change",
        412: "somebody changed it at the same time: try again",
        429: "there were too many requests: try again later",
    }.get(status or 0, "")
