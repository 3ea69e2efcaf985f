// The child of these tests. In C, because a child must do exactly what it is told and nothing that a runtime adds: no threads, no
// handled signals, no descriptors of its own.
//
//	child end OUT IN EXPECT READ FRAMES SIZE HALF HOW
//	child wait
//	child puppet FD
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what) {
	perror(what);
	_exit(99);
}

// put writes everything.
static void put(int fd, const void *data, size_t n) {
	for (const char *at = data; n > 0;) {
		ssize_t done = write(fd, at, n);
		if (done < 0)
			die("write");
		at += done;
		n -= (size_t)done;
	}
}

// take reads so many bytes and throws them away.
static void take(int fd, size_t n) {
	char buf[4096];
	while (n > 0) {
		ssize_t done = read(fd, buf, n < sizeof buf ? n : sizeof buf);
		if (done <= 0)
			die("read");
		n -= (size_t)done;
	}
}

static void header(int fd, uint32_t size) {
	unsigned char h[4] = {(unsigned char)(size >> 24), (unsigned char)(size >> 16), (unsigned char)(size >> 8), (unsigned char)size};
	put(fd, h, sizeof h);
}

// end waits until EXPECT bytes of input are there, reads READ of them, writes FRAMES frames of SIZE bytes, then the first HALF bytes of
// another one (-1: none, -2: a header of two bytes only), and ends as HOW says: a code, or a signal as kN.
static void end(char **a) {
	int out = atoi(a[0]), in = atoi(a[1]), expect = atoi(a[2]), got = atoi(a[3]);
	int frames = atoi(a[4]), size = atoi(a[5]), half = atoi(a[6]);
	for (int there = 0; there < expect; poll(NULL, 0, 1))
		if (ioctl(in, FIONREAD, &there) < 0)
			die("FIONREAD");
	take(in, (size_t)got);
	char *payload = malloc((size_t)size + 1);
	for (int i = 0; i < frames; i++) {
		memset(payload, 'a' + i % 26, (size_t)size);
		header(out, (uint32_t)size);
		put(out, payload, (size_t)size);
	}
	memset(payload, '!', (size_t)size);
	if (half >= 0) {
		header(out, (uint32_t)size);
		put(out, payload, (size_t)half);
	} else if (half == -2) {
		put(out, "\0\0", 2);
	}
	if (a[7][0] != 'k')
		_exit(atoi(a[7]));
	kill(getpid(), atoi(a[7] + 1));
	pause();
}

// obey does one command: a word, two numbers and a text.
static int obey(const char *word, int a, int b, const char *text) {
	char buf[4096];
	if (strcmp(word, "close") == 0)
		return close(a);
	if (strcmp(word, "dup") == 0)
		return dup2(a, b);
	if (strcmp(word, "shutdown") == 0)
		return shutdown(a, b);
	if (strcmp(word, "write") == 0)
		return (int)write(a, text, strlen(text));
	if (strcmp(word, "read") == 0)
		return (int)read(a, buf, (size_t)b);
	if (strcmp(word, "again") == 0) { // opens descriptor a once more, as b: its path is its name in /dev/fd
		char path[32];
		sprintf(path, "/dev/fd/%d", a);
		int fd = open(path, O_WRONLY);
		return fd < 0 || (dup2(fd, b) == b && (fd == b || close(fd) == 0)) ? fd : -1;
	}
	if (strcmp(word, "fork") == 0) { // a process with copies of everything
		int pid = fork();
		while (pid == 0)
			pause();
		return pid;
	}
	if (strcmp(word, "exit") == 0)
		_exit(a);
	errno = ENOSYS;
	return -1;
}

// puppet does what lines on a descriptor say, and answers each with "ok RESULT" or "errno NUMBER".
static void puppet(int ctl) {
	for (;;) {
		char line[512], word[32] = "", text[400] = "", answer[64];
		int n = 0, a = 0, b = 0;
		for (; n < (int)sizeof line - 1 && (n == 0 || line[n - 1] != '\n'); n++)
			if (read(ctl, line + n, 1) != 1)
				_exit(0);
		line[n] = 0;
		sscanf(line, "%31s %d %d %390[^\n]", word, &a, &b, text);
		if (text[0] != 0)
			strcat(text, "\n");
		errno = 0;
		int result = obey(word, a, b, text);
		n = result >= 0 ? sprintf(answer, "ok %d\n", result) : sprintf(answer, "errno %d\n", errno);
		put(ctl, answer, (size_t)n);
	}
}

int main(int argc, char **argv) {
	const char *role = argc > 1 ? argv[1] : "";
	if (strcmp(role, "end") == 0 && argc == 10)
		end(argv + 2);
	else if (strcmp(role, "puppet") == 0 && argc == 3)
		puppet(atoi(argv[2]));
	while (strcmp(role, "wait") == 0)
		pause();
	fprintf(stderr, "child: what is %s with %d arguments?\n", role, argc);
	return 98;
}
