"""Redaction of credentials in messages, logs, params, tags and metadata.

A URL may contain a password (`ftp://user:password@host`), a token (`https://token@host`) or a signature
(`https://host/path?sig=...`). Every text that leaves the process passes through `redact`.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["REDACTED", "is_redacted", "redact", "redact_error", "redact_value", "redacted_errors", "warn"]

REDACTED = "***"

# Packages whose frames are between the user's code and a warning of this package.
_BETWEEN = ("spark_dl", "pyspark", "contextlib")

# Schemes where a container or an account precedes the @, as part of the address; only a password has a colon.
_ADDRESSES = ("abfs", "abfss", "wasb", "wasbs", "hdfs", "webhdfs", "swebhdfs", "viewfs", "sftp", "ssh", "scp")
# Keys of a URL's query or of a connection string whose values are secrets.
_KEYS = r"[\w.\-]{0,40}(?:pass|pwd|secret|token|sig|key|cred|auth|sas|jwt|session)[\w.\-]{0,40}|pat|code|sid"
# Names whose values are secrets anywhere in a text: a narrower list, without words that could name a data column.
_NAMES = (
    r"[\w.\-]{0,40}(?:passw(?:or)?d|passphrase|secret_?(?:access_?)?key|access_?key(?:_?id)?|account_?key|api_?key|"
    r"private_?key|client_?secret|sas_?token|access_?token|auth_?token|refresh_?token|session_?token|"
    r"shared_?access_?signature)"
)
# What a password consists of; a quote or bracket in it isn't followed by what follows those that end a text.
_PART = r"(?:[^\s/?#'\"<>]|['\"<>](?![\s,:;)\]}<>'\"]|$))*"
_USERINFO = re.compile(rf"\b([a-z][a-z0-9+.\-]{{0,40}})://([^\s/?#'\"<>:@]*(?::{_PART})?)@", re.IGNORECASE)
# A password may contain a slash that should have been escaped. After a port, the rest is a path, not a password.
_SLASH_IN_PASSWORD = re.compile(
    r"\b([a-z][a-z0-9+.\-]{0,40})://(?!\[)([^\s/?#@:'\"<>]*):(?!\d+(?:[/?#\s]|$))"
    rf"(?:{_PART.removesuffix('*')}|[/?#])*@",
    re.IGNORECASE,
)
# Either a port and a path, or a password that begins with digits: `_is_port` decides.
_DIGITS_AND_SLASH = re.compile(
    r"\b([a-z][a-z0-9+.\-]{0,40})://([^\s/?#@:'\"<>\[\]]+):(\d+)[/?#]"
    rf"(?:{_PART.removesuffix('*')}|[/?#])*@(?=[\w\[])",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"localhost|\d{1,3}(?:\.\d{1,3}){3}", re.IGNORECASE)
# What only a host is, behind an @: a name with a port, a number, the host itself.
_HOST = re.compile(
    r"[\w.\-]+:\d{1,5}(?![\w.])|(?:\d{1,3}(?:\.\d{1,3}){3}|localhost)(?![\w.\-])|\[[\da-f:]+\]", re.IGNORECASE
)
_SYSTEM_PORTS = (20, 21, 22, 25, 53, 80, 88, 110, 143, 389, 443, 445, 465, 587, 636, 873, 989, 990, 993, 995)
# Schemes of URLs that usually have a path after a port, and seldom a password.
_SERVICES = (*_ADDRESSES, "http", "https", "ws", "wss", "grpc", "grpcs", "tcp", "sc", "spark", "mlflow-artifacts")
_DEFAULT_PORTS = {
    "ftp": 21,
    "ftps": 990,
    "smb": 445,
    "mysql": 3306,
    "mssql": 1433,
    "oracle": 1521,
    "postgres": 5432,
    "postgresql": 5432,
    "redis": 6379,
    "mongodb": 27017,
    "amqp": 5672,
}
# What urllib3 takes for a path may be the end of a password with a slash.
_PATH = re.compile(r"(\bwith url: )/\S*@")
_URL_PARAMETER = re.compile(rf"([?&;](?:{_KEYS})=)[^\s&;#'\"<>]+", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(\b(?:{_NAMES})['\"]?\s*[=:]\s*)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|(?![\s'\"])[^\s,;&)\]}}'\"]+)",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"{_NAMES}|(?:proxy-)?authorization", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"(\b(?:proxy-)?authorization['\"]?\s*[=:]\s*['\"]?\s*)(?:(?:basic|bearer|digest|negotiate|token)\s+)?[^\s'\",;]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bbearer\s+)[a-z0-9._~+/\-]{8,}=*", re.IGNORECASE)


def redact(text: str) -> str:
    """Replace the credentials in a text.

    >>> redact("Can't write to ftp://alice:S3CRET@host/ck.")
    "Can't write to ftp://***@host/ck."
    >>> redact("https://host/share?sv=2024&sig=a%2Fb")
    'https://host/share?sv=2024&sig=***'
    >>> redact("abfss://container@account.dfs.core.windows.net/data")
    'abfss://container@account.dfs.core.windows.net/data'
    """
    if "://" in text:
        text = _SLASH_IN_PASSWORD.sub(rf"\1://{REDACTED}@", _USERINFO.sub(_without_userinfo, text))
        text = _DIGITS_AND_SLASH.sub(_without_password, text)
    if "with url: " in text:
        text = _PATH.sub(rf"\1/{REDACTED}@", text)
    if "=" in text:
        text = _URL_PARAMETER.sub(rf"\1{REDACTED}", text)
    text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    return _BEARER.sub(rf"\1{REDACTED}", _ASSIGNED.sub(rf"\1{REDACTED}", text))


def _without_userinfo(found: re.Match[str]) -> str:
    scheme, userinfo = found.groups()
    if scheme.lower() in _ADDRESSES and ":" not in userinfo:
        return found.group()
    return f"{scheme}://{REDACTED}@"


def _without_password(found: re.Match[str]) -> str:
    scheme, name, digits = found.groups()
    behind = found.string[found.end() : found.end() + 100]
    return found.group() if _is_port(scheme.lower(), name, digits, behind) else f"{scheme}://{REDACTED}@"


def _is_port(scheme: str, name: str, digits: str, behind: str) -> bool:
    """Decide whether digits in front of a slash are a port, and not the begin of a password.

    Args:
        scheme: The URL's scheme.
        name: The name in front of the digits: a host or a user.
        digits: The digits.
        behind: What follows the last @: a host if the digits aren't a port.
    """
    if _ADDRESS.fullmatch(name):
        return True
    possible = not digits.startswith("0") and (int(digits[:9]) in _SYSTEM_PORTS or 1024 <= int(digits[:9]) <= 65535)
    if not possible or _HOST.match(behind):
        return False
    return scheme in _SERVICES or _DEFAULT_PORTS.get(scheme.partition("+")[0]) == int(digits)


def is_redacted(url: str) -> bool:
    """Return whether a URL's credentials were redacted."""
    return f"://{REDACTED}@" in url or f"={REDACTED}" in url


