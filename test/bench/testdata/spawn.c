// spawn N: starts /bin/echo N times, one after the other, with its output in a pipe, and prints the median time from before the start to the
// first byte, and the CPU time that each start has cost this process, both in microseconds.
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static double used(void) {
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static int compare(const void *a, const void *b) {
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv) {
	int n = argc > 1 ? atoi(argv[1]) : 100;
	double *times = calloc(n, sizeof *times), before = used();
	char *args[] = {"echo", "x", NULL}, buf[16];
	for (int i = 0; i < n; i++) {
		double start = now();
		int fds[2];
		pid_t pid;
		posix_spawn_file_actions_t actions;
		if (pipe(fds) != 0 || posix_spawn_file_actions_init(&actions) != 0)
			return 1;
		posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
		posix_spawn_file_actions_addclose(&actions, fds[0]);
		posix_spawn_file_actions_addclose(&actions, fds[1]);
		if (posix_spawn(&pid, "/bin/echo", &actions, NULL, args, environ) != 0)
			return 1;
		posix_spawn_file_actions_destroy(&actions);
		close(fds[1]);
		if (read(fds[0], buf, sizeof buf) != 2)
			return 1;
		times[i] = now() - start;
		close(fds[0]);
		waitpid(pid, NULL, 0);
	}
	qsort(times, n, sizeof *times, compare);
	printf("%f %f\n", times[n / 2], (used() - before) / n);
	return 0;
}
