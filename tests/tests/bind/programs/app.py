# One application for two interfaces of Python's servers, which answers with its process id; `slow` takes a second for it.
import asyncio
import os


def wsgi(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"pid={os.getpid()}\n".encode()]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"pid={os.getpid()}\n".encode()})


async def slow(scope, receive, send):
    if scope["type"] == "http":
        await asyncio.sleep(1)
    await asgi(scope, receive, send)
