"""Tries to reach a cluster before Ray does, and says in one sentence why it cannot be used.

Knows nothing of what runs there. Ray itself tries for 12 minutes where something else than Ray listens, and 21 s where
a token is refused. `ray start` demands a token as soon as its machine has one, but a driver shows its own only where
RAY_AUTH_MODE says so, and then no cluster without tokens understands it: so the cluster is asked which of both it is.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from raypipe.errors import InfrastructureError

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 10.0
_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_FROM_OUTSIDE = "from a machine that is no node of it: `raypipe submit --address http://HOST:8265`"


def probe_cluster(address: str | None) -> None:
    """Let Ray show the token of this machine where the cluster at `address` asks for one.

    Comes before Ray is imported, which reads its environment then. Raises InfrastructureError when nothing answers
    there, or not to us.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS")
    if address is not None and address.startswith(("http://", "https://")):
        way = f"`raypipe submit --address {address}` takes it; a run itself wants HOST:PORT as `ray start` prints it"
        raise InfrastructureError(f"{address!r} is the address of a job server; {way}")
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (address and colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InfrastructureError(f"no Ray cluster can be reached at {address!r}: {reason}") from None
    is_plain = os.environ.get("RAY_USE_TLS", "0") == "0" and os.environ.get("RAY_AUTH_MODE", "token") == "token"
    if not address.startswith("ray://") and is_plain and _asks_for_token(address):
        os.environ["RAY_AUTH_MODE"] = "token"


def explain_failure(address: str | None, error: BaseException) -> str:
    """Why Ray cannot be used, in one sentence. What Ray knows of a refusal is only in its text."""
    text = f"{error} {error.__cause__ or ''}"
    if address is None:
        return f"Ray on this machine cannot be used: {error}"
    if "InvalidAuthToken" in text or type(error).__name__ == "AuthenticationError":
        return explain_refusal(address)
    if "Could not find any running Ray instance" in text:
        return f"no Ray cluster runs on this machine; start one with `ray start --head`; {_FROM_OUTSIDE}"
    if "Failed to connect to Ray cluster" in text:
        return f"the cluster at {address!r} has no node on this machine; run it on one; {_FROM_OUTSIDE}"
    return f"the cluster at {address!r} cannot be used: {' '.join(str(error).split())}"


def explain_refusal(address: str) -> str:
    """What to do where a cluster does not take the token of this machine."""
    had = "refuses the token of" if read_token() else "asks for a token, and there is none on"
    way = "set RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head, or write that into ~/.ray/auth_token"
    return f"the cluster at {address!r} {had} this machine; {way}"


def read_token() -> str:
    """The token of this machine, from where Ray looks for it; empty where there is none."""
    if named := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return named
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _asks_for_token(address: str) -> bool:
    """Raises InfrastructureError when it does and ours is none that it takes, and when no Ray answers."""
    try:
        import grpc
    except ImportError:
        # Without ray[default] there is nothing to ask with: `ray start` asks for a token wherever there is one.
        return bool(read_token())
    options: Any = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        for shown in ("", read_token()):
            metadata: Any = [("authorization", f"Bearer {shown}")] if shown else None
            try:
                channel.unary_unary(_CLUSTER_ID)(b"", timeout=_ANSWER_TIMEOUT_S, metadata=metadata)
            except grpc.RpcError as error:
                status: grpc.StatusCode = error.code()  # pyright: ignore[reportAttributeAccessIssue]
                if status != grpc.StatusCode.UNAUTHENTICATED:
                    problem = "what listens there is no Ray cluster's head"
                    way = f"give HOST:PORT as `ray start` prints it, by default port 6379; {_FROM_OUTSIDE}"
                    raise InfrastructureError(f"{problem} ({address!r}); {way}") from None
            else:
                return bool(shown)
    raise InfrastructureError(explain_refusal(address))
