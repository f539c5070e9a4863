"""Speaks BUS/RT through TLS with the `busrt` package from PyPI, whose socket is wrapped by `ssl` and not otherwise touched.

usage: bus_tls.py PORT ANCHORS CERTIFICATE KEY

Publishes at each quality of service, once where it may not, sends to `engine`, subscribes to news, prints {"ready": true},
hears two frames, and prints what came of all that as one line of JSON.
"""

import json
import os
import queue
import socket
import ssl
import sys

import busrt


def main():
    port, anchors, certificate, key = sys.argv[1:5]
    context = ssl.create_default_context(cafile=anchors)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["busrt/1"])

    class Wrapped(socket.socket):
        """A socket that speaks TLS once it is connected."""

        def connect(self, address):
            super().connect(address)
            plain = socket.socket(fileno=os.dup(self.fileno()))
            plain.settimeout(30)
            self.tls = context.wrap_socket(plain, server_hostname="localhost")

        def recv(self, *args):
            return self.tls.recv(*args)

        def sendall(self, *args):
            return self.tls.sendall(*args)

        def close(self):
            self.tls.close()
            super().close()

    class Sockets:
        """What the package calls `socket`."""

        AF_UNIX, AF_INET, SOCK_STREAM = socket.AF_UNIX, socket.AF_INET, socket.SOCK_STREAM
        IPPROTO_TCP, TCP_NODELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY
        SOL_SOCKET, SO_SNDBUF, SO_RCVBUF = socket.SOL_SOCKET, socket.SO_SNDBUF, socket.SO_RCVBUF
        timeout = socket.timeout
        socket = Wrapped

    busrt.client.socket = Sockets
    frames = queue.Queue()
    client = busrt.client.Client(f"127.0.0.1:{port}", "cli.host.1")
    client.on_frame = frames.put
    client.connect()

    def ask(frame, target=None):
        return client.send(target, frame).wait_completed(20)

    published = []
    for qos in range(4):
        frame = busrt.client.Frame("{}", tp=busrt.client.OP_PUBLISH, qos=qos)
        published.append(ask(frame, "events/process/start"))
    denied = ask(busrt.client.Frame("{}", tp=busrt.client.OP_PUBLISH, qos=1), "secrets/x")
    ask(busrt.client.Frame("hello", qos=1), "engine")
    subscribe = busrt.client.Frame(tp=busrt.client.OP_SUBSCRIBE, qos=1)
    subscribe.topic = ["news/#"]
    if ask(subscribe) != busrt.client.RESPONSE_OK:
        raise SystemExit("the subscription was not confirmed")
    print(json.dumps({"ready": True}), flush=True)
    heard = [frames.get(timeout=30) for _ in range(2)]
    told = [[frame.sender, frame.topic, frame.payload.decode()] for frame in heard]
    print(json.dumps({"published": published, "denied": denied, "heard": told}), flush=True)


main()
