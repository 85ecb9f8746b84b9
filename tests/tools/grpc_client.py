"""A client of the gateway with stubs made by grpcio-tools from proto/, as a user of Python would make them.

usage: grpc_client.py TARGET PROTO_DIR turn SESSION TEXT     one whole turn, as every call of the service shows it
       grpc_client.py TARGET PROTO_DIR read TYPE             all events of a type
       grpc_client.py TARGET PROTO_DIR follow TYPE AFTER LAST
                      events of a type behind a position, as they come and through outages, until LAST of them are there
       grpc_client.py TARGET PROTO_DIR malformed             what bad requests get
prints one JSON value
"""

import json
import pathlib
import sys
import tempfile
import time

import grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

TARGET, PROTO = sys.argv[1], pathlib.Path(sys.argv[2])
LIMIT = 60


def stubs():
    out = tempfile.mkdtemp()
    files = [str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto")]
    bundled = str(pathlib.Path(protoc.__file__).parent / "_proto")
    arguments = ["protoc", f"-I{PROTO}", f"-I{bundled}", f"--python_out={out}", f"--grpc_python_out={out}", *files]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, out)
    from causeway.v1 import event_store_pb2, event_store_pb2_grpc

    return event_store_pb2, event_store_pb2_grpc


pb, pb_grpc = stubs()
channel = grpc.insecure_channel(TARGET, options=[("grpc.max_send_message_length", 64 << 20)])
store = pb_grpc.EventStoreStub(channel)


def event(message):
    """An event in the shape that HTTP gives."""
    whole = MessageToDict(message, preserving_proto_field_name=True)
    whole["position"] = message.position
    # MessageToDict leaves zeros at the end away.
    whole["timestamp"] = f"{message.timestamp.ToDatetime().isoformat(timespec='microseconds')}Z"
    whole["data"] = json.loads(message.data)
    return whole


def turn(session, text):
    new = pb.NewEvent(
        type="MessageReceived",
        aggregate_id=session,
        data=json.dumps({"content": text}).encode(),
        metadata=pb.Metadata(source="python"),
    )
    request = pb.AppendRequest(events=[new], idempotency_key=f"{session}-1")
    first = store.Append(request, timeout=LIMIT)
    again = store.Append(request, timeout=LIMIT)
    subscribed, caught_up = [], 0
    stream = store.Subscribe(pb.SubscribeRequest(filter=pb.Filter(aggregate_id=session), deltas=True), timeout=LIMIT)
    deltas = []
    for update in stream:
        kind = update.WhichOneof("update")
        if kind == "event":
            subscribed.append(event(update.event))
        elif kind == "caught_up":
            caught_up += 1
        elif kind == "delta":
            deltas.append(update.delta.text)
        if subscribed and subscribed[-1]["type"] == "AIProcessingCompleted":
            stream.cancel()
            break
    filter = pb.Filter(aggregate_id=session)
    read = [event(r.event) for r in store.Read(pb.ReadRequest(filter=filter), timeout=LIMIT)]
    backwards = [event(r.event) for r in store.Read(pb.ReadRequest(filter=filter, order=pb.ORDER_BACKWARDS, limit=2), timeout=LIMIT)]
    tools = [event(r.event) for r in store.Read(pb.ReadRequest(filter=pb.Filter(aggregate_id=session, types=["Tool*"])), timeout=LIMIT)]
    got = [event(store.Get(pb.GetRequest(id=e["id"]), timeout=LIMIT).event) for e in read]
    by_position = [event(store.Get(pb.GetRequest(id=str(e["position"])), timeout=LIMIT).event) for e in read]
    view = pb.ProjectRequest(view="conversation", id=session, min_position=read[-1]["position"])
    now = store.Project(view, timeout=LIMIT)
    then = store.Project(pb.ProjectRequest(view="conversation", id=session, as_of=read[0]["id"]), timeout=LIMIT)
    return {
        "append": {"id": first.events[0].id, "position": first.events[0].position, "duplicate": first.duplicate},
        "again": {"id": again.events[0].id, "position": again.events[0].position, "duplicate": again.duplicate},
        "subscribed": subscribed,
        "caught_up": caught_up,
        "deltas": deltas,
        "read": read,
        "backwards": backwards,
        "tools": tools,
        "got": got,
        "by_position": by_position,
        "now": {"position": now.position, "state": json.loads(now.state)},
        "then": {"position": then.position, "state": json.loads(then.state)},
    }


def read(kind):
    return [event(r.event) for r in store.Read(pb.ReadRequest(filter=pb.Filter(types=[kind])), timeout=LIMIT)]


def follow(kind, after, last):
    """Subscribes, and again behind the newest event that came whenever the subscription breaks."""
    seen, position, breaks = [], int(after), 0
    deadline = time.monotonic() + 5 * LIMIT
    while len(seen) < int(last):
        if deadline < time.monotonic():
            sys.exit(f"{len(seen)} of {last} events came, through {breaks} breaks")
        request = pb.SubscribeRequest(filter=pb.Filter(types=[kind]), after=str(position))
        try:
            stream = store.Subscribe(request, timeout=LIMIT)
            for update in stream:
                if update.WhichOneof("update") != "event":
                    continue
                seen.append(event(update.event))
                position = update.event.position
                if len(seen) == int(last):
                    stream.cancel()
                    break
        except grpc.RpcError:
            breaks += 1
            time.sleep(0.1)
    return {"events": seen, "breaks": breaks}


