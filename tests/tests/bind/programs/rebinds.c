// Answers connections, and opens its socket again at SIGUSR1. Beside that a thread opens sockets on any free port all the
// time, and writes how many into the file of the argument.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t again;

static void told(int number)
{
	(void)number;
	again = 1;
}

static int opened(const char *host, int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, host, &address.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 100) < 0) {
		perror("rebinds");
		_exit(1);
	}
	return fd;
}

static _Noreturn void *open_others(void *name)
{
	sigset_t all;
	int file = open(name, O_CREAT | O_WRONLY, 0644);

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (unsigned count = 1;; count++) {
		char text[32];

		close(opened("127.0.0.1", 0));
		snprintf(text, sizeof(text), "%u", count);
		if (pwrite(file, text, strlen(text), 0) < 0)
			perror("pwrite");
		usleep(10000);
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = told };
	pthread_t others;
	int listener = opened("127.0.0.1", 3000);

	(void)argc;
	sigaction(SIGUSR1, &action, NULL);
	pthread_create(&others, NULL, open_others, argv[1]);
	for (;;) {
		char text[512];
		int client = accept(listener, NULL, NULL);
		ssize_t asked = -1;

		// The signal ends accept, and is no end of a connection.
		do {
			if (client >= 0)
				asked = read(client, text, sizeof(text));
		} while (client >= 0 && asked < 0 && errno == EINTR);
		if (asked > 0) {
			snprintf(text, sizeof(text), "HTTP/1.0 200 OK\r\n\r\npid=%d\n", (int)getpid());
			if (write(client, text, strlen(text)) < 0)
				perror("write");
		}
		if (client >= 0)
			close(client);
		if (again) {
			again = 0;
			close(listener);
			listener = opened("127.0.0.1", 3000);
			printf("opened again\n");
			fflush(stdout);
		}
	}
}
