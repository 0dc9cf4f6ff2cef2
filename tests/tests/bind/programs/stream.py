# An HTTP server with asyncio streams that finishes what it has when it is told to end.
import asyncio
import os
import signal


async def answer(reader, writer):
    await reader.readuntil(b'\r\n\r\n')
    writer.write(b'HTTP/1.0 200 OK\r\n\r\npid=%d\n' % os.getpid())
    await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(answer, '127.0.0.1', 3000)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    server.close()
    await server.wait_closed()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)


asyncio.run(main())
