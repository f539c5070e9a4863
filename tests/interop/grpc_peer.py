"""Speaks to the gateway with `grpcio`, knowing nothing but what reflection tells.

usage: grpc_peer.py ADDRESS ANCHORS [CHAIN KEY]

Publishes one event by `Publish`, then three by a `Link`, and prints what it was told as one JSON object. Without a chain
it shows no certificate. Exit code 3: the gateway did not admit it.
"""

import json
import queue
import sys
import uuid

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "daemoneye.federation.v1.Federation"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def method(channel, service, name):
    found = service.methods_by_name[name]
    kinds = {(False, False): channel.unary_unary, (True, True): channel.stream_stream, (False, True): channel.unary_stream}
    request = message_factory.GetMessageClass(found.input_type)
    response = message_factory.GetMessageClass(found.output_type)
    make = kinds[(found.client_streaming, found.server_streaming)]
    call = make(f"/{SERVICE}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString)
    return request, call


def converse(channel, service):
    """Hello, a batch of three, and the ack of the last."""
    request, link = method(channel, service, "Link")
    stream = uuid.uuid4().bytes
    said = queue.Queue()
    hello = request()
    hello.hello.protocol = 1
    hello.hello.software = "grpcio"
    hello.hello.streams.add(stream=stream, **{"class": 1}, acked=0, next=1)
    said.put(hello)
    answers = link(iter(said.get, None), timeout=30)
    welcome = next(answers).welcome
    batch = request()
    batch.batch.stream = stream
    batch.batch.first_seq = 1
    batch.batch.topics.append("events.process.start")
    for n in range(3):
        batch.batch.events.add(topic=0, payload=json.dumps({"link": n}).encode())
    said.put(batch)
    acked = 0
    while acked < 3:
        answer = next(answers)
        if answer.WhichOneof("frame") == "ack":
            acked = answer.ack.acked
            assert not answer.ack.rejected, answer
    said.put(None)
    rest = [answer.WhichOneof("frame") for answer in answers]
    return {"peer": welcome.peer, "acked": acked, "after": rest, "code": answers.code().name}


def main():
    address, anchors, own = sys.argv[1], sys.argv[2], sys.argv[3:]
    chain, key = (read(own[0]), read(own[1])) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(read(anchors), key, chain)
    channel = grpc.secure_channel(address, credentials)
    try:
        grpc.channel_ready_future(channel).result(timeout=5)
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName(SERVICE)
        request, publish = method(channel, service, "Publish")
        answer = publish(request(topic="events.process.start", payload=b'{"publish": 1}'), timeout=20)
        denied = None
        try:
            publish(request(topic="control.shutdown", payload=b"{}"), timeout=20)
        except grpc.RpcError as error:
            denied = error.code().name
        print(json.dumps({"duplicate": answer.duplicate, "denied": denied, **converse(channel, service)}))
    except (grpc.FutureTimeoutError, grpc.RpcError, KeyError) as error:
        print(json.dumps({"refused": type(error).__name__}))
        raise SystemExit(3) from error


main()
