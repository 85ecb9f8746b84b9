"""Reads the log with nats-py and the CloudEvents SDK: no code of Causeway.

usage: read_stream.py NATS_URL STREAM SUBJECTS COUNT      prints a JSON list of what the SDK made of each message
"""

import asyncio
import json
import sys

import nats
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from nats.js.api import ConsumerConfig, DeliverPolicy


async def main(url, stream, subjects, count):
    client = await nats.connect(url)
    subscription = await client.jetstream().subscribe(
        subjects, stream=stream, ordered_consumer=True, config=ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    )
    seen = []
    for _ in range(int(count)):
        message = await subscription.next_msg(timeout=30)
        parsed = from_http_event(HTTPMessage(headers=dict(message.headers), body=message.data))
        attributes = {name: str(value) for name, value in parsed.get_attributes().items()}
        plain = json.loads(message.data)
        seen.append({
            "subject": message.subject,
            "position": message.metadata.sequence.stream,
            "attributes": attributes,
            "headers": {name.lower(): value for name, value in message.headers.items()},
            "data": plain,
            "sdk_agrees": parsed.get_data() == plain,
        })
    await client.close()
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
