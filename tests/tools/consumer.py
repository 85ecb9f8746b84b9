"""A processor in Python: works on events in a group (docs/consumers.md).

usage: consumer.py TARGET PROTO_DIR GROUP TYPE COUNT     until it has done COUNT events
prints one JSON list: [aggregate, number, deliveries] of each delivery, in the order in which they came
"""

import json
import pathlib
import queue
import sys
import tempfile

import grpc
from grpc_tools import protoc

TARGET, PROTO, GROUP, TYPE, COUNT = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])


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


class TryLater(Exception):
    pass


def work(event, deliveries):
    """What the processor is for. Here: the first event of all fails once."""
    if json.loads(event.data)["number"] == 1 and deliveries == 1:
        raise TryLater("not at the first time")


def consume(store, group, types, work, count):
    answers = queue.Queue()
    filter = pb.Filter(types=types)
    answers.put(pb.ConsumeRequest(start=pb.ConsumeStart(group=group, filter=filter, in_flight_max=8)))
    seen, done = [], 0
    for message in store.Consume(iter(answers.get, None), timeout=120):
        if message.WhichOneof("message") != "delivery":
            continue
        delivery = message.delivery
        id, event = delivery.delivery_id, delivery.event
        seen.append([event.aggregate_id, json.loads(event.data)["number"], delivery.deliveries])
        try:
            work(event, delivery.deliveries)
        except TryLater as error:
            nak = pb.ConsumeNak(delivery_id=id, reason=str(error))
            nak.delay.FromMilliseconds(100)
            answers.put(pb.ConsumeRequest(nak=nak))
        except Exception as error:
            answers.put(pb.ConsumeRequest(park=pb.ConsumePark(delivery_id=id, reason=repr(error))))
        else:
            answers.put(pb.ConsumeRequest(ack=pb.ConsumeAck(delivery_id=id)))
            done += 1
        if done == count:
            # The end of our side: what was answered is still taken, and the gateway ends its own.
            answers.put(None)
    return seen


with grpc.insecure_channel(TARGET) as channel:
    print(json.dumps(consume(pb_grpc.EventStoreStub(channel), GROUP, [TYPE], work, COUNT)))
