"""Drives a real daemon from Python: client.py ADDRESS, such as unix:///run/piped/piped.sock.

The stubs come from protoc and grpc_python_plugin and are found through
PYTHONPATH. Says what it does and ends with 1 at the first thing that is not as
the contract has it. docs/api.md explains each step.
"""

import queue
import sys

import grpc
from google.protobuf.duration_pb2 import Duration
from piped.v1 import delivery_pb2 as delivery
from piped.v1 import framing_pb2 as framing
from piped.v1 import pipe_pb2 as pipe
from piped.v1 import pipe_pb2_grpc
from piped.v1 import server_pb2 as server
from piped.v1 import server_pb2_grpc
from piped.v1 import session_pb2 as session
from piped.v1 import session_pb2_grpc
from status_pb2 import ErrorInfo, Status

# No step takes this long; one that does fails instead of hanging.
DEADLINE = 60


class Mismatch(Exception):
    """The daemon did something else than the contract says."""


def check(what, got, want):
    if got != want:
        raise Mismatch(f"{what}: got {got!r}, want {want!r}")
    print(f"{what}: {got!r}")


def error_info(error):
    """The ErrorInfo of a failed call; empty where the error is not of piped."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info) and info.domain == "piped":
                    return info
    return ErrorInfo()


def check_refused(what, code, reason, call):
    """Call must fail so; returns the metadata of the error."""
    try:
        call()
    except grpc.RpcError as error:
        info = error_info(error)
        check(what, (error.code().name, info.reason), (code, reason))
        return dict(info.metadata)
    raise Mismatch(f"{what}: succeeded, want {code}/{reason}")


def after(batch, raw=False):
    """The position behind a batch: what acknowledges it."""
    at = delivery.Position()
    at.CopyFrom(batch.first)
    if raw:
        at.message += len(batch.data)
    elif batch.more:
        at.offset += len(batch.data)
    else:
        at.message += len(batch.sizes) or 1
        at.offset = 0
    return at


def payloads(batch):
    """The messages of a batch, one by one."""
    start = 0
    for size in batch.sizes or [len(batch.data)]:
        yield batch.data[start : start + size]
        start += size


class Receiver:
    """A consumer's Recv stream. Iterate over responses; acknowledge each batch."""

    def __init__(self, stub, **options):
        self.requests = queue.SimpleQueue()
        self.requests.put(pipe.RecvRequest(open=pipe.RecvOpen(**options)))
        self.responses = stub.Recv(iter(self.requests.get, None), timeout=DEADLINE)
        self.opened = next(self.responses).opened

    def acknowledge(self, batch):
        self.requests.put(pipe.RecvRequest(ack=pipe.RecvAck(position=after(batch))))

    def finish(self):
        """Ends the requests: without it the request thread would wait for ever."""
        self.requests.put(None)


class Client:
    def __init__(self, channel):
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.pipes = pipe_pb2_grpc.PipeServiceStub(channel)
        self.server = server_pb2_grpc.ServerServiceStub(channel)
        self.part_size = 0

    def create(self, **spec):
        request = session.CreateSessionRequest(**spec)
        return self.sessions.CreateSession(request, timeout=DEADLINE).session

    def write(self, endpoint, *messages, **options):
        request = pipe.WriteRequest(endpoint=endpoint, messages=messages, **options)
        return self.pipes.Write(request, timeout=DEADLINE)

    def read(self, endpoint, **options):
        request = pipe.ReadRequest(endpoint=endpoint, **options)
        return self.pipes.Read(request, timeout=DEADLINE)

    def poll(self, *endpoints):
        request = pipe.PollRequest(endpoints=endpoints, timeout=Duration())
        ready = self.pipes.Poll(request, timeout=DEADLINE).ready
        return [(r.index, r.data, r.end) for r in ready]

    def close(self, endpoint, **options):
        request = pipe.CloseRequest(endpoint=endpoint, **options)
        return [r.WhichOneof("response") for r in self.pipes.Close(request, timeout=DEADLINE)]

    def delete(self, name, **options):
        request = session.DeleteSessionRequest(session=name, **options)
        self.sessions.DeleteSession(request, timeout=DEADLINE)

    def get(self, name):
        request = session.GetSessionRequest(session=name)
        return self.sessions.GetSession(request, timeout=DEADLINE).session


