"""Hears a BUS/RT broker with the `busrt` package from PyPI and prints each frame as a JSON line.

usage: bus_listen.py SOCKET NAME COUNT PATTERN...

Prints {"ready": true} once subscribed, then {"sender", "topic", "payload"} for each publish frame, and ends after COUNT.
"""

import json
import queue
import sys

import busrt


def main():
    socket, name, count, patterns = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    frames = queue.Queue()
    client = busrt.client.Client(socket, name)
    client.on_frame = frames.put
    client.connect()
    # The package's own subscribe() asks for no confirmation, and nothing may be published before there is one.
    subscribe = busrt.client.Frame(tp=busrt.client.OP_SUBSCRIBE, qos=1)
    subscribe.topic = patterns
    if client.send(None, subscribe).wait_completed(10) != busrt.client.RESPONSE_OK:
        raise SystemExit("the subscription was not confirmed")
    print(json.dumps({"ready": True}), flush=True)
    heard = 0
    while heard < count:
        frame = frames.get(timeout=60)
        if frame.type != busrt.client.OP_PUBLISH:
            continue
        print(json.dumps({"sender": frame.sender, "topic": frame.topic, "payload": frame.payload.decode()}), flush=True)
        heard += 1
    client.disconnect()


main()
