"""Which keys of a config hold secrets, told by their names."""

from __future__ import annotations

import re

# Longer names are searched at their end alone.
_NAME_END = 200
_SECRET = re.compile(
    r"(?i)(?:^|[_.-])(?:api_?keys?|keys?|tokens?|secrets?|passwords?|passwd|credentials?|auth|authorization|bearer)$"
)
# Keys that end like a secret and hold none.
_NO_SECRET = re.compile(
    r"(?i)(?:chat|tool|system|input|output|prompt|chosen|rejected|image|text|messages|expert|answer|content)_key$"
    r"|(?:max|min|num|valid|new|pad|eos|bos|stop|mb|special|mask|total|train|unk|sep|cls)\w*_tokens?$"
)


def names_secret(key: str) -> bool:
    """Whether a config key's value is taken to be a secret: that of `hf_token`, not that of `max_tokens`."""
    end = key[-_NAME_END:]
    return bool(_SECRET.search(end)) and not _NO_SECRET.search(end)