def server_info(client):
    info = client.server.GetServerInfo(server.GetServerInfoRequest(), timeout=DEADLINE)
    client.part_size = info.limits.part_size
    check("part size is advertised", client.part_size > 0, True)


def bare_pipe(client):
    """Unary calls between the two ends of a pipe that the daemon holds."""
    made = client.create(name="python-pipe", pipes=[session.PipeSpec(framing_in=framing.Framing(name="mp"))])
    check("pipes of a bare pipe", [p.name for p in made.pipes], ["pipe"])
    one = session.EndpointRef(session=made.name, end=1)
    two = session.EndpointRef(session=made.name, pipe="pipe", end=2)

    check("poll before anything is sent", client.poll(one, two), [])
    client.write(one, b"first", b"", b"third")
    check("poll after three messages", client.poll(one, two), [(1, True, False)])

    got = client.read(two)
    check("read", (got.batch.first.message, got.batch.data), (1, b"first"))
    again = client.read(two)
    check("read again without an acknowledgement", (again.batch.first.message, again.batch.data), (1, b"first"))
    rest = client.read(two, acknowledge=got.next, auto_ack=True)
    check("read on after an acknowledgement", (rest.batch.first.message, rest.batch.data), (2, b""))
    rest = client.read(two, max_messages=10, auto_ack=True)
    check("read at most ten", list(payloads(rest.batch)), [b"third"])
    check("read with nothing there", client.read(two, timeout=Duration()).HasField("batch"), False)

    check("write by name", client.write(one, b"once", writer_id="w", sequence=1).expected.message, 2)
    check("the same again", client.write(one, b"once", writer_id="w", sequence=1).expected.message, 2)
    refused = check_refused("a message left out", "FAILED_PRECONDITION", "SEQUENCE_GAP",
                            lambda: client.write(one, b"far", writer_id="w", sequence=5))
    check("expected instead", refused["expected_message"], "2")
    check("written once", list(payloads(client.read(two, max_messages=10, auto_ack=True).batch)), [b"once"])

    check_refused("a name that is taken", "ALREADY_EXISTS", "SESSION_EXISTS",
                  lambda: client.create(name=made.name, pipes=[session.PipeSpec()]))
    check_refused("deleting what is in use", "FAILED_PRECONDITION", "SESSION_ACTIVE", lambda: client.delete(made.name))
    return one, two


