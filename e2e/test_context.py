"""Trace context in real Envoys: tracers, sampling, what the caller sends, what the application hands on.

A cell of the matrix is a setting of the mesh (tracer, sampling, the filter's `context`) and a form in which the caller
states its context, through both kinds of application. All cells of a setting go through the same three sidecars, one
after another, and the first one, which brings no context, is all that a filter learns from before; the tests look at
what came of them. What a tracer does with headers is what those of Envoy 1.40 do.
"""

import functools

import pytest

from lab.chain import BACK, CALLER, MIDDLE
from lab.context import MIXED, UNIFORM, Setting, run
from lab.forms import DECIDED, FORMS, OUTSIDE_B3, READABLE, UNREADABLE
from lab.receipts import ACCEPTED, CLIENT, DENIED, SERVER, context_of

NONE, RECEIVED, GENERATED = 0, 1, 2  # where a record's context came from
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16
# An incomplete B3 multi is none to a Zipkin tracer, which starts a trace; what else is unreadable it leaves alone.
INCOMPLETE = [form for form in UNREADABLE if "multi-without-span" in form]


@pytest.fixture(scope="module")
def see(tmp_path_factory):
    """What happens in a setting, as `run` returns it; each is run once."""
    return functools.cache(lambda setting, **more: run(setting, tmp_path_factory.mktemp("chain"), **more))


def ids_of(receipt):
    return receipt.trace_id, receipt.span_id


def traceparent_ids(hop):
    _, trace, span, _ = hop.sent["traceparent"].split("-")
    return trace, span


def settings(*which):
    return pytest.mark.parametrize("setting", which, ids=str)


def in_every_cell(seen, check, forms=FORMS):
    """Runs `check(form, cell)`, and fails with all cells in which it fails."""
    failed = []
    for (form, kind), cell in seen.cells.items():
        if form in forms:
            try:
                check(form, cell)
            except (AssertionError, LookupError, ValueError) as error:
                failed.append(f"--- {form}, {kind}: {error!r}")
    assert not failed, "\n".join([f"{len(failed)} cells", *failed])
    assert any(form in forms for form, _ in seen.cells), "nothing was looked at"


def left_alone(setting, form):
    """Whether nobody writes the ids that count: the application's calls go out with those that it got.

    Beside B3 that cannot be read the filter goes on in a traceparent, but begins nothing.
    """
    stuck = form in UNREADABLE and not (setting.writes and "w3c" in form)
    if setting.tracer.startswith("zipkin"):
        return stuck and form not in INCOMPLETE
    if setting.tracer == "otel":
        return setting.context == "never" and form in READABLE and form != "w3c"
    return not setting.writes or stuck


# --- in every cell

@settings(*UNIFORM, *MIXED)
def test_both_sides_of_each_hop_agree(see, setting):
    """Also where caller and services trace differently."""
    in_every_cell(see(setting), check_agreement)


def check_agreement(form, cell):
    for hop in cell.hops:
        assert hop.client.hop_digest == hop.server.hop_digest, hop


@settings(*UNIFORM, *MIXED)
def test_the_context_sent_on_is_the_context_received(see, setting):
    """The join rule, and that both sides read the ids out of the headers as docs/format.md says."""
    def check(form, cell):
        for hop in cell.hops:
            assert (hop.client.side, hop.server.side) == (CLIENT, SERVER)
            wire = hop.wire or {"trace_id": NO_TRACE, "span_id": NO_SPAN}
            assert ids_of(hop.client) == ids_of(hop.server) == (wire["trace_id"], wire["span_id"]), hop
    in_every_cell(see(setting), check)


@settings(*UNIFORM)
def test_each_hop_has_a_span_of_its_own_unless_nobody_may_write_one(see, setting):
    def check(form, cell):
        spans = {hop.client.span_id for hop in cell.hops}
        if left_alone(setting, form):
            assert spans == {cell.given["span_id"] if cell.given else NO_SPAN}
        else:
            assert len(spans) == 3 and NO_SPAN not in spans, spans
            assert not cell.given or cell.given["span_id"] not in spans, spans
    in_every_cell(see(setting), check)


@settings(*(setting for setting in MIXED if setting.writes))
def test_each_hop_of_services_that_may_write_has_a_span_of_its_own_whoever_calls_them(see, setting):
    def check(form, cell):
        front, *behind = (hop.client.span_id for hop in cell.hops)
        assert len({front, *behind}) == 3 and NO_SPAN not in behind, (front, behind)
    in_every_cell(see(setting), check)


