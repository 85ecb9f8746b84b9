"""Posts events with the official CloudEvents SDK, in each of its forms, and prints the gateway's answers."""

import json
import sys
import urllib.request

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent


def event(number):
    attributes = {
        "id": str(number), "source": "/python/sdk", "type": "OrderPlaced", "specversion": "1.0", "subject": "order é 7",
        "datacontenttype": "application/json", "tenant": "t1",
    }
    return CloudEvent(attributes, {"total": number, "note": "ünï"})


def post(url, message):
    request = urllib.request.Request(url, data=bytes(message.body), headers=message.headers, method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


url = sys.argv[1] + "/events"
print(json.dumps({
    "structured": post(url, to_structured_event(event(1), JSONFormat())),
    "binary": post(url, to_binary_event(event(2), JSONFormat())),
    "binary_again": post(url, to_binary_event(event(1), JSONFormat())),
}))
