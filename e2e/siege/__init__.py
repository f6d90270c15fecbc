"""Hostile and careless neighbours of a collector, all at once, and an honest sender that must not notice; `make siege`.

Sends what sidecars would hand on: plain HTTP with `x-forwarded-client-cert` of each one's own.
"""

DOMAIN = "siege.example"


def identity(namespace: str) -> dict[str, str]:
    """The header that a sidecar adds to what a workload of that namespace's sends."""
    uri = f"spiffe://{DOMAIN}/ns/{namespace}/sa/{namespace}"
    return {"x-forwarded-client-cert": f"By=spiffe://{DOMAIN}/ns/meshchain/sa/collector;Hash={'0a' * 32};Subject=\"\";URI={uri}"}
