"""A consumer of a route with confirm = "consumer": it writes each event to a file, and answers when the disk has it.

usage: consumer.py SOCKET NAME FILE

Needs the packages `busrt` and `msgpack` from PyPI. One line of JSON an event; the same id may come twice (see confirm.md).
"""

import json
import os
import sys
import threading
import time

import busrt
import msgpack


class Consumer:
    def __init__(self, path):
        self.file = open(path, "ab", buffering=0)
        # Ends a line that a crash has cut off; it was never answered for.
        self.file.write(b"\n")
        # The package serves each call in a thread of its own.
        self.lock = threading.Lock()

    def on_call(self, event):
        if event.method != b"events.take":
            raise busrt.rpc.RpcException("no such method", busrt.rpc.RPC_ERROR_CODE_METHOD_NOT_FOUND)
        # Nobody else can have such a name at the gateway's door.
        if not event.frame.sender.startswith("daemoneye.confirm."):
            raise busrt.rpc.RpcException("not for you", -32000)
        batch = msgpack.unpackb(event.get_payload())
        lines = []
        for seq, topic, nanoseconds, payload in batch["events"]:
            line = {
                "id": f"{batch['stream']}/{seq}",
                "collector": batch["collector"],
                "topic": batch["topics"][topic],
                "time": nanoseconds,
                "payload": payload.decode(errors="replace"),
            }
            lines.append(json.dumps(line))
        with self.lock:
            self.file.write("".join(line + "\n" for line in lines).encode())
            os.fsync(self.file.fileno())
        # Returning is the answer "taken"; an exception is an error, and the batch comes again.


def main():
    socket, name, path = sys.argv[1:]
    consumer = Consumer(path)
    while True:
        try:
            client = busrt.client.Client(socket, name)
            rpc = busrt.rpc.Rpc(client)
            rpc.on_call = consumer.on_call
            client.connect()
            while client.is_connected():
                time.sleep(0.1)
        except (OSError, RuntimeError, IndexError):
            pass
        # The gateway is away, or still holds the name for the last connection.
        time.sleep(0.1)


main()
