"""The forms in which a caller states its trace context: each alone, every two of them beside each other, and what
nobody can read.

A form is made from a trace id (32 digits), a span id (16 digits) and a sampling flag.
"""

import itertools
from collections.abc import Callable

Headers = dict[str, str]
Form = Callable[[str, str, str], Headers]


def multi(trace: str, span: str, flag: str) -> Headers:
    return {"x-b3-traceid": trace, "x-b3-spanid": span, "x-b3-sampled": flag}


def single(trace: str, span: str, flag: str) -> Headers:
    return {"b3": f"{trace}-{span}-{flag}"}


def w3c(trace: str, span: str, flag: str) -> Headers:
    return {"traceparent": f"00-{trace.zfill(32)}-{span}-0{flag}"}


def stale(form: Form) -> Form:
    """The same form, left over from another trace."""
    return lambda trace, span, flag: form(trace[::-1], span[::-1], flag)


def former(form: Form) -> Form:
    """The same form, left over from another span of the same trace."""
    return lambda trace, span, flag: form(trace, span[::-1], flag)


def short(form: Form) -> Form:
    """The same form with a trace id of 64 bits."""
    return lambda trace, span, flag: form(trace[16:], span, flag)


def both(*forms: Form) -> Form:
    return lambda *ids: {name: value for form in forms for name, value in form(*ids).items()}


ALONE: dict[str, Form] = {"multi": multi, "single": single, "w3c": w3c}
PAIRS = {f"{one}-and-{other}": both(ALONE[one], ALONE[other]) for one, other in itertools.combinations(ALONE, 2)}
LEFT_OVER = {f"{one}-and-{age.__name__}-{other}": both(ALONE[one], age(ALONE[other]))
             for one, other in itertools.permutations(ALONE, 2) for age in (stale, former)}
SPELT: dict[str, Form] = {  # a context, spelt in other ways
    "multi-64-bit": short(multi),
    "single-64-bit": short(single),
    "multi-64-bit-and-w3c": both(short(multi), short(w3c)),
    "multi-15-digits": lambda trace, span, flag: multi(trace[17:], span[1:], flag),
    "multi-deferred": lambda trace, span, _: {"x-b3-traceid": trace, "x-b3-spanid": span},
    "single-deferred": lambda trace, span, _: {"b3": f"{trace}-{span}"},
    "all": both(*ALONE.values()),
}
DECIDED: dict[str, Form] = {  # a sampling decision, and no context
    "none": lambda *_: {},
    "multi-sampling-alone": lambda _, __, flag: {"x-b3-sampled": flag},
    "single-sampling-alone": lambda _, __, flag: {"b3": flag},
}
UNREADABLE: dict[str, Form] = {  # B3 that is somebody's trace, and that no tracer can read
    "multi-without-span": lambda trace, _, flag: {"x-b3-traceid": trace, "x-b3-sampled": flag},
    "multi-joined": lambda trace, span, flag: multi(f"{trace},{trace[::-1]}", f"{span},{span[::-1]}", flag),
    "single-joined": lambda *ids: {"b3": f"{single(*ids)['b3']},{single(*ids)['b3']}"},
    "single-15-digits": lambda trace, span, flag: single(trace[17:], span, flag),
    "single-without-span": lambda trace, *_: {"b3": trace},
}
UNREADABLE |= {f"{name}-and-w3c": both(form, w3c) for name, form in list(UNREADABLE.items())[:2]}
FORMS: dict[str, Form] = {**DECIDED, **ALONE, **PAIRS, **LEFT_OVER, **SPELT, **UNREADABLE}
READABLE = [form for form in FORMS if form not in DECIDED and form not in UNREADABLE]
FEW = ["none", "multi", "single", "w3c", "multi-and-w3c"]
OUTSIDE_B3 = ["none", "w3c"]  # without B3 of the caller's