@settings(*UNIFORM)
def test_the_trace_is_the_callers_and_stays_the_same_along_the_chain(see, setting):
    def check(form, cell):
        (trace,) = {hop.client.trace_id for hop in cell.hops}
        if left_alone(setting, form):
            assert trace == (cell.given["trace_id"] if cell.given else NO_TRACE)
        elif setting.tracer == "zipkin":
            joined = cell.given and form != "w3c" and form not in UNREADABLE
            assert trace == cell.given["trace_id"] if joined else trace != NO_TRACE
        elif setting.tracer == "otel":
            assert trace == (cell.sent["traceparent"].split("-")[1] if "traceparent" in cell.sent else trace) != NO_TRACE
        else:
            assert trace == (cell.given["trace_id"] if cell.given else trace) != NO_TRACE
    in_every_cell(see(setting), check)


@settings(*(setting for setting in MIXED if {setting.tracer, setting.caller.partition("-")[0]} <= {"", "zipkin"}))
def test_the_trace_goes_on_where_the_services_read_what_the_caller_writes(see, setting):
    def check(form, cell):
        (trace,) = {hop.client.trace_id for hop in cell.hops}
        assert trace == (cell.given["trace_id"] if cell.given and form != "w3c" else trace) != NO_TRACE
    in_every_cell(see(setting), check)


@settings(*(setting for setting in UNIFORM + MIXED if "otel" not in setting.caller + setting.services))
def test_the_record_says_where_the_context_came_from(see, setting):
    """A tracer of the services gives one to their application where the caller gave none."""
    def check(form, cell):
        front, *behind = ((hop.client.own.get("context", 0), hop.server.own.get("context", 0)) for hop in cell.hops)
        own_trace = not cell.given or cell.given["trace_id"] != cell.hops[0].client.trace_id
        started = GENERATED if own_trace else RECEIVED
        first, *rest = (hop.client for hop in cell.hops)
        assert front == ((NONE, NONE) if first.span_id == NO_SPAN else (started, RECEIVED))
        for client, told in zip(rest, behind):
            own = GENERATED if client.trace_id != first.trace_id and not setting.services else RECEIVED
            assert told == ((NONE, NONE) if client.span_id == NO_SPAN else (own, RECEIVED)), (client, told)
    in_every_cell(see(setting), check)


@settings(*UNIFORM, *MIXED)
def test_there_is_one_record_of_each_side_of_each_hop(see, setting):
    seen = see(setting)
    assert not seen.faults
    calls = len(seen.cells)
    assert seen.records == {CALLER: calls, MIDDLE: 3 * calls, BACK: 2 * calls}
    assert len({(receipt.side, receipt.path) for receipt in seen.receipts}) == len(seen.receipts) == 6 * calls


# --- the session header

@settings(*UNIFORM)
def test_the_server_is_told_the_clients_session_where_a_filter_may_write(see, setting):
    def check(form, cell):
        learning = cell is next(iter(see(setting).cells.values()))
        for hop in () if learning else cell.hops:
            if setting.writes:
                session, *parameters = hop.session.split(";")
                assert session == hop.client.session.hex(), hop
                assert ("w3c" in parameters) == (setting.tracer == "otel"), hop
                assert hop.server.own["peer_session"] == hop.client.session, hop
            else:
                assert not hop.session and "peer_session" not in hop.server.own, hop
            assert "peer_session" not in hop.client.own
    in_every_cell(see(setting), check, [form for form in FORMS if form not in UNREADABLE])


# --- who may not write

@settings(*(setting for setting in UNIFORM if not setting.writes and setting.tracer in ("", "silent+zipkin", "silent+otel")))
def test_with_neither_tracer_nor_leave_to_write_the_headers_stay_as_they_came(see, setting):
    """Nor does anything of ours leave where a tracer's context must not."""
    def check(form, cell):
        assert [hop.sent for hop in cell.hops] == [cell.sent] * 3
        assert not any(hop.session for hop in cell.hops)
    in_every_cell(see(setting), check)


