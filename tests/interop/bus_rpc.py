"""Speaks BUS/RT with the `busrt` package from PyPI, unmodified, to whatever answers at a local address.

usage: bus_rpc.py PATH_OR_HOST:PORT

Publishes, once where it may not, calls the engine, subscribes to news, prints {"ready": true}, is called once, hears one
frame, and prints what came of all that as one line of JSON.
"""

import json
import queue
import sys
import time

import busrt


def main():
    client = busrt.client.Client(sys.argv[1], "cli.host.1")
    # The package reads a closed connection as an empty frame for ever, so that the deadline is its own.
    deadline = time.monotonic() + 60
    client.timeout = 20
    client.connect()
    frames, calls = queue.Queue(), queue.Queue()
    rpc = busrt.rpc.Rpc(client)
    rpc.on_frame = frames.put

    def on_call(event):
        calls.put([event.method.decode(), event.frame.sender])
        return event.get_payload() * 2

    rpc.on_call = on_call

    def ask(frame, target=None):
        return client.send(target, frame).wait_completed(20)

    def publish(topic, qos):
        return ask(busrt.client.Frame("{}", tp=busrt.client.OP_PUBLISH, qos=qos), topic)

    published = [publish("events/process/start", qos) for qos in range(4)]
    denied = publish("secrets/x", 1)
    answer = rpc.call("engine", busrt.rpc.Request("double", b"ab")).wait_completed(20).get_payload().decode()
    try:
        rpc.call("stranger", busrt.rpc.Request("double", b"ab")).wait_completed(20)
        refused = None
    except busrt.rpc.RpcException as error:
        refused = error.rpc_error_code
    subscribe = busrt.client.Frame(tp=busrt.client.OP_SUBSCRIBE, qos=1)
    subscribe.topic = ["news/#"]
    if ask(subscribe) != busrt.client.RESPONSE_OK:
        raise SystemExit("the subscription was not confirmed")
    print(json.dumps({"ready": True}), flush=True)
    called = calls.get(timeout=deadline - time.monotonic())
    frame = frames.get(timeout=deadline - time.monotonic())
    heard = [frame.sender, frame.topic, frame.payload.decode()]
    told = {"published": published, "denied": denied, "answer": answer, "refused": refused, "called": called, "heard": heard}
    print(json.dumps(told), flush=True)


main()
