"""A stock gRPC client asks a node how it is, and introduces itself wrongly. Argument: host:port of the node's cluster
address."""

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


def number(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(fields):
    """The bytes of a message of numbers and texts."""
    out = b""
    for key, values in sorted(fields.items()):
        for value in values:
            if isinstance(value, int):
                out += number(key << 3) + number(value)
            else:
                out += number(key << 3 | 2) + number(len(value)) + value
    return out


def introduce(channel, hello):
    """What a node says to who introduces itself so: Envelope { hello }."""
    plain = {"request_serializer": lambda m: m, "response_deserializer": lambda m: m}
    exchange = channel.stream_stream("/ursula.peer.v1.Peer/Exchange", **plain)
    try:
        list(exchange(iter([b"\x0a" + number(len(hello)) + hello]), timeout=10))
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("it was taken for a node")


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
    # And two that are taken: change_members { drain: the node }, and { undrain: the node }.
    for change in (5, 6):
        order = message({3: [message({change: [node[3][0]]})]})
        done = fields(call(channel, "Administer", order))
        assert str(node[3][0]) in done[1][0].decode(), (change, done)
    code, text = refusal(channel, "FetchCheckpoint", b"")
    assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, text)

    # Introductions of nodes that differ, in a field of Hello: each is refused with both values. Of one that differs in nothing,
    # the data directory is not the known one.
    name = node[2][0].decode()
    other = 1 + node[3][0] % 3
    for key, value, words in [
        (1, 99, ["version is 1 here", "99 at"]),
        (2, b"elsewhere", [f'cluster_id is "{name}" here', '"elsewhere" at']),
        (5, 5, [f"group_count is {node[5][0]} here", "5 at"]),
        (10, 77, [f"commands_version is {node[10][0]} here", "77 at"]),
        (13, 12345, [f"election_timeout_ms is {node[13][0]} here", "12345 at"]),
        (3, node[3][0], [f"node_id is {node[3][0]} here", "two nodes cannot share it"]),
        (3, 0, ["node_id is 0"]),
        (3, other, [f"node {other} has another data directory"]),
    ]:
        # Its data directory and its raft id.
        hello = {**node, 4: [b"not its own data"], 12: [other], 3: [other], key: [value]}
        code, text = introduce(channel, message(hello))
        assert code == grpc.StatusCode.FAILED_PRECONDITION, (key, code, text)
        assert all(word in text for word in words), (key, text, words)
    # Nonsense instead of an introduction, and nothing.
    for hello in [b"\xff" * 40, b""]:
        code, text = introduce(channel, hello)
        assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION), (code, text)

print("all good")
