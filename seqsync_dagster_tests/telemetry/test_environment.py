"""What OpenTelemetry's variables ask for, and whose span a run stands under."""

from __future__ import annotations

import pytest

from seqsync_dagster.telemetry.environment import PATIENCE_S, address, timeout, wanted
from seqsync_dagster.telemetry.identity import Caller, caller, identity

ALL = {"traces", "metrics", "logs"}
BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({}, set()),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_EXPORTER": "otlp"}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, set()),
        (BASE, ALL),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://collector/v1/logs"}, {"logs"}),
        (BASE | {"OTEL_METRICS_EXPORTER": "none"}, {"traces", "logs"}),
        (BASE | {"OTEL_TRACES_EXPORTER": "console, otlp", "OTEL_LOGS_EXPORTER": "console"}, {"traces", "metrics"}),
        (BASE | {"OTEL_SDK_DISABLED": "True"}, set()),
        (BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ALL),
        (BASE | {"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, {"traces", "logs"}),
    ],
)
def test_which_signals_are_sent(environ: dict[str, str], signals: set[str]) -> None:
    assert wanted(environ).signals == signals


def test_a_protocol_that_is_not_spoken_is_named_once() -> None:
    [remark] = wanted(BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).remarks
    assert remark.startswith("OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', and only http/protobuf")
    assert wanted(BASE).remarks == ()


def test_an_address_is_told_without_what_may_be_secret() -> None:
    named = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://user:pass@in.example.com/key-123/v1/logs?token=x"}
    assert address(BASE | named, "logs") == "in.example.com"
    assert address(BASE | named, "traces") == "collector:4318"
    assert address({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"}, "logs") == "the address in OTEL_EXPORTER_OTLP_ENDPOINT"
    assert address({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:b:c"}, "logs").startswith("the address in")


def test_a_request_is_never_waited_for_longer_than_a_sync_can_bear() -> None:
    assert timeout({}, "logs") == PATIENCE_S
    assert timeout({"OTEL_EXPORTER_OTLP_TIMEOUT": "30"}, "logs") == PATIENCE_S
    assert timeout({"OTEL_EXPORTER_OTLP_TIMEOUT": "30", "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "0.5"}, "logs") == 0.5
    assert timeout({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "logs") == PATIENCE_S


TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_every_process_of_a_run_finds_the_same_ids() -> None:
    assert identity("run", "crm") == identity("run", "crm")
    assert identity("run", "crm").trace == identity("run", "erp").trace
    assert identity("run", "crm").root_id != identity("run", "erp").root_id
    assert identity("run", "crm").trace != identity("other", "crm").trace
    above = Caller(int(TRACE_ID, 16), int(SPAN_ID, 16), sampled=True)
    assert identity("run", "crm", above).trace == TRACE_ID


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", True),
        (f" 00-{TRACE_ID}-{SPAN_ID}-00 ", False),
        (f"01-{TRACE_ID}-{SPAN_ID}-03-more", True),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01", None),
        (f"00-{'0' * 32}-{SPAN_ID}-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", None),
        ("", None),
        (None, None),
    ],
)
def test_a_traceparent_is_read_as_w3c_writes_it(text: str | None, sampled: bool | None) -> None:
    found = caller(text)
    assert (found.sampled if found else None) is sampled
    assert found is None or (f"{found.trace_id:032x}", f"{found.span_id:016x}") == (TRACE_ID, SPAN_ID)
