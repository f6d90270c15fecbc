"""Which trace context a request carries, by docs/format.md."""

import re

TRACE, SPAN = "([0-9a-fA-F]{16}|[0-9a-fA-F]{32})", "([0-9a-fA-F]{16})"
SHORT = re.compile("[0-9a-fA-F]{1,16}")
B3 = re.compile(f"{TRACE}-{SPAN}(?:-([01d])(?:-{SPAN})?)?")
W3C = re.compile("(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.S)
SESSION = re.compile("([0-9a-f]{32})(;w3c)?(?:;id=(.{1,256}))?", re.S)
DENIED, ACCEPTED, DEBUG = 1, 2, 3
STATES = {"0": DENIED, "false": DENIED, "1": ACCEPTED, "true": ACCEPTED, "d": DEBUG}


def b3_multi(headers):
    trace, span = headers.get("x-b3-traceid", ""), headers.get("x-b3-spanid", "")
    parent = headers.get("x-b3-parentspanid", "")
    if not SHORT.fullmatch(trace) and not re.fullmatch("[0-9a-fA-F]{32}", trace):
        return None
    if not SHORT.fullmatch(span):
        return None
    state = headers.get("x-b3-sampled", "")
    sampling = STATES.get(state, 0) if state != "d" else 0
    if headers.get("x-b3-flags") == "1":
        sampling = DEBUG
    parent = parent if SHORT.fullmatch(parent) and int(parent, 16) else None
    return trace, span, parent, sampling


def b3_single(headers):
    match = B3.fullmatch(headers.get("b3", ""))
    if not match or match[4] and not int(match[4], 16):
        return None
    return match[1], match[2], match[4], STATES.get(match[3], 0)


def w3c(headers):
    match = W3C.fullmatch(headers.get("traceparent", ""))
    if not match or match[1] == "00" and match[5]:
        return None
    return match[2], match[3], None, ACCEPTED if int(match[4], 16) & 1 else DENIED


def session_header(value):
    """As the vectors write it; None where it is no session header. Text of one byte a character."""
    match = SESSION.fullmatch(value)
    if not match or not int(match[1], 16):
        return None
    return {"session": match[1], "w3c": bool(match[2]), "request_id": match[3]}


def context_of(headers):
    """The first valid form, as the vectors write it; None where there is none."""
    sender = session_header(headers.get("x-meshchain-session", ""))
    first = [w3c] if sender and sender["w3c"] else []
    for form in first + [b3_single, b3_multi, w3c]:
        found = form(headers)
        if found and int(found[0], 16) and int(found[1], 16):
            trace, span, parent, sampling = found
            return {
                "trace_id": trace.lower().zfill(32),
                "span_id": span.lower().zfill(16),
                "parent_span_id": parent and parent.lower().zfill(16),
                "sampling": sampling,
            }
    return None
