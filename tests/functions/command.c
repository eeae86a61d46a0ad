/*
 * A command of WASI, and a program as well, that does what its event says: the first word is the deed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char body[1 << 17];
	size_t length = fread(body, 1, sizeof(body) - 1, stdin);
	char *rest = strchr(body, ' ');

	rest = rest ? rest + 1 : body + length;
	if (!strncmp(body, "echo", 4)) {
		fwrite(body, 1, length, stdout);
	} else if (!strncmp(body, "exit", 4)) {
		fprintf(stderr, "before\nexits with %s\n", rest);
		exit(atoi(rest));
	} else if (!strncmp(body, "large", 5)) {
		for (;;)
			if (fwrite(body, 1, sizeof(body), stdout) < sizeof(body))
				return 3;
	} else if (!strncmp(body, "loop", 4)) {
		for (volatile int on = 1; on;)
			;
	} else if (!strncmp(body, "sleep", 5)) {
		sleep(600);
	} else if (!strncmp(body, "crash", 5)) {
		abort();
	} else if (!strncmp(body, "env", 3)) {
		const char *value = getenv(rest);

		printf("%s", value ? value : "(none)");
	} else if (!strncmp(body, "args", 4)) {
		for (int i = 0; i < argc; i++)
			printf("%s;", argv[i]);
	} else if (!strncmp(body, "read", 4)) {
		char line[256];
		FILE *file = fopen(rest, "r");

		printf("%s", file && fgets(line, sizeof(line), file) ? line : "(not to be read)");
	} else if (!strncmp(body, "write", 5)) {
		FILE *file = fopen(rest, "w");

		printf("%s", file && fputs("written", file) >= 0 && !fclose(file) ? "written" : "(not to be written)");
	}
	return 0;
}
