"""One hash seed for all nodes (Valkey from 9.1 on): each server's own word on it, compared and never shown.

With the same seed, two processes have their keys in the same order, and a cursor of the one is good at the other.
That is the caller's claim (`hash_seed_shared=True`) and is never guessed; where a server may be asked, it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from redis import exceptions as redis_errors

from .errors import ServerConnectionError
from .replies import as_fields, printable
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .identity import Address, ServerIdentity
    from .wire import Argument, Reply

__all__ = ["HASH_SEED_REQUEST", "HashSeed", "SharedSeed", "read_hash_seed"]

HASH_SEED_REQUEST: Final[tuple[Argument, ...]] = ("CONFIG", "GET", "hash-seed")

# How much of the digest a checkpoint has: enough to notice another seed, and too little to find out a weak one.
_CHECK: Final = 2


@dataclass(frozen=True, slots=True)
class HashSeed:
    """What a server told of its hash seed."""

    # None where it would not tell, or has none.
    digest: bytes | None = field(repr=False)
    # By its own word it cannot share one: why not.
    fault: str = ""
    # Product and release ("valkey 9.1"), for another one may hash in another way; "" where it does not tell.
    release: str = ""


def read_hash_seed(reply: Reply, info: Mapping[str, str], address: Address) -> HashSeed:
    """The reply to `HASH_SEED_REQUEST`, from a server with this INFO. Where it may not be asked, it has not told.

    Raises ServerConnectionError if it may tell later.
    """
    release = _release(info)
    if isinstance(reply, redis_errors.RedisError):
        if verdict_of(reply) in {Verdict.WAIT, Verdict.RECONNECT, Verdict.LOOK_AGAIN}:
            raise ServerConnectionError(f"{address} is not ready: {error_code(reply)}")
        return HashSeed(None, release=release)
    seed = as_fields(reply).get("hash-seed")
    if seed is None:
        return HashSeed(None, "knows no hash-seed (Valkey does, from 9.1 on)", release)
    if not seed:
        return HashSeed(None, "has no hash-seed set, so its process has drawn one by lot", release)
    digest = hashlib.blake2b(seed.encode("utf-8", "surrogateescape"), digest_size=16, person=b"hash-seed")
    return HashSeed(digest.digest(), release=release)


def _release(info: Mapping[str, str]) -> str:
    product = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{product}_version")
    return f"{product} {printable('.'.join(version.split('.')[:2]))}" if version else ""


def _release_check(release: str) -> bytes:
    return hashlib.blake2b(release.encode(), digest_size=_CHECK, person=b"release").digest()


class SharedSeed:
    """What the servers of one scan have told so far."""

    def __init__(self, check: bytes) -> None:
        """`check` is what the checkpoint that is gone on from has of its server's seed and release; b"" for nothing."""
        self._release_check, self._check = check[:_CHECK], check[_CHECK:]
        # The first seed that was told, and by whom.
        self._seed: tuple[bytes, ServerIdentity] | None = None
        # Of the server that the pass is on; None while none was asked.
        self.release: str | None = None

    @property
    def check(self) -> bytes:
        """For a checkpoint. b"" where nobody was asked: that its cursors are good elsewhere, nobody has said."""
        if self.release is None:
            return b""
        return _release_check(self.release) + (self._check if self._seed is None else self._seed[0][:_CHECK])

    def is_as_in_checkpoint(self, told: HashSeed | None) -> bool:
        """Whether the checkpoint's scan was told of a shared seed, too, and its server was of this one's release."""
        return told is not None and _release_check(told.release) == self._release_check

    def contradiction(self, server: ServerIdentity, told: HashSeed) -> str:
        """What in the server's word contradicts the caller's, in words; "" if nothing does. It is remembered."""
        if told.fault:
            return f"{server} {told.fault}"
        if told.digest is None:
            return ""
        if self._seed is not None and told.digest != self._seed[0]:
            return f"{server} has another hash-seed than {self._seed[1]}"
        if self._check and told.digest[:_CHECK] != self._check:
            return f"{server} has another hash-seed than the server of the checkpoint"
        if self._seed is None:
            self._seed = told.digest, server
        return ""
