/* A program that does one thing at a rate, an exactly known number of times, for tools that observe.
 *
 * load ACT NAME COUNT RATE [PATH]: calls itself NAME, says `ready`, waits for a line, acts COUNT times at no more than
 * RATE a second, says in JSON what it did, and lives until its input ends. PATH: of a file to read, a folder to work in.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SMALL_BUFFER 8192

static const char *path, *own;
static int file, receiver, sender, server;
static struct sockaddr_in there = {.sin_family = AF_INET};
static int to_other[2], to_us[2];
static char told[256];

static int done(int result)
{
	if (result < 0)
		err(1, "act");
	return result;
}

/* A socket of 127.0.0.1 that others find at `there`. */
static int bound(int type)
{
	socklen_t length = sizeof(there);
	int made = done(socket(AF_INET, type, 0));

	there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	done(bind(made, (void *)&there, length));
	done(getsockname(made, (void *)&there, &length));
	return made;
}

static void two_ends(void)
{
	receiver = bound(SOCK_DGRAM);
	sender = done(socket(AF_INET, SOCK_DGRAM, 0));
	done(connect(sender, (void *)&there, sizeof(there)));
	snprintf(told, sizeof(told), ", \"port\": %d", ntohs(there.sin_port));
}

static void opens(void) { close(done(open("/dev/null", O_RDONLY))); }

static void begin_reads(void) { file = done(open(path, O_RDONLY)); }
static void reads(void) { char room[8]; done(read(file, room, sizeof(room))); }

static void begin_lives(void) { done(chdir(path)); }
static void lives(void) { close(done(open("brief", O_WRONLY | O_CREAT | O_EXCL, 0600))); done(unlink("brief")); }

static void sockets(void) { close(done(socket(AF_INET, SOCK_DGRAM, 0))); }

static void joins(void) { done(connect(sender, (void *)&there, sizeof(there))); }

static void datagrams(void)
{
	char room[8];

	done(send(sender, "datagram", 8, 0));
	done(recv(receiver, room, sizeof(room), 0));
}

static void begin_overflow(void)
{
	int size = SMALL_BUFFER;

	two_ends();
	done(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
}
static void overflow(void) { done(send(sender, "datagram", 8, 0)); }
static void end_overflow(void)
{
	char room[8];
	int kept = 0;

	while (recv(receiver, room, sizeof(room), MSG_DONTWAIT) >= 0)
		kept++;
	snprintf(told + strlen(told), sizeof(told) - strlen(told), ", \"kept\": %d", kept);
}

static void begin_connects(void)
{
	server = bound(SOCK_STREAM);
	done(listen(server, 16));
	snprintf(told, sizeof(told), ", \"port\": %d", ntohs(there.sin_port));
}
static void connects(void)
{
	/* Gone at once, so that no port is kept from being used again. */
	struct linger gone = {.l_onoff = 1};
	int client = done(socket(AF_INET, SOCK_STREAM, 0)), taken;

	done(setsockopt(client, SOL_SOCKET, SO_LINGER, &gone, sizeof(gone)));
	done(connect(client, (void *)&there, sizeof(there)));
	taken = done(accept(server, NULL, NULL));
	close(client);
	close(taken);
}

static void execs(void)
{
	char *words[] = {(char *)own, "nothing", NULL}, *none[] = {NULL};
	pid_t child;

	errno = posix_spawn(&child, own, NULL, NULL, words, none);
	done(-errno);
	done(waitpid(child, NULL, 0));
}

static void *answer(void *unused)
{
	char byte;

	(void)unused;
	while (read(to_other[0], &byte, 1) == 1)
		done(write(to_us[1], &byte, 1));
	return NULL;
}
/* Two threads on one core, of which one runs until it waits for the other. */
static void begin_switches(void)
{
	pthread_t other;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(0, &one);
	done(sched_setaffinity(0, sizeof(one), &one));
	done(pipe(to_other));
	done(pipe(to_us));
	done(-pthread_create(&other, NULL, answer, NULL));
}
static void switches(void)
{
	char byte = 0;

	done(write(to_other[1], &byte, 1));
	done(read(to_us[0], &byte, 1));
}

/* How often the threads of this process were given a CPU. */
static long given(void)
{
	long total = 0, times;
	char name[64];
	struct dirent *each;
	DIR *all = opendir("/proc/self/task");
	FILE *account;

	while (all && (each = readdir(all))) {
		snprintf(name, sizeof(name), "/proc/self/task/%.16s/schedstat", each->d_name);
		account = each->d_name[0] != '.' ? fopen(name, "r") : NULL;
		if (!account)
			continue;
		if (fscanf(account, "%*s %*s %ld", &times) == 1)
			total += times;
		fclose(account);
	}
	closedir(all);
	return total;
}

static void nothing(void) {}

static const struct {
	const char *name;
	void (*begin)(void), (*act)(void), (*end)(void);
} acts[] = {
	{"opens", nothing, opens, nothing},
	{"reads", begin_reads, reads, nothing},
	{"lives", begin_lives, lives, nothing},
	{"sockets", nothing, sockets, nothing},
	{"joins", two_ends, joins, nothing},
	{"datagrams", two_ends, datagrams, nothing},
	{"overflow", begin_overflow, overflow, end_overflow},
	{"connects", begin_connects, connects, nothing},
	{"execs", nothing, execs, nothing},
	{"switches", begin_switches, switches, nothing},
};

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static void at_a_rate(void (*act)(void), long count, double rate)
{
	const struct timespec turn = {.tv_nsec = 200000};
	double begun = now();

	for (long made = 0; made < count;) {
		long due = (now() - begun) * rate + 1;

		if (made >= due)
			nanosleep(&turn, NULL);
		for (; made < due && made < count; made++)
			act();
	}
}

int main(int argc, char **argv)
{
	double begun, took;
	long before, after;
	char line[8];

	if (argc < 5)
		return 0; /* what `execs` starts */
	own = argv[0];
	path = argc > 5 ? argv[5] : ".";
	prctl(PR_SET_NAME, argv[2]);
	for (size_t i = 0; i < sizeof(acts) / sizeof(*acts); i++) {
		if (strcmp(acts[i].name, argv[1]))
			continue;
		acts[i].begin();
		puts("ready");
		fflush(stdout);
		if (!fgets(line, sizeof(line), stdin))
			return 1;
		before = given();
		begun = now();
		at_a_rate(acts[i].act, atol(argv[3]), atof(argv[4]));
		took = now() - begun;
		after = given();
		acts[i].end();
		printf("{\"pid\": %d, \"seconds\": %f, \"given\": %ld%s}\n", getpid(), took, after - before, told);
		fflush(stdout);
		while (fgets(line, sizeof(line), stdin))
			;
		return 0;
	}
	errx(2, "act %s", argv[1]);
}