@settings(*(setting for setting in UNIFORM if not setting.tracer.startswith("zipkin")))
def test_b3_that_cannot_be_read_is_left_as_it_came(see, setting):
    def check(form, cell):
        for hop in cell.hops:
            for name in ("b3", "x-b3-traceid", "x-b3-spanid"):
                assert hop.sent.get(name) == cell.sent.get(name), hop
    in_every_cell(see(setting), check, UNREADABLE)


# --- without a tracer

UNTRACED = [setting for setting in UNIFORM if not setting.tracer and setting.writes]


@settings(*UNTRACED)
def test_the_filters_spans_make_a_tree_under_the_callers_span(see, setting):
    """The server reads a parent where the form has a place for one: B3 single only behind a sampling decision."""
    def check(form, cell):
        front, *behind = cell.hops
        for hop in cell.hops:
            parent = front.client.span_id if hop in behind else cell.given["span_id"] if cell.given else ""
            assert hop.client.parent == parent, hop
            assert hop.server.parent == ("" if form == "single-deferred" else parent), hop
    in_every_cell(see(setting), check, [form for form in FORMS if form not in UNREADABLE])


@settings(*UNTRACED)
def test_what_was_stated_in_a_form_is_answered_in_it_and_another_traces_form_is_left_alone(see, setting):
    """Of each form: the call's own span in the trace that it states, spelt as it was, else nothing is changed."""
    def check(form, cell):
        for hop in cell.hops:
            for names in (("b3",), ("x-b3-traceid", "x-b3-spanid"), ("traceparent",)):
                stated = context_of({name: cell.sent[name] for name in names if name in cell.sent})
                if stated and stated["trace_id"] != hop.client.trace_id:
                    assert all(hop.sent[name] == cell.sent[name] for name in names), (names, hop)
                elif stated:
                    now = context_of({name: hop.sent[name] for name in names})
                    assert (now["trace_id"], now["span_id"]) == ids_of(hop.client), (names, hop)
    in_every_cell(see(setting), check, READABLE)


@settings(*UNTRACED)
def test_no_form_is_added_but_b3_where_there_was_none(see, setting):
    def check(form, cell):
        def forms(headers):
            return {name for name in ("b3", "x-b3-traceid", "traceparent") if name in headers}
        came = forms(cell.sent)
        for hop in cell.hops:
            assert forms(hop.sent) == (came if came & {"b3", "x-b3-traceid"} else came | {"x-b3-traceid"}), hop
    in_every_cell(see(setting), check)


@settings(*UNTRACED)
def test_a_64_bit_trace_id_stays_as_the_caller_spelt_it(see, setting):
    def check(form, cell):
        for name in ("x-b3-traceid", "b3"):
            spelt = {sent.get(name, "").partition("-")[0] for sent in (cell.sent, *(hop.sent for hop in cell.hops))}
            assert name not in cell.sent or len(spelt) == 1, spelt
    in_every_cell(see(setting), check, [form for form in FORMS if "64" in form])


# --- traceparent beside B3

@settings(*(setting for setting in UNIFORM if setting.tracer == "zipkin"))
def test_a_zipkin_tracer_leaves_traceparent_behind(see, setting):
    """It reads and writes B3 only, after the filter: a traceparent goes on as it came, with the caller's span."""
    def check(form, cell):
        assert [hop.sent.get("traceparent") for hop in cell.hops] == [cell.sent.get("traceparent")] * 3
    in_every_cell(see(setting), check, [form for form in FORMS if form not in UNREADABLE])


@settings(Setting("zipkin+w3c-100", "zipkin+w3c-100"))
def test_a_zipkin_tracer_that_knows_w3c_keeps_traceparent_in_step_with_b3(see, setting):
    def check(form, cell):
        for hop in cell.hops:
            assert traceparent_ids(hop) == ids_of(hop.client), hop
    in_every_cell(see(setting), check, [form for form in FORMS if form not in UNREADABLE])


OTEL = [setting for setting in UNIFORM if setting.tracer == "otel"]
OTEL_AUTO = [setting for setting in OTEL if setting.writes]


@settings(*OTEL_AUTO)
def test_beside_an_opentelemetry_tracer_the_hop_is_its_span_and_b3_stays_as_it_came(see, setting):
    def check(form, cell):
        for hop in cell.hops:
            assert traceparent_ids(hop) == ids_of(hop.client), hop
            assert {name: value for name, value in hop.sent.items() if "b3" in name} == {
                name: value for name, value in cell.sent.items() if "b3" in name}, hop
    in_every_cell(see(setting), check)


