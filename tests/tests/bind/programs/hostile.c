/* Tries to get more than its service has: port 80 of 127.0.0.1. While threads bind sockets, another one writes other addresses
 * into the memory that the address is read from, and another one puts other files at the numbers of the sockets. It says how
 * many were bound to what the service has, refused, and bound to anything else; then it listens and answers. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 16 };

static struct sockaddr_in shared;
static atomic_int over, victim = -1, right, refused, wrong;
static int count;

static struct sockaddr_in at(const char *host, int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, host, &address.sin_addr);
	return address;
}

/* Binds a socket, and looks to what. */
static void try(const struct sockaddr_in *address, int number)
{
	struct sockaddr_in got;
	socklen_t length = sizeof(got);
	int bound = bind(number, (const struct sockaddr *)address, sizeof(*address));
	if (bound < 0 || getsockname(number, (struct sockaddr *)&got, &length) < 0) {
		refused++;
	} else if (got.sin_port == htons(80) && got.sin_addr.s_addr == htonl(INADDR_LOOPBACK)) {
		right++;
	} else if (ntohs(got.sin_port) < 1024 && got.sin_port != 0) {
		wrong++;
	}
}

static void *change_address(void *unused)
{
	while (!over) {
		shared.sin_port = htons(81);
		shared.sin_port = htons(80);
		shared.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
		shared.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	}
	return unused;
}

static void *change_files(void *unused)
{
	int other = open("/dev/null", O_RDONLY);
	while (!over) {
		int number = victim;
		if (number >= 0)
			dup2(other, number);
	}
	return unused;
}

static void *bind_all(void *unused)
{
	struct sockaddr_in own = at("127.0.0.1", 80);
	for (int turn = 0; turn < count / THREADS; turn++) {
		int number = socket(AF_INET, SOCK_STREAM, 0);
		try(turn % 2 ? &own : &shared, number);
		close(number);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS], address, files;
	count = argc > 1 ? atoi(argv[1]) : THREADS;
	shared = at("127.0.0.1", 80);
	pthread_create(&address, NULL, change_address, NULL);
	for (int thread = 0; thread < THREADS; thread++)
		pthread_create(&threads[thread], NULL, bind_all, NULL);
	for (int thread = 0; thread < THREADS; thread++)
		pthread_join(threads[thread], NULL);
	pthread_create(&files, NULL, change_files, NULL);
	/* This number is nobody else's, so that no other file is closed by it. */
	int number = fcntl(0, F_DUPFD, 100);
	for (int turn = 0; turn < count / THREADS; turn++) {
		int opened = socket(AF_INET, SOCK_STREAM, 0);
		dup2(opened, number);
		close(opened);
		victim = number;
		try(&shared, number);
		victim = -1;
	}
	over = 1;
	pthread_join(address, NULL);
	pthread_join(files, NULL);
	close(number);
	printf("%d right, %d refused, %d wrong\n", right, refused, wrong);
	fflush(stdout);

	struct sockaddr_in own = at("127.0.0.1", 80);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&own, sizeof(own)) < 0 || listen(listener, 10) < 0) {
		perror("listen");
		return 1;
	}
	for (;;) {
		char request[1000];
		int client = accept(listener, NULL, NULL);
		if (client < 0 || read(client, request, sizeof(request)) < 0)
			continue;
		dprintf(client, "HTTP/1.0 200 OK\r\n\r\nok");
		close(client);
	}
}