def refusal(call):
    """How a call ends: the status, the fields that BadRequest names, the reason of ErrorInfo."""
    try:
        answer = call()
        if hasattr(answer, "__next__"):
            next(answer, None)
            answer.cancel()
        return {"code": "OK"}
    except grpc.RpcError as error:
        fields, reason = [], None
        for key, value in error.trailing_metadata() or []:
            if key != "grpc-status-details-bin":
                continue
            for detail in status_pb2.Status.FromString(value).details:
                bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
                if detail.Unpack(bad):
                    fields += [violation.field for violation in bad.field_violations]
                if detail.Unpack(info):
                    reason = info.reason
        return {"code": error.code().name, "message": error.details(), "fields": fields, "reason": reason}


def malformed():
    good = {"type": "Noted", "aggregate_id": "a", "data": b"{}", "metadata": pb.Metadata(source="python")}

    def append(**changes):
        new = pb.NewEvent(**{**good, **changes})
        return lambda: store.Append(pb.AppendRequest(events=[new]), timeout=LIMIT)

    def many(n):
        return lambda: store.Append(pb.AppendRequest(events=[pb.NewEvent(**good)] * n), timeout=LIMIT)

    def fenced(**expected):
        request = pb.AppendRequest(events=[pb.NewEvent(**good)], expected=[pb.Expected(**expected)])
        return lambda: store.Append(request, timeout=LIMIT)

    def keyed(key):
        return lambda: store.Append(pb.AppendRequest(events=[pb.NewEvent(**good)], idempotency_key=key), timeout=LIMIT)

    def read(**fields):
        return lambda: store.Read(pb.ReadRequest(**fields), timeout=LIMIT)

    def subscribe(**fields):
        return lambda: store.Subscribe(pb.SubscribeRequest(**fields), timeout=LIMIT)

    def project(**fields):
        return lambda: store.Project(pb.ProjectRequest(**fields), timeout=LIMIT)

    def raw(method, body):
        call = channel.unary_unary(f"/causeway.v1.EventStore/{method}")
        return lambda: call(body, timeout=LIMIT)

    cases = {
        "no events": many(0),
        "1001 events": many(1001),
        "no type": append(type=""),
        "lower case type": append(type="noted"),
        "long type": append(type="N" * 65),
        "type with a dot": append(type="Noted.Twice"),
        "no aggregate": append(aggregate_id=""),
        "long aggregate": append(aggregate_id="a" * 129),
        "control character in the aggregate": append(aggregate_id="a\nb"),
        "NUL in the aggregate": append(aggregate_id="a\0b"),
        "no data": append(data=b""),
        "broken data": append(data=b"{"),
        "data that is not UTF-8": append(data=b'"\xff"'),
        "deep data": append(data=b"[" * 5000 + b"]" * 5000),
        "big data": append(data=b'"' + b"x" * (600 << 10) + b'"'),
        "known type without its content": append(type="MessageReceived", data=b"{}"),
        "known type with a wrong field": append(type="MessageReceived", data=b'{"content": 1}'),
        "control character in the source": append(metadata=pb.Metadata(source="a\tb")),
        "bad cause": append(metadata=pb.Metadata(source="s", causation_id="nonsense")),
        "long correlation": append(metadata=pb.Metadata(source="s", correlation_id="c" * 129)),
        "control character in the correlation": append(metadata=pb.Metadata(source="s", correlation_id="a\nb")),
        "unknown category in a fence": fenced(category="nonsense", position=0),
        "long key": keyed("k" * 1000),
        "control character in the key": keyed("a\nb"),
        "bad cursor": read(after="nonsense"),
        "negative cursor": read(before="-1"),
        "unknown order": read(order=9),
        "bad type pattern": read(filter=pb.Filter(types=["*a*"])),
        "unknown category": read(filter=pb.Filter(category="nonsense")),
        "bad subscription cursor": subscribe(after="nonsense"),
        "both starts of a subscription": subscribe(after="1", from_now=True),
        "deltas of nobody": subscribe(deltas=True, from_now=True),
        "no id": lambda: store.Get(pb.GetRequest(), timeout=LIMIT),
        "bad id": lambda: store.Get(pb.GetRequest(id="nonsense"), timeout=LIMIT),
        "unknown id": lambda: store.Get(pb.GetRequest(id="evt_00000000000000000000000000"), timeout=LIMIT),
        "unknown position": lambda: store.Get(pb.GetRequest(id="999999999"), timeout=LIMIT),
        "unknown view": project(view="nonsense", id="a"),
        "no view": project(id="a"),
        "no projection id": project(view="conversation"),
        "bad moment": project(view="conversation", id="a", as_of="yesterday"),
        "not a protobuf": raw("Append", b"\xff\xff\xff\xff"),
        "unknown method": raw("Nonsense", b""),
        "huge message": lambda: store.Append(
            pb.AppendRequest(events=[pb.NewEvent(**{**good, "data": b'"' + b"x" * (20 << 20) + b'"'})]), timeout=LIMIT
        ),
    }
    answers = {name: refusal(call) for name, call in cases.items()}
    answers["alive"] = refusal(append())
    return answers


commands = {"turn": turn, "read": read, "follow": follow, "malformed": malformed}
print(json.dumps(commands[sys.argv[3]](*sys.argv[4:])))