@settings(*OTEL)
def test_an_opentelemetry_tracer_goes_by_traceparent_alone(see, setting):
    """Its spans are the chain of traceparent: in the caller's trace where the caller states one so, else in its own."""
    def check(form, cell):
        traces, spans = (set(values) for values in zip(*map(traceparent_ids, cell.hops)))
        assert len(traces) == 1 and len(spans) == 3, (traces, spans)
        if "traceparent" in cell.sent:
            assert traces == {cell.sent["traceparent"].split("-")[1]}
        elif cell.given:
            assert traces != {cell.given["trace_id"]}
    in_every_cell(see(setting), check)


# --- sampling, and the tracers' own reports

@settings(*UNIFORM)
def test_the_callers_sampling_decision_is_recorded_and_goes_on(see, setting):
    """A Zipkin tracer does not read W3C, and decides on its own; an OpenTelemetry tracer decides alike here."""
    decision = ACCEPTED if setting.sampled else DENIED

    def check(form, cell):
        assert cell.hops[0].client.own["sampling"] == decision, cell.hops[0]
        for hop in () if setting.tracer == "zipkin" and form == "w3c" else cell.hops:
            assert hop.wire["sampling"] == decision, hop
            assert hop.client.own["sampling"] == hop.server.own["sampling"] == decision, hop
    in_every_cell(see(setting), check, [form for form in READABLE if "deferred" not in form])


@settings(*UNTRACED)
def test_a_sampling_decision_without_a_context_goes_on_in_the_form_in_which_it_came(see, setting):
    flag = "1" if setting.sampled else "0"

    def check(form, cell):
        for hop in cell.hops:
            assert hop.wire["sampling"] == (ACCEPTED if setting.sampled else DENIED), hop
            if form == "single-sampling-alone":
                assert hop.sent["b3"].split("-")[2] == flag and "x-b3-traceid" not in hop.sent, hop
            else:
                assert hop.sent["x-b3-sampled"] == flag and "b3" not in hop.sent, hop
    in_every_cell(see(setting), check, [form for form in DECIDED if form != "none"])


def check_reported(seen, forms):
    def check(form, cell):
        assert {ids_of(hop.client) for hop in cell.hops} <= seen.spans
    in_every_cell(seen, check, forms)


@settings(*(setting for setting in UNIFORM if setting.tracer.startswith("zipkin") and setting.services.endswith("-100")))
def test_the_hop_is_the_span_that_a_zipkin_tracer_reports(see, setting):
    unread = [form for form in UNREADABLE if form not in INCOMPLETE]
    check_reported(see(setting), [form for form in FORMS if form not in unread])


@settings(Setting("otel-100", "otel-100"), Setting("otel-100", "otel-100", "never"))
def test_the_hop_is_the_span_that_an_opentelemetry_tracer_reports(see, setting):
    check_reported(see(setting), [form for form in FORMS if not left_alone(setting, form)])


@settings(*(setting for setting in UNIFORM if setting.services.endswith("-0")))
def test_what_is_not_sampled_has_receipts_and_no_spans(see, setting):
    seen = see(setting)
    assert seen.receipts and not seen.spans


# --- the first calls of a filter, which does not know yet whether there is a tracer

@pytest.mark.parametrize("form", ["none", "multi", "multi-and-w3c", "single", "single-and-stale-multi", "w3c"])
def test_from_the_first_call_on_the_hop_is_a_zipkin_tracers_span(see, form):
    seen = see(Setting("zipkin-100", "zipkin-100"), first=form)
    in_every_cell(seen, check_agreement)
    check_reported(seen, FORMS)


@pytest.mark.parametrize("form", OUTSIDE_B3)
def test_from_the_first_call_on_the_hop_is_an_opentelemetry_tracers_span_where_no_b3_came(see, form):
    seen = see(Setting("otel-100", "otel-100"), first=form)
    in_every_cell(seen, check_agreement)
    check_reported(seen, FORMS)


@pytest.mark.parametrize("tracer", ["silent+zipkin-100", "silent+otel-100"])
def test_from_the_first_call_on_nothing_leaves_beside_a_silent_tracer(see, tracer):
    seen = see(Setting(tracer, tracer), first="none")

    def check(form, cell):
        assert [(hop.sent, hop.session) for hop in cell.hops] == [({}, "")] * 3
    in_every_cell(seen, check)
