// Three threads that each open a socket of their own on one address, with SO_REUSEPORT if the argument is `reuseport`,
// and answer each connection with their number.
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int share;

static void *accept_all(void *number)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(3000) };
	int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
	if (share)
		setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1) < 0) {
		perror("acceptors");
		return NULL;
	}
	for (;;) {
		char answer[32];
		int client = accept(listener, NULL, NULL);

		if (client < 0)
			continue;
		snprintf(answer, sizeof(answer), "thread=%ld\n", (long)number);
		if (write(client, answer, strlen(answer)) < 0)
			perror("write");
		close(client);
	}
}

int main(int argc, char **argv)
{
	pthread_t threads[3];

	share = argc > 1 && !strcmp(argv[1], "reuseport");
	for (long number = 0; number < 3; number++)
		pthread_create(&threads[number], NULL, accept_all, (void *)number);
	for (int number = 0; number < 3; number++)
		pthread_join(threads[number], NULL);
	return 1;
}
