# An HTTP server with a socket of its own on the address that others have as well (SO_REUSEPORT), and one of UDP that echoes
# with its process id.
import asyncio
import os
import sys

PID = b'pid=%d\n' % os.getpid()


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(PID + data, address)


async def answer(reader, writer):
    await reader.readuntil(b'\r\n\r\n')
    writer.write(b'HTTP/1.0 200 OK\r\n\r\n' + PID)
    await writer.drain()
    writer.close()


async def main():
    loop = asyncio.get_running_loop()
    at = ('127.0.0.1', 3000)
    if 'udp' in sys.argv:
        await loop.create_datagram_endpoint(Echo, local_addr=at, reuse_port=True)
    server = await asyncio.start_server(answer, *at, reuse_port='alone' not in sys.argv)
    await server.serve_forever()


asyncio.run(main())
