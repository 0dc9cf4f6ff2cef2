// An HTTP server on descriptor 3, alone or with `cluster`, that finishes what is in flight when it is told to end.
const cluster = require('cluster');
const http = require('http');

const [mode, seconds] = process.argv.slice(2);

function serve() {
  const slow = seconds * 1000;
  const server = http.createServer((request, response) =>
    setTimeout(() => response.end('ok'), request.url === '/slow' ? slow : 0));
  // In a worker of a cluster: that descriptor of the main process.
  server.listen({ fd: 3 });
  return server;
}

if (mode === 'single') {
  const server = serve();
  process.on('SIGTERM', () => server.close());
} else if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
  process.on('SIGTERM', () => cluster.disconnect());
} else {
  serve();
}
