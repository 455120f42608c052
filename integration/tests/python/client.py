"""The official Python client, unmodified: create, append, read, tail, resume."""

import sys
import threading

from durable_streams import DurableStream, stream


def expect(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what}: {found!r}, not {wanted!r}")


url = f"{sys.argv[1]}/v1/stream/python/chat"
handle = DurableStream.create(url, content_type="application/json")
handle.append({"n": 1})
handle.append({"n": 2})
with stream(url, live=False) as response:
    expect("read", response.read_json(), [{"n": 1}, {"n": 2}])
offset = handle.head().offset
handle.append({"n": 3})
with stream(url, offset=offset, live=False) as response:
    expect("resume", response.read_json(), [{"n": 3}])

for live in ("sse", "long-poll"):
    tail = handle.head().offset
    threading.Timer(0.3, lambda: [handle.append({"n": 4}), handle.append({"n": 5})]).start()
    seen = []
    with stream(url, offset=tail, live=live) as response:
        for item in response.iter_json():
            seen.append(item)
            if len(seen) == 2:
                break
    expect(live, seen, [{"n": 4}, {"n": 5}])
print("all good")