def redact_value(value: Any) -> Any:
    """Replace the credentials in a text, or in the texts of nested lists, tuples and dicts.

    Args:
        value: The value, which is not modified.

    Returns:
        The redacted copy; values of other types unchanged. In dicts, all values of secret names are replaced.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: REDACTED if _names_secret(name) else redact_value(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        redacted = [redact_value(one) for one in value]
        return redacted if isinstance(value, list) else tuple(redacted)
    return value


def _names_secret(name: object) -> bool:
    return isinstance(name, str) and _NAMED.fullmatch(name) is not None


def _without(value: Any, secrets: Collection[str]) -> Any:
    """Replace certain texts in a text, or in the texts of nested lists, tuples and dicts."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REDACTED)
        return value
    if isinstance(value, dict):
        return {name: _without(one, secrets) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        found = [_without(one, secrets) for one in value]
        return found if isinstance(value, list) else tuple(found)
    return value


def redact_error(error: BaseException | None, secrets: Collection[str] = ()) -> None:
    """Replace the credentials in an exception, its causes and contexts, and exceptions that it holds, in place.

    Args:
        error: The exception; None for none.
        secrets: Texts to replace wherever they occur, the longest first.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        _redact_fields(one, secrets)
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        # The errors of requests hold those of urllib3, and their text comes from them.
        held = (*one.args, *getattr(one, "__dict__", {}).values())
        waiting += [part for part in held if isinstance(part, BaseException)]


def _redact_fields(error: BaseException, secrets: Collection[str]) -> None:
    def redacted(value: Any) -> Any:
        return redact_value(_without(value, secrets))

    args = tuple(redacted(part) if type(part) in (str, list, tuple, dict) else part for part in error.args)
    if any(new is not old and new != old for new, old in zip(args, error.args, strict=True)):
        error.args = args
    # Besides args, an OSError has file names, MLflow's errors have a message, and RankError has the rank's log.
    fields = {name: getattr(error, name, None) for name in ("strerror", "filename", "filename2")}
    for name, value in {**fields, **getattr(error, "__dict__", {})}.items():
        if isinstance(value, (str, list)) and (clean := redacted(value)) != value:
            with contextlib.suppress(AttributeError, TypeError):  # a read-only attribute is computed from others
                setattr(error, name, clean)


@contextmanager
def redacted_errors(secrets: Collection[str] = ()) -> Iterator[None]:
    """Redact the exceptions that leave the `with`, and their causes.

    Args:
        secrets: Texts to replace wherever they occur, the longest first.
    """
    try:
        yield
    except BaseException as error:
        redact_error(error, secrets)
        raise


def warn(text: str) -> None:
    """Issue a RuntimeWarning without credentials, at the line of the user's code that has called this package.

    Args:
        text: The warning.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(redact(text), RuntimeWarning, stacklevel=level)
