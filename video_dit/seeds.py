"""Seeds that depend on what is drawn, never on who draws it or when."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that is a function of `parts` alone, on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
