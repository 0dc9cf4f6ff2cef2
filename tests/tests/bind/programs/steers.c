// A server with two sockets on one address, which it gives a classic BPF program of its own at once, or at SIGUSR1 with
// the argument `later`: all goes to the second one. Answers each connection with the number of its socket.
#include <arpa/inet.h>
#include <linux/filter.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int sockets[2];

static void steer(int signal)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 1) };
	struct sock_fprog program = { .len = 1, .filter = code };

	(void)signal;
	if (setsockopt(sockets[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)) < 0)
		_exit(3);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(3000) };
	struct pollfd polls[2];
	int on = 1;

	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	for (int at = 0; at < 2; at++) {
		sockets[at] = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(sockets[at], SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
		if (bind(sockets[at], (struct sockaddr *)&address, sizeof(address)) < 0)
			return 2;
		listen(sockets[at], 64);
		polls[at] = (struct pollfd){ .fd = sockets[at], .events = POLLIN };
	}
	if (argc > 1 && !strcmp(argv[1], "later"))
		signal(SIGUSR1, steer);
	else
		steer(0);
	for (;;) {
		if (poll(polls, 2, -1) < 0)
			continue;
		for (int at = 0; at < 2; at++) {
			char answer[32];
			int client = polls[at].revents ? accept(sockets[at], NULL, NULL) : -1;

			if (client < 0)
				continue;
			snprintf(answer, sizeof(answer), "socket=%d\n", at);
			if (write(client, answer, strlen(answer)) < 0)
				return 4;
			close(client);
		}
	}
}
