"""A stock gRPC client asks a node how it is. Argument: host:port of the node's cluster address."""

import sys

import grpc


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """The fields of a protobuf message, by number; enough of the format for a StatusReply."""
    found, at = {}, 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"wire type {key & 7}")
        found.setdefault(key >> 3, []).append(value)
    return found


def call(channel, method, request, **options):
    plain = {"request_serializer": lambda m: m, "response_deserializer": lambda m: m}
    return channel.unary_unary(f"/ursula.peer.v1.Peer/{method}", **plain)(
        request, timeout=10, **options
    )


def refusal(channel, method, request, **options):
    try:
        call(channel, method, request, **options)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"{method} was answered")


with grpc.insecure_channel(sys.argv[1]) as channel:
    # StatusRequest { with_groups: true }
    reply = fields(call(channel, "Status", b"\x08\x01"))
    node = fields(reply[1][0])
    assert node[1] == [1], f"version of the protocol: {node}"
    assert node[3][0] >= 1, f"node_id: {node}"
    assert node[2][0], f"cluster_id: {node}"
    print("node", node[3][0], "of cluster", node[2][0].decode(), "groups", len(reply.get(3, [])))

    # StatusRequest { with_groups: true, with_hashes: true }: the hash is field 8 of a group.
    assert all(8 not in fields(group) for group in reply[3])
    hashed = fields(call(channel, "Status", b"\x08\x01\x10\x01"))
    assert all(fields(group)[8][0] != 0 for group in hashed[3])

    # Empty messages are messages.
    assert fields(call(channel, "Status", b""))[1]

    code, text = refusal(channel, "Reboot", b"")
    assert code == grpc.StatusCode.UNIMPLEMENTED and "Reboot" in text, (code, text)
    code, text = refusal(channel, "Status", b"\xff" * 9)
    assert code == grpc.StatusCode.INTERNAL, (code, text)
    code, text = refusal(channel, "Status", b"\x08\x01" * 1000, compression=grpc.Compression.Gzip)
    assert code == grpc.StatusCode.UNIMPLEMENTED and "gzip" in text, (code, text)
    # Orders: garbage, none at all, one that nobody knows yet (field 15), and one that makes no sense.
    code, text = refusal(channel, "Administer", b"\xff" * 9)
    assert code == grpc.StatusCode.INTERNAL, (code, text)
    for order in [b"", b"\x7a\x00"]:
        code, text = refusal(channel, "Administer", order)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "order" in text, (code, text)
    # change_members { replace: 77 }
    code, text = refusal(channel, "Administer", b"\x1a\x02\x20\x4d")
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "77" in text, (code, text)
    code, text = refusal(channel, "FetchCheckpoint", b"")
    assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, text)

print("all good")
