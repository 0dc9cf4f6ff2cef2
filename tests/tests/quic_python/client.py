"""Clients of QUIC (aioquic) that go on from another port before each of their messages: `client.py PORT CLIENTS
MESSAGES PATIENCE`. Each line of the output is a client's number, and who has answered it, or `broken` and why."""

import asyncio
import ssl
import sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

# Seconds after which a message is not answered any more, and between two messages.
PATIENCE = float(sys.argv[4])
PAUSE = 0.1


async def client(number, port, messages):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], verify_mode=ssl.CERT_NONE)
    protocol = QuicConnectionProtocol(QuicConnection(configuration=configuration))
    loop = asyncio.get_running_loop()

    async def from_new_port():
        # Tells `protocol` of the socket, which it sends by from then on.
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
        return transport

    current = await from_new_port()
    protocol.connect(("127.0.0.1", port))
    await asyncio.wait_for(protocol.wait_connected(), PATIENCE)
    for message in range(messages):
        await asyncio.sleep(PAUSE)
        former, current = current, await from_new_port()
        reader, writer = await protocol.create_stream()
        text = f"{number}:{message}"
        writer.write(text.encode())
        writer.write_eof()
        answer = (await asyncio.wait_for(reader.read(), PATIENCE)).decode().split()
        assert answer[0] == text, answer
        print(number, *answer[1:], flush=True)
        former.close()
    protocol.close()


async def main():
    port, clients, messages = map(int, sys.argv[1:4])

    async def one(number):
        try:
            await client(number, port, messages)
        except Exception as error:
            print(number, "broken", repr(error), flush=True)

    await asyncio.gather(*map(one, range(clients)))


asyncio.run(main())
