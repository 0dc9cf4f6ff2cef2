// Sets options before it binds a TCP and a UDP socket, says afterwards what they are, and answers both: a datagram with
// the address that it was sent to.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct option {
	const char *name;
	int level, option, value;
};

static const struct option of_tcp[] = {
	{ "SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1 },
	{ "TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 1 },
	{ "TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, 5 },
	{ "TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 77 },
	{ "SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 50000 },
	{ "SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 3 },
	{ "IP_TOS", IPPROTO_IP, IP_TOS, 0x48 },
	{ "IP_TTL", IPPROTO_IP, IP_TTL, 55 },
};

static const struct option of_udp[] = {
	{ "IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, 1 },
	{ "SO_RXQ_OVFL", SOL_SOCKET, SO_RXQ_OVFL, 1 },
	{ "SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 70000 },
	{ "IP_TOS", IPPROTO_IP, IP_TOS, 0x28 },
};

static int opened(int type, const struct option *options, size_t count)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(3000) };
	int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	for (size_t at = 0; at < count; at++)
		if (setsockopt(fd, options[at].level, options[at].option, &options[at].value, sizeof(int)) < 0)
			perror(options[at].name);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || (type == SOCK_STREAM && listen(fd, 100) < 0)) {
		perror("options");
		_exit(1);
	}
	return fd;
}

static void say(const char *protocol, int fd, const struct option *options, size_t count)
{
	printf("%s", protocol);
	for (size_t at = 0; at < count; at++) {
		int value = 0;
		socklen_t length = sizeof(value);

		getsockopt(fd, options[at].level, options[at].option, &value, &length);
		printf(" %s=%d", options[at].name, value);
	}
	printf(" O_NONBLOCK=%d FD_CLOEXEC=%d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
}

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

static void answer_datagram(int fd)
{
	char text[512], control[512];
	struct sockaddr_in from;
	struct iovec data = { text, sizeof(text) };
	struct msghdr message = { &from, sizeof(from), &data, 1, control, sizeof(control), 0 };

	if (recvmsg(fd, &message, 0) < 0)
		return;
	snprintf(text, sizeof(text), "to=nobody knows");
	for (struct cmsghdr *it = CMSG_FIRSTHDR(&message); it; it = CMSG_NXTHDR(&message, it))
		if (it->cmsg_level == IPPROTO_IP && it->cmsg_type == IP_PKTINFO)
			snprintf(text, sizeof(text), "to=%s", inet_ntoa(((struct in_pktinfo *)CMSG_DATA(it))->ipi_addr));
	sendto(fd, text, strlen(text), 0, (struct sockaddr *)&from, sizeof(from));
}

#define COUNT(list) (sizeof(list) / sizeof(list[0]))

int main(void)
{
	int tcp = opened(SOCK_STREAM, of_tcp, COUNT(of_tcp)), udp = opened(SOCK_DGRAM, of_udp, COUNT(of_udp));
	struct pollfd both[] = { { tcp, POLLIN, 0 }, { udp, POLLIN, 0 } };

	say("options: tcp", tcp, of_tcp, COUNT(of_tcp));
	say(" udp", udp, of_udp, COUNT(of_udp));
	printf("\n");
	fflush(stdout);
	for (;;) {
		int client;

		poll(both, 2, -1);
		while ((client = accept4(tcp, NULL, NULL, SOCK_CLOEXEC)) >= 0)
			answer(client);
		if (both[1].revents)
			answer_datagram(udp);
	}
}
