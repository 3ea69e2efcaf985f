// The children of the rows: child ROLE [ARGUMENT]. Each plays one role and exits 0, or says on standard error what it could not do.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what) {
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static void put(int fd, const char *text, size_t n) {
	while (n > 0) {
		ssize_t done = write(fd, text, n);
		if (done < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		must(done > 0, "write");
		text += done, n -= done;
	}
}

// tail N: N lines, and gone.
static void tail(int n) {
	char line[64], *all = malloc(64 * n + 1);
	size_t size = 0;
	for (int i = 0; i < n; i++) {
		int length = snprintf(line, sizeof line, "%d of %d\n", i, n);
		memcpy(all + size, line, length);
		size += length;
	}
	put(1, all, size);
	_exit(n % 200);
}

// fds: the descriptors there are, but for the one that lists them.
static void fds(void) {
	DIR *dir = opendir("/proc/self/fd");
	must(dir != NULL, "opendir");
	char all[4096];
	size_t size = 0;
	for (struct dirent *e; (e = readdir(dir)) != NULL;)
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(dir))
			size += snprintf(all + size, sizeof all - size, "%s ", e->d_name);
	all[size ? size - 1 : 0] = '\n';
	put(1, all, size ? size : 1);
}

// rights N: N times a line over the socket at 3, with the most descriptors that one message carries.
static void rights(int n) {
	int sent[253];
	for (int i = 0; i < 253; i++)
		must((sent[i] = dup(0)) >= 0, "dup");
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof sent)];
	} control;
	for (int i = 0; i < n; i++) {
		struct iovec data = {"with descriptors\n", 17};
		struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof sent);
		memcpy(CMSG_DATA(c), sent, sizeof sent);
		must(sendmsg(3, &m, 0) == 17, "sendmsg");
	}
}

// urgent N: N times a line with a byte out of band in its middle.
static void urgent(int n) {
	for (int i = 0; i < n; i++) {
		put(3, "before ", 7);
		must(send(3, "!", 1, MSG_OOB) == 1, "send out of band");
		put(3, " after\n", 7);
	}
}

// buffers: makes what carries its streams as small and as large as it can, asks terminals' questions, and talks meanwhile.
static void buffers(int n) {
	for (int i = 0; i < n; i++) {
		int size = i % 2 ? 1 : 1 << 30, out = i % 2 ? 4096 : 1 << 20;
		must(setsockopt(3, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0, "SO_SNDBUF");
		must(setsockopt(3, SOL_SOCKET, SO_RCVBUF, &size, sizeof size) == 0, "SO_RCVBUF");
		(void)fcntl(1, F_SETPIPE_SZ, out); // refused while more is inside
		(void)fcntl(0, F_SETPIPE_SZ, out);
		struct winsize w;
		must(ioctl(1, TIOCGWINSZ, &w) < 0 && errno == ENOTTY, "TIOCGWINSZ");
		int queued;
		must(ioctl(1, FIONREAD, &queued) == 0, "FIONREAD");
		put(3, "over the socket\n", 16);
		put(1, "over the pipe\n", 14);
	}
}

// nonblock: what it can set on its ends it sets: no waiting, signals on input, packets.
static void nonblock(int n) {
	for (int fd = 0; fd <= 3; fd++) {
		int flags = fcntl(fd, F_GETFL);
		must(fcntl(fd, F_SETFL, flags | O_NONBLOCK | O_ASYNC) == 0, "F_SETFL");
		(void)fcntl(fd, F_SETOWN, getpid());
		(void)fcntl(fd, F_SETSIG, 0);
	}
	signal(SIGIO, SIG_IGN);
	for (int i = 0; i < n; i++)
		put(i % 2 ? 3 : 1, "without waiting\n", 16);
}

// packet: turns its output into a pipe of packets, which a write ends.
static void packet(int n) {
	(void)fcntl(1, F_SETFL, O_WRONLY | O_DIRECT);
	for (int i = 0; i < n; i++)
		put(1, "a packet\n", 9);
}

static void flood(void) {
	size_t size = 1 << 20;
	char *zeros = calloc(1, size);
	for (;;)
		put(1, zeros, size);
}

// traced: stops under a tracer that is its parent and does not know of it.
static void traced(void) {
	must(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0, "PTRACE_TRACEME");
	put(1, "stopping\n", 9);
	raise(SIGSTOP);
	pause();
}

// attached: stops under a tracer of its own that holds on to it.
static void attached(void) {
	pid_t self = getpid(), tracer = fork();
	must(tracer >= 0, "fork");
	if (tracer == 0) {
		must(ptrace(PTRACE_ATTACH, self, 0, 0) == 0, "PTRACE_ATTACH");
		must(waitpid(self, NULL, __WALL) == self, "waitpid");
		put(1, "stopping\n", 9);
		pause();
	}
	for (;;)
		pause();
}

// deaf: ignores whatever can be ignored.
static void deaf(void) {
	for (int s = 1; s < 65; s++)
		signal(s, SIG_IGN);
	put(1, "stopping\n", 9);
	for (;;)
		pause();
}

int main(int argc, char **argv) {
	const char *role = argc > 1 ? argv[1] : "";
	int n = argc > 2 ? atoi(argv[2]) : 0;
	if (!strcmp(role, "tail"))
		tail(n);
	else if (!strcmp(role, "fds"))
		fds();
	else if (!strcmp(role, "rights"))
		rights(n);
	else if (!strcmp(role, "urgent"))
		urgent(n);
	else if (!strcmp(role, "buffers"))
		buffers(n);
	else if (!strcmp(role, "nonblock"))
		nonblock(n);
	else if (!strcmp(role, "packet"))
		packet(n);
	else if (!strcmp(role, "flood"))
		flood();
	else if (!strcmp(role, "traced"))
		traced();
	else if (!strcmp(role, "attached"))
		attached();
	else if (!strcmp(role, "deaf"))
		deaf();
	else if (!strcmp(role, "kill0"))
		must(kill(0, n) == 0, "kill");
	else
		return 2;
	return 0;
}
