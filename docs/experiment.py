#!/usr/bin/env python3
"""100 connections, one worker of which is stopped and then killed with a full queue: who answers?

With three acceptors on plain SO_REUSEPORT that it starts itself:   docs/experiment.py plain
With a worker of a running service, on 127.0.0.1:3000 (as root):    docs/experiment.py WORKER
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

PLAIN = ("127.0.0.1", 3001)
OURS = ("127.0.0.1", 3000)


def acceptor(number):
    """Listens on a socket of its own, and answers each connection."""
    listener = socket.create_server(PLAIN, reuse_port=True, backlog=1024)
    while True:
        client, _ = listener.accept()
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\nworker=%d pid=%d\n" % (number, os.getpid()))
        client.close()


def start_acceptors():
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            acceptor(number)
        pids.append(pid)
        # Until its socket listens (state 0A) on port 0BB9.
        while sum(line.split()[1].endswith(":0BB9") and line.split()[3] == "0A"
                  for line in open("/proc/net/tcp")) < number + 1:
            time.sleep(0.01)
    return pids


def process_of(worker):
    status = json.loads(subprocess.check_output(["reuseport-lb", "status", worker, "--json"]))
    return status["services"][0]["workers"][0]["pid"]


def ask(to, victim):
    os.kill(victim, signal.SIGSTOP)  # it accepts nothing any more
    clients = [socket.create_connection(to) for _ in range(100)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    os.kill(victim, signal.SIGKILL)  # and dies with a full queue
    answers = {}
    for client in clients:
        try:
            body = client.makefile().read().split("\n\n", 1)[1]
            who = " ".join(body.split()[:2])
        except OSError as error:
            who = error.strerror
        answers[who] = answers.get(who, 0) + 1
    for who, count in sorted(answers.items()):
        print(count, who)


if len(sys.argv) != 2:
    sys.exit(__doc__)
if sys.argv[1] == "plain":
    acceptors = start_acceptors()
    ask(PLAIN, acceptors[2])
    for pid in acceptors[:2]:
        os.kill(pid, signal.SIGKILL)
else:
    ask(OURS, process_of(sys.argv[1]))
