"""Transports of tests: quick to give up, and what their servers answer."""

from __future__ import annotations

from registries import Reply

from udocker.registry.patience import Patience
from udocker.registry.transport import Request, Transport

QUICK = Patience(
    attempts=3,
    first_delay_s=0.01,
    longest_delay_s=0.02,
    longest_retry_after_s=0.5,
    connect_timeout_s=2,
    read_timeout_s=1,
)
ASK = Request("GET", "/v2/a/thing", "a", "the thing")


def transport(host, credentials=None, environment=None, **options):
    def find(repository):
        return credentials

    options.setdefault("patience", QUICK)
    return Transport(host, environment or {}, find, **options)


def body(transport, request=ASK):
    return transport.fetch(request, 1 << 20).body


def in_turn(*replies):
    """Answer the first request with the first reply, ..., all further ones with the last."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


OK = Reply(body=b"fine")
