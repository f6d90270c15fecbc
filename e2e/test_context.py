"""Trace context in real Envoys: tracers, sampling, what the caller sends, what the application hands on.

A cell of the matrix is a setting of the mesh (tracer, sampling, the filter's `context`) and a form in which the caller
states its context, through both kinds of application. All cells of a setting go through the same three sidecars; the
tests look at what came of them. What a tracer does with headers is what those of Envoy 1.40 do.
"""

import functools

import pytest

from lab.chain import BACK, CALLER, KINDS, MIDDLE
from lab.context import FORMS, MIXED, ONE_TRACE, OUTSIDE_B3, UNIFORM, WITH_W3C, Setting, run
from lab.receipts import ACCEPTED, CLIENT, DENIED, SERVER, context_of

NONE, RECEIVED, GENERATED = 0, 1, 2  # where a record's context came from
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16


@pytest.fixture(scope="module")
def see(tmp_path_factory):
    """What happens in a setting, as `run` returns it; each is run once."""
    return functools.cache(lambda setting, **more: run(setting, tmp_path_factory.mktemp("chain"), **more))


def ids_of(receipt):
    return receipt.trace_id, receipt.span_id


def traceparent_ids(hop):
    _, trace, span, _ = hop.sent["traceparent"].split("-")
    return trace, span


def cells(settings, forms=None):
    """Parameters `setting, form`, by default all forms of each."""
    return pytest.mark.parametrize("setting, form", [
        pytest.param(setting, form, id=f"{setting}-{form}") for setting in settings for form in forms or setting.forms])


# --- in every cell

@cells(UNIFORM + MIXED)
def test_both_sides_of_each_hop_agree(see, setting, form):
    """Also where caller and services trace differently."""
    check_agreement(see(setting), form)


def check_agreement(seen, form):
    for kind in KINDS:
        for hop in seen.cells[form, kind].hops:
            assert hop.client.hop_digest == hop.server.hop_digest, (kind, hop)


@cells(UNIFORM + MIXED)
def test_the_context_sent_on_is_the_context_received(see, setting, form):
    """The join rule, and that both sides read the ids out of the headers as docs/format.md says."""
    for kind in KINDS:
        for hop in see(setting).cells[form, kind].hops:
            assert (hop.client.side, hop.server.side) == (CLIENT, SERVER)
            wire = context_of(hop.sent) or {"trace_id": NO_TRACE, "span_id": NO_SPAN}
            assert ids_of(hop.client) == ids_of(hop.server) == (wire["trace_id"], wire["span_id"]), (kind, hop)
            differing = {key for key in hop.client.hop | hop.server.hop
                         if hop.client.hop.get(key) != hop.server.hop.get(key)}
            assert differing <= {"request_id"}, (kind, hop)


def shares_spans(setting, form):
    """Whether nobody may write the ids that count: the application's calls go out with those that it got."""
    reads_b3 = setting.tracer == "otel" and form not in OUTSIDE_B3
    return setting.context == "never" and (not setting.tracer or reads_b3)


@cells(UNIFORM + MIXED)
def test_each_hop_has_a_span_of_its_own(see, setting, form):
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        spans = {hop.client.span_id for hop in cell.hops}
        if shares_spans(setting, form):
            assert spans == {cell.given["span_id"] if cell.given else NO_SPAN}, kind
        else:
            assert len(spans) == 3 and NO_SPAN not in spans, (kind, spans)
            assert not cell.given or cell.given["span_id"] not in spans, (kind, spans)


@cells(UNIFORM + MIXED)
def test_the_trace_is_the_callers_and_stays_the_same_along_the_chain(see, setting, form):
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        hops = cell.hops
        if setting.caller.startswith("otel") and setting.services.startswith("zipkin") and form in OUTSIDE_B3:
            hops = hops[:1]  # the services' tracers do not read what the caller's writes, and start a trace
        traces = {hop.client.trace_id for hop in hops}
        assert len(traces) == 1, (kind, traces)
        if form == "w3c" and setting.caller.startswith("zipkin-"):  # a tracer that does not read it starts a trace
            assert traces.isdisjoint({NO_TRACE, cell.given["trace_id"]}), kind
        elif cell.given:
            assert traces == {cell.given["trace_id"]}, kind
        else:
            assert (traces == {NO_TRACE}) == (not setting.tracer and setting.context == "never"), (kind, traces)


