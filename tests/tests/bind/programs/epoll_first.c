// Adds its socket to epoll, edge-triggered, before it binds it, as event loops do that register a socket when they make
// it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void answer(int client)
{
	char text[512];

	if (read(client, text, sizeof(text)) > 0) {
		snprintf(text, sizeof(text), "HTTP/1.0 200 OK\r\n\r\npid=%d\n", (int)getpid());
		if (write(client, text, strlen(text)) < 0)
			perror("write");
	}
	close(client);
}

int main(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(3000) };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int on = 1, poll = epoll_create1(EPOLL_CLOEXEC);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	event.data.fd = listener;
	if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1024) < 0) {
		perror("epoll_first");
		return 1;
	}
	for (;;) {
		int client;

		if (epoll_wait(poll, &event, 1, -1) != 1)
			continue;
		while ((client = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
			answer(client);
	}
}