def large_message(client, one, two):
    """16 MiB through a log of 4 MiB, so in parts and with both streams at work."""
    size = 16 << 20
    message = bytes(range(256)) * (size // 256)
    parts = range(0, size, client.part_size)

    def requests():
        yield pipe.SendRequest(open=pipe.SendOpen(endpoint=one, writer_id="large"))
        for offset in parts:
            data = message[offset : offset + client.part_size]
            yield pipe.SendRequest(batch=delivery.Batch(
                first=delivery.Position(message=1, offset=offset), data=data,
                more=offset + len(data) < size, total_size=size))

    sending = client.pipes.Send(requests(), timeout=DEADLINE)
    receiver = Receiver(client.pipes, endpoint=two, consumer_id="large")
    received, count = bytearray(), 0
    for response in receiver.responses:
        if response.WhichOneof("response") != "batch":
            continue
        batch = response.batch
        check_part(batch, len(received), client.part_size, size)
        received += batch.data
        count += 1
        receiver.acknowledge(batch)
        if not batch.more:
            break
    receiver.finish()
    check("parts of 16 MiB, at least as many as were sent", count >= len(parts), True)
    check("16 MiB arrived as they were sent", received == message, True)

    acks = [r.ack.position for r in sending if r.WhichOneof("response") == "ack"]
    check("last acknowledgement of Send", (acks[-1].message, acks[-1].offset), (2, 0))
    # The last acknowledgement was sent before the requests ended, so it counts.
    check_refused("a consumer that leaves before the end", "ABORTED", "DETACHED", lambda: list(receiver.responses))


def check_part(batch, offset, part_size, size):
    """Parts come in order, none larger than promised, and say the size of the whole."""
    if batch.first.offset != offset or len(batch.data) > part_size or batch.total_size != size:
        raise Mismatch(f"part at {batch.first.offset} with {len(batch.data)} bytes of {batch.total_size}, want one at {offset} of {size}")


def end_of_pipe(client, one, two):
    """Close, and the end that everybody at the other side gets."""
    client.write(one, b"last words")
    check("close and wait", client.close(one, wait=True)[-1], "closed")
    check("close again", client.close(one), [])
    check_refused("write after close", "FAILED_PRECONDITION", "ENDPOINT_CLOSED", lambda: client.write(one, b"late"))

    got = client.read(two, auto_ack=True)
    check("what was sent before close", bytes(got.batch.data), b"last words")
    check("poll at the end", [end for _, _, end in client.poll(two)], [True])
    refused = check_refused("read at the end", "OUT_OF_RANGE", "EOF", lambda: client.read(two))
    # Three, one, the large one, the last one: the end stands after all of them.
    check("the end tells its position", refused["message"], "7")
    client.close(two)
    client.delete(one.session, force=True)
    check_refused("a session that is gone", "NOT_FOUND", "SESSION_NOT_FOUND", lambda: client.get(one.session))


def process(client):
    """A program on a pipe: streams, half-close, end of stream, exit."""
    made = client.create(name="python-cat", process=session.ProcessSpec(args=["cat"]))
    check("pipes of a process", [p.name for p in made.pipes], ["stdio", "stderr"])
    stdio = session.EndpointRef(session=made.name)

    batch = delivery.Batch(first=delivery.Position(message=1), data=b"onetwothree", sizes=[3, 3, 5])
    requests = [pipe.SendRequest(open=pipe.SendOpen(endpoint=stdio, writer_id="w")), pipe.SendRequest(batch=batch)]
    responses = list(client.pipes.Send(iter(requests), timeout=DEADLINE))
    check("send is opened at", responses[0].opened.expected.message, 1)
    check("send is acknowledged up to", responses[-1].ack.position.message, 4)

    closed = client.close(stdio, send_only=True, wait=True)
    check("half-close", closed[-1], "closed")

    receiver = Receiver(client.pipes, endpoint=stdio, consumer_id="c", max_unacked_messages=2, max_batch_messages=2)
    check("framing", receiver.opened.framing, "line")
    lines, end = [], None
    for response in receiver.responses:
        if response.WhichOneof("response") == "batch":
            lines += payloads(response.batch)
            receiver.acknowledge(response.batch)
        elif response.WhichOneof("response") == "end":
            end = response.end
            # Everything is acknowledged, so the stream ends by itself, with OK.
    receiver.finish()
    check("lines that came back", lines, [b"one", b"two", b"three"])
    check("cause of the end", delivery.EndCause.Name(end.cause), "END_CAUSE_CLOSED")
    check("position and bytes of the end", (end.position.message, end.bytes), (4, len(b"one\ntwo\nthree\n")))
    check("status of the stream", receiver.responses.code(), grpc.StatusCode.OK)

    waited = client.sessions.WaitProcess(session.WaitProcessRequest(session=made.name), timeout=DEADLINE)
    check("exit", (waited.process.exit.WhichOneof("status"), waited.process.exit.code), ("code", 0))
    client.delete(made.name, force=True)
    check_refused("a session that is gone", "NOT_FOUND", "SESSION_NOT_FOUND", lambda: client.get(made.name))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: client.py ADDRESS")
    with grpc.insecure_channel(sys.argv[1]) as channel:
        client = Client(channel)
        server_info(client)
        one, two = bare_pipe(client)
        large_message(client, one, two)
        end_of_pipe(client, one, two)
        process(client)


if __name__ == "__main__":
    try:
        main()
    except Mismatch as mismatch:
        sys.exit(f"MISMATCH {mismatch}")
