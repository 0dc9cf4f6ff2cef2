# Binds its address to see whether it is free, closes it, and only then listens, as scripts do that look for a port.
import http.server
import socket

with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(('127.0.0.1', 3000))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'ok')


http.server.HTTPServer(('127.0.0.1', 3000), Handler).serve_forever()
