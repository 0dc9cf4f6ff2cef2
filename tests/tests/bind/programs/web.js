// An HTTP server on a port of its own, alone or with `cluster`, that finishes what is in flight when it is told to end.
const cluster = require('cluster');
const http = require('http');

function serve() {
  const server = http.createServer((request, response) => response.end(`pid=${process.pid}\n`));
  server.listen(3000, '127.0.0.1');
  return server;
}

if (process.argv[2] === 'single') {
  const server = serve();
  process.on('SIGTERM', () => server.close());
} else if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
  process.on('SIGTERM', () => cluster.disconnect());
} else {
  serve();
}
