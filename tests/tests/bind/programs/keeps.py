# An HTTP server that binds its address twice and listens on the second socket only; at SIGUSR1 on the first one, too.
import selectors
import signal
import socket
import sys

HOST = sys.argv[1]
SELECTOR = selectors.DefaultSelector()


def bound():
    it = socket.socket(socket.AF_INET6 if ':' in HOST else socket.AF_INET)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if ':' in HOST:
        it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    it.bind((HOST, 3000))
    return it


def listen(it):
    it.listen()
    SELECTOR.register(it, selectors.EVENT_READ)


kept, served = bound(), bound()
signal.signal(signal.SIGUSR1, lambda *_: listen(kept))
listen(served)
while True:
    for key, _ in SELECTOR.select():
        client, _ = key.fileobj.accept()
        client.recv(1000)
        client.sendall(b'HTTP/1.0 200 OK\r\n\r\nok')
        client.close()
