"""Takes passwords, tokens and signatures out of URIs, before anything is stored or printed.

What is left is the identity of the file: a URI that is signed anew keeps its name, so a job
resumes, and `takedown` finds the video. Tokens in the path of an address look like any other name
and stay.
"""

import re
from urllib.parse import unquote_plus

_URI = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)([^/?#]*)([^?#]*)(\?[^#]*)?(.*)", re.DOTALL)
# Without the punctuation of a sentence after it.
# Schemes are short: without a limit a long word would be tried from each of its letters.
_IN_TEXT = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^\s'\"<>`]*[^\s'\"<>`.,:;)\]}]")
# Names are compared in lower case, with hyphens between words.
_SECRET = re.compile(
    r"(^|[-.])(token|secret|password|passwd|pwd|signature|sig|credentials?|jwt|hmac"
    r"|authorization|hdnea|hdnts|hdntl)($|[-.])"
    r"|api-?key|access-?key|access-?id|^x-(amz|goog|oss|cos)-|^q-(sign|ak|key|header|url)"
)
# Names that have other meanings, too: `session=2` is a recording of a robot. A token is long.
_SECRET_IF_LONG = re.compile(r"(^|[-.])(pass|sign|auth|session|sessionid|sas)($|[-.])")
_LONG = re.compile(r"=[\w%./+=~-]{16,}$")
# Names that hold a signature only beside another one: nginx, Discord, Facebook.
_SECRET_BESIDE = {"md5": "expires", "hm": "ex", "oh": "oe"}
_NAMES_HOLD_ALL = ("s3://", "gs://", "hf://", "file://")
# Parts of a signature. They change with it, and mean nothing without it.
_WITH_A_SECRET = re.compile(
    r"expires?|expiry|exp|ex|is|oe|policy|key-pair-id|ts|timestamp|nonce|acl|key-name"
)
_WITH_AZURE_SIG = re.compile(
    r"sv|ss|srt|sr|st|se|sp|spr|sip|si|skoid|sktid|skt|ske|sks|skv|sdd|saoid"
)


def without_secrets(uri: str) -> str:
    """Returns a URI without user name, password, and the parts of its query that are secret.

    All other parts keep every character.
    """
    found = _URI.fullmatch(uri)
    if not found:
        return uri
    scheme, authority, path, query, rest = found.groups("")
    if query and scheme.lower() not in _NAMES_HOLD_ALL:  # there `?` is part of a name
        query = _public_query(query)
    return f"{scheme}{authority.rpartition('@')[2]}{path}{query}{rest}"


def text_without_secrets(text: str) -> str:
    """Applies ``without_secrets`` to every URI in a text, such as the message of an error."""
    return _IN_TEXT.sub(lambda found: without_secrets(found[0]), text) if "://" in text else text


def _public_query(query: str) -> str:
    parts = query[1:].split("&")
    names = [_name(part) for part in parts]
    secret = {name for name, part in zip(names, parts, strict=True) if _is_secret(name, part)}
    secret |= {name for name, other in _SECRET_BESIDE.items() if {name, other} <= set(names)}
    if not secret:
        return query
    secret |= {name for name in names if _WITH_A_SECRET.fullmatch(name)}
    if "sig" in secret:
        secret |= {name for name in names if _WITH_AZURE_SIG.fullmatch(name)}
    left = [part for name, part in zip(names, parts, strict=True) if name not in secret]
    return f"?{'&'.join(left)}" if left else ""


def _name(part: str) -> str:
    name = unquote_plus(part.partition("=")[0]).strip()
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower().replace("_", "-")


def _is_secret(name: str, part: str) -> bool:
    # `key` names the files of some hosts. A key of an API is long, and has neither dot nor slash.
    if name == "key":
        return bool(re.search(r"=[\w-]{24,}$", part))
    return bool(_SECRET.search(name) or (_SECRET_IF_LONG.search(name) and _LONG.search(part)))
