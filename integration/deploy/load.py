"""Clients that append and read without a pause while a cluster is changed, and judge every answer.

Run as a process inside the machines' network: `load.py OUT ADDRESS...` until its standard input is closed. A client honours
Retry-After, goes on at another node where one refuses, and repeats an append under its producer's sequence, so that it is there
once. What it could not get done within PATIENCE_S, or what came back different from what was acknowledged, is a failure.
"""

import http.client
import json
import sys
import threading
import time

# More than groups, so that each group has something to do.
CLIENTS = 16
PATIENCE_S = 20
PAUSE_S = 0.1
PORT = 4437


class Client:
    """One producer with a stream of its own."""

    def __init__(self, number, addresses):
        self.path = f"/v1/stream/load/{number}-{time.time_ns()}"
        self.addresses = addresses
        self.at = number % len(addresses)
        self.connection = None
        self.acknowledged = []
        self.seen = {"done": 0, "put_off": 0, "broken": 0, "refused": 0}
        self.failures = []
        self.longest_s = 0.0

    def next_node(self):
        if self.connection:
            self.connection.close()
        self.connection = None
        self.at = (self.at + 1) % len(self.addresses)
        if self.at == 0:
            time.sleep(0.1)

    def once(self, method, path, headers, body):
        """One attempt: status, headers and body, or nothing where the node did not answer."""
        try:
            if self.connection is None:
                # Only a node that is gone takes so long to say yes.
                self.connection = http.client.HTTPConnection(self.addresses[self.at], PORT, timeout=2)
                self.connection.connect()
                self.connection.sock.settimeout(PATIENCE_S)
        except OSError:
            self.seen["refused"] += 1
            return None
        try:
            self.connection.request(method, path, body=body, headers=headers)
            reply = self.connection.getresponse()
            return reply.status, reply.headers, reply.read()
        except (OSError, http.client.HTTPException):
            self.seen["broken"] += 1
            return None

    def ask(self, method, path, headers=None, body=None):
        began = time.monotonic()
        while True:
            answer = self.once(method, path, headers or {}, body)
            took = time.monotonic() - began
            self.longest_s = max(self.longest_s, took)
            if answer and answer[0] != 503:
                self.seen["done"] += 1
                return answer
            if took > PATIENCE_S:
                raise AssertionError(f"{method} {path}: no answer in {took:.1f} s, the last was {answer and answer[0]}")
            if answer is None:
                self.next_node()
                continue
            self.seen["put_off"] += 1
            after = answer[1].get("Retry-After")
            if after is None:
                raise AssertionError(f"{method} {path}: 503 without Retry-After: {answer[2][:200]}")
            time.sleep(float(after))
            self.next_node()

    def run(self, stop):
        try:
            status, _headers, text = self.ask("PUT", self.path, {"Content-Type": "text/plain"})
            assert status in (200, 201), f"create: {status} {text[:200]}"
            while not stop.is_set():
                seq = len(self.acknowledged)
                body = f"{self.path}:{seq:08}\n".encode()
                headers = {"Content-Type": "text/plain", "Producer-Id": "load", "Producer-Epoch": "0", "Producer-Seq": str(seq)}
                status, _headers, text = self.ask("POST", self.path, headers, body)
                assert status in (200, 204), f"append {seq}: {status} {text[:200]}"
                self.acknowledged.append(body)
                if seq % 8 == 7:
                    self.read_back(8)
                time.sleep(PAUSE_S)
        except AssertionError as error:
            self.failures.append(str(error))

    def read_back(self, count):
        """The last of what was acknowledged, from whichever node this client is at."""
        start = sum(map(len, self.acknowledged[:-count]))
        status, _headers, text = self.ask("GET", f"{self.path}?offset={0:016}_{start:016}")
        wanted = b"".join(self.acknowledged[-count:])
        assert status == 200 and text == wanted, f"read at {start}: {status}, {text[:100]} is not {wanted[:100]}"

    def verify(self):
        """All that was acknowledged, once, from each node that answers."""
        wanted = b"".join(self.acknowledged)
        nodes = 0
        for address in self.addresses:
            try:
                found = self.whole(address)
            except OSError:
                continue
            nodes += 1
            if found != wanted:
                self.failures.append(f"{self.path} at {address}: {len(found)} bytes are not the {len(wanted)} acknowledged")
        return nodes

    def whole(self, address):
        found = b""
        while True:
            connection = http.client.HTTPConnection(address, PORT, timeout=10)
            connection.request("GET", f"{self.path}?offset={0:016}_{len(found):016}")
            reply = connection.getresponse()
            text = reply.read()
            connection.close()
            if reply.status == 503:
                time.sleep(0.2)
                continue
            found += text
            if reply.status != 200 or reply.headers.get("Stream-Up-To-Date") == "true":
                return found


def main():
    out, addresses = sys.argv[1], sys.argv[2:]
    stop = threading.Event()
    clients = [Client(number, addresses) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    nodes = min(client.verify() for client in clients)
    report = {
        "acknowledged": sum(len(c.acknowledged) for c in clients),
        "nodes_verified": nodes,
        "longest_s": round(max(c.longest_s for c in clients), 3),
        "failures": [f for c in clients for f in c.failures],
        **{key: sum(c.seen[key] for c in clients) for key in clients[0].seen},
    }
    with open(out, "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main()
