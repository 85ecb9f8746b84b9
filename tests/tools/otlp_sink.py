"""A stand-in for an OTLP collector: takes spans over gRPC and writes one JSON line each.

usage: otlp_sink.py DIR      writes DIR/port when it listens, DIR/spans.jsonl as spans come; ids are hex strings
"""

import base64
import json
import pathlib
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

OUT = pathlib.Path(sys.argv[1])
LOCK = threading.Lock()


def attributes(pairs):
    return {pair["key"]: next(iter(pair.get("value", {}).values()), None) for pair in pairs or []}


def flat(span, resource, scope):
    for key in ("traceId", "spanId", "parentSpanId"):
        span[key] = base64.b64decode(span.get(key, "")).hex()
    for link in span.get("links", []):
        link["traceId"] = base64.b64decode(link.get("traceId", "")).hex()
        link["spanId"] = base64.b64decode(link.get("spanId", "")).hex()
    span["attributes"] = attributes(span.get("attributes"))
    span["resource"], span["scope"] = resource, scope
    return span


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        with LOCK, open(OUT / "spans.jsonl", "a") as out:
            for resource_spans in MessageToDict(request).get("resourceSpans", []):
                resource = attributes(resource_spans.get("resource", {}).get("attributes"))
                for scope_spans in resource_spans.get("scopeSpans", []):
                    scope = scope_spans.get("scope", {}).get("name", "")
                    for span in scope_spans.get("spans", []):
                        out.write(json.dumps(flat(span, resource, scope)) + "\n")
        return trace_service_pb2.ExportTraceServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(4))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Sink(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
(OUT / "port").write_text(str(port))
server.wait_for_termination()
