// The children of the rows: child ROLE [ARGUMENT]. Each plays one role and exits 0, or says on standard error what it could not do.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
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