@cells(UNIFORM + MIXED)
def test_the_record_says_where_the_context_came_from(see, setting, form):
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        front, *behind = ((hop.client.own.get("context", 0), hop.server.own.get("context", 0)) for hop in cell.hops)
        own_trace = not cell.given or cell.given["trace_id"] != cell.hops[0].client.trace_id
        started = GENERATED if own_trace else RECEIVED
        if cell.hops[0].client.span_id == NO_SPAN:
            assert [front, *behind] == [(NONE, NONE)] * 3, kind
        else:
            assert [front, *behind] == [(started, RECEIVED), (RECEIVED, RECEIVED), (RECEIVED, RECEIVED)], kind


@pytest.mark.parametrize("setting", UNIFORM + MIXED, ids=str)
def test_there_is_one_record_of_each_side_of_each_hop(see, setting):
    seen = see(setting)
    assert not seen.faults
    calls = 2 * len(seen.cells)  # each is preceded by one that teaches
    assert seen.records == {CALLER: calls, MIDDLE: 3 * calls, BACK: 2 * calls}
    assert len({(receipt.side, receipt.path) for receipt in seen.receipts}) == len(seen.receipts) == 6 * calls


# --- without a tracer

UNTRACED = [setting for setting in UNIFORM if not setting.tracer and setting.context == "auto"]


@pytest.mark.parametrize("form", FORMS)
def test_with_neither_tracer_nor_leave_to_write_the_headers_stay_as_they_came(see, form):
    for kind in KINDS:
        cell = see(Setting("", "", "never")).cells[form, kind]
        assert [hop.sent for hop in cell.hops] == [cell.sent] * 3, kind


@cells(UNTRACED, FORMS)
def test_the_filters_spans_make_a_tree_under_the_callers_span(see, setting, form):
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        front, *behind = cell.hops
        for receipt in (front.client, front.server):
            assert receipt.own.get("parent_span_id", b"").hex() == (cell.given["span_id"] if cell.given else ""), kind
        for receipt in (side for hop in behind for side in (hop.client, hop.server)):
            assert receipt.own["parent_span_id"].hex() == front.client.span_id, kind


@cells(UNTRACED, [form for form in FORMS if "64" in form])
def test_a_64_bit_trace_id_stays_as_the_caller_spelt_it(see, setting, form):
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        for name in ("x-b3-traceid", "b3"):
            spelt = {sent.get(name, "").partition("-")[0] for sent in (cell.sent, *(hop.sent for hop in cell.hops))}
            assert name not in cell.sent or len(spelt) == 1, (kind, spelt)


# --- traceparent beside B3

@cells(UNTRACED, WITH_W3C)
def test_the_filter_keeps_traceparent_in_step_with_b3(see, setting, form):
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        for hop in cell.hops:
            if form == "b3-and-another-w3c":
                assert hop.sent["traceparent"] == cell.sent["traceparent"], "another trace's is left alone"
            else:
                assert traceparent_ids(hop) == ids_of(hop.client), (kind, hop.sent)
                assert hop.sent["traceparent"][-3:] == cell.sent["traceparent"][-3:], "with its flags"


@cells([setting for setting in UNIFORM if setting.tracer == "zipkin"], FORMS)
def test_a_zipkin_tracer_leaves_traceparent_behind(see, setting, form):
    """It reads and writes B3 only, after the filter: a traceparent goes on as it came, with the caller's span."""
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        assert [hop.sent.get("traceparent") for hop in cell.hops] == [cell.sent.get("traceparent")] * 3, kind


