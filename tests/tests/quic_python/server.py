"""A server of QUIC (aioquic), as a worker like any other: `server.py CERTIFICATE KEY`, two PEM files. It answers each
stream with what it got and who it is. Its connection ids name it, by the variable that AWS's load balancers give."""

import asyncio
import base64
import os
import socket
import sys
import types

from aioquic.asyncio.server import QuicServer
from aioquic.quic import connection
from aioquic.quic.configuration import QuicConfiguration

# Bytes of its connection ids: a first octet, eight of the server id, and its own.
LENGTH = 15


def random(count):
    made = os.urandom(count)
    server_id = os.environ.get("AWS_LBC_QUIC_SERVER_ID")
    if count != LENGTH or server_id is None:
        return made
    # Not all of the upper three bits: such an id would name nobody.
    return bytes([made[0] & 0x1F]) + base64.b64decode(server_id) + made[9:]


# The one thing that it asks its system for is random bytes, those of connection ids among them.
connection.os = types.SimpleNamespace(urandom=random)


async def answer(reader, writer):
    text = await reader.read()
    who = f"\nworker={os.environ['REUSEPORT_LB_WORKER']}\npid={os.getpid()}\n"
    writer.write(text + who.encode())
    writer.write_eof()


async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"], connection_id_length=LENGTH)
    configuration.load_cert_chain(*sys.argv[1:3])
    loop = asyncio.get_running_loop()

    def server():
        handler = lambda reader, writer: loop.create_task(answer(reader, writer))
        return QuicServer(configuration=configuration, stream_handler=handler)

    await loop.create_datagram_endpoint(server, sock=socket.socket(fileno=3))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    await asyncio.Event().wait()


asyncio.run(main())