@cells([Setting("zipkin+w3c-100", "zipkin+w3c-100")], FORMS)
def test_a_zipkin_tracer_that_knows_w3c_keeps_traceparent_in_step_with_b3(see, setting, form):
    for kind in KINDS:
        for hop in see(setting).cells[form, kind].hops:
            assert traceparent_ids(hop) == ids_of(hop.client), (kind, hop.sent)


OTEL_AUTO = [setting for setting in UNIFORM if setting.tracer == "otel" and setting.context == "auto"]
OTEL_NEVER = [setting for setting in UNIFORM if setting.tracer == "otel" and setting.context == "never"]


@cells(OTEL_AUTO, OUTSIDE_B3)
def test_an_opentelemetry_tracer_is_left_alone_where_no_b3_came(see, setting, form):
    """Where B3 came, the filter goes on in it: the application would hand it on, and it is read first."""
    for kind in KINDS:
        for hop in see(setting).cells[form, kind].hops:
            assert traceparent_ids(hop) == ids_of(hop.client), (kind, hop.sent)
            assert not {"b3", "x-b3-traceid"} & set(hop.sent), (kind, hop.sent)


@cells(OTEL_AUTO + OTEL_NEVER, FORMS)
def test_an_opentelemetry_tracer_goes_by_traceparent_alone(see, setting, form):
    """Its spans are the chain of traceparent: in the caller's trace where the caller states one so, else in its own."""
    for kind in KINDS:
        cell = see(setting).cells[form, kind]
        traces, spans = (set(values) for values in zip(*map(traceparent_ids, cell.hops)))
        assert len(traces) == 1 and len(spans) == 3, (kind, traces, spans)
        if "traceparent" in cell.sent:
            assert traces == {cell.sent["traceparent"].split("-")[1]}
        elif cell.given:
            assert traces != {cell.given["trace_id"]}


# --- sampling, and the tracers' own reports

@cells(UNIFORM, [form for form in FORMS if form not in ("none", "b3-multi-deferred")])
def test_the_callers_sampling_decision_is_recorded_and_goes_on(see, setting, form):
    decision = ACCEPTED if setting.sampled else DENIED
    for kind in KINDS:
        front, *behind = see(setting).cells[form, kind].hops
        assert front.client.own["sampling"] == decision, (kind, front)
        if setting.tracer == "zipkin" and form == "w3c":
            continue  # the tracer does not read it, and decides on its own
        for hop in (front, *behind):
            assert context_of(hop.sent)["sampling"] == decision, (kind, hop)
            assert hop.client.own["sampling"] == hop.server.own["sampling"] == decision, (kind, hop)


@cells([setting for setting in UNIFORM if setting.tracer.startswith("zipkin") and setting.services.endswith("-100")])
def test_the_hop_is_the_span_that_a_zipkin_tracer_reports(see, setting, form):
    check_reported(see(setting), form)


@cells([setting for setting in UNIFORM if setting.services == "otel-100"], OUTSIDE_B3)
def test_the_hop_is_the_span_that_an_opentelemetry_tracer_reports(see, setting, form):
    check_reported(see(setting), form)


def check_reported(seen, form):
    for kind in KINDS:
        assert {ids_of(hop.client) for hop in seen.cells[form, kind].hops} <= seen.spans, kind


@pytest.mark.parametrize("setting", [s for s in UNIFORM if s.services.endswith("-0")], ids=str)
def test_what_is_not_sampled_has_receipts_and_no_spans(see, setting):
    seen = see(setting)
    assert seen.receipts and not seen.spans


# --- the first calls of a filter, which does not know yet whether there is a tracer

@cells([Setting("zipkin-100", "zipkin-100")], ["none", "b3-multi-and-w3c", "b3-single"])
def test_from_the_first_call_on_the_hop_is_the_tracers_span(see, setting, form):
    seen = see(setting, first=form)
    check_agreement(seen, form)
    check_reported(seen, form)
