/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * kloop-info(1): can kLoop run here, with what, and if not, why not. Uses the
 * public interface only.
 */
#include <getopt.h>
#include <kloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum exit_status {
	EXIT_USABLE = 0,
	EXIT_UNUSABLE = 1,
	EXIT_USAGE = 2,
};

/* Facts as they come; the length of the word before the dot tells their object. */
struct fact {
	const char *name;
	const char *text;
	enum kloop_info_type type;
	size_t object;
};

static bool get_fact(const struct kloop_info *info, size_t position, struct fact *fact)
{
	if (kloop_info_get(info, position, &fact->name, &fact->type, &fact->text) < 0)
		return false;
	fact->object = strcspn(fact->name, ".");
	return true;
}

/* Does this fact begin another object than the one before it? */
static bool begins_object(const struct kloop_info *info, size_t position)
{
	struct fact before, fact;

	if (position == 0 || !get_fact(info, position - 1, &before) ||
	    !get_fact(info, position, &fact))
		return true;
	return before.object != fact.object || memcmp(before.name, fact.name, fact.object) != 0;
}

static void print_json_string(const char *text)
{
	putchar('"');
	for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
		if (*at == '"' || *at == '\\')
			printf("\\%c", *at);
		else if (*at < 0x20 || *at > 0x7e) /* bytes of an unknown encoding: as Latin-1 */
			printf("\\u%04x", *at);
		else
			putchar(*at);
	}
	putchar('"');
}

static void print_json(const struct kloop_info *info)
{
	size_t count = kloop_info_get_count(info);
	struct fact fact;

	printf("{\n  \"usable\": %s", kloop_info_get_usable(info) == 0 ? "true" : "false");
	for (size_t i = 0; i < count && get_fact(info, i, &fact); i++) {
		if (begins_object(info, i))
			printf("%s,\n  \"%.*s\": {\n", i > 0 ? "\n  }" : "", (int)fact.object,
			       fact.name);
		else
			printf(",\n");
		printf("    \"%s\": ", fact.name + fact.object + 1);
		if (fact.type == KLOOP_INFO_TEXT)
			print_json_string(fact.text);
		else
			printf("%s", fact.text);
	}
	printf("%s\n}\n", count > 0 ? "\n  }" : "");
}

/* Booleans as a person says them, and -1 as what it means. */
static const char *word_for(const struct fact *fact)
{
	if (fact->type == KLOOP_INFO_BOOL)
		return strcmp(fact->text, "true") == 0 ? "yes" : "no";
	if (fact->type == KLOOP_INFO_NUMBER && strcmp(fact->text, "-1") == 0)
		return "unlimited";
	return fact->text[0] ? fact->text : "none";
}

#define TEXT_COLUMN 36
#define LAST_COLUMN 80

/* Print a text from TEXT_COLUMN on; a long one in several lines, broken at spaces. */
static void print_wrapped(const char *text)
{
	size_t column = TEXT_COLUMN;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (column > TEXT_COLUMN && column + 1 + word > LAST_COLUMN) {
			printf("\n%*s", TEXT_COLUMN, "");
			column = TEXT_COLUMN;
		} else if (column > TEXT_COLUMN) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)word, text);
		column += word;
		text += word;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static void print_human(const struct kloop_info *info)
{
	int usable = kloop_info_get_usable(info);
	struct fact fact;

	if (usable == 0)
		printf("kLoop can run here.\n\n");
	else
		printf("kLoop cannot run here: %s.\n\n", kloop_error_name(usable));
	for (size_t i = 0; i < kloop_info_get_count(info) && get_fact(info, i, &fact); i++) {
		if (begins_object(info, i))
			printf("%-10.*s", (int)fact.object, fact.name);
		else
			printf("%-10s", "");
		printf("%-26s", fact.name + fact.object + 1);
		print_wrapped(word_for(&fact));
	}
}

static void print_usage(FILE *file)
{
	fputs("Usage: kloop-info [--json]\n"
	      "Tell what this machine allows kLoop to do.\n"
	      "\n"
	      "  -j, --json     print one JSON object instead of a table\n"
	      "  -h, --help     print this text\n"
	      "  -V, --version  print the version\n"
	      "\n"
	      "Exit status: 0 if kLoop can run here, 1 if not, 2 if the question failed.\n",
	      file);
}

/* A full disk or a closed pipe must not look like success. */
static int finish(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	perror("kloop-info: standard output");
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	struct kloop_info *info;
	bool json = false;
	int option, result, status;

	while ((option = getopt_long(argc, argv, "jhV", options, NULL)) != -1) {
		switch (option) {
		case 'j':
			json = true;
			break;
		case 'h':
			print_usage(stdout);
			return finish(EXIT_USABLE);
		case 'V':
			printf("kloop-info %s\n", kloop_version());
			return finish(EXIT_USABLE);
		default:
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "kloop-info: unexpected argument '%s'\n", argv[optind]);
		print_usage(stderr);
		return EXIT_USAGE;
	}
	result = kloop_info_new(&info);
	if (result < 0) {
		fprintf(stderr, "kloop-info: %s\n", kloop_strerror(result));
		return EXIT_USAGE;
	}
	if (json)
		print_json(info);
	else
		print_human(info);
	status = kloop_info_get_usable(info) == 0 ? EXIT_USABLE : EXIT_UNUSABLE;
	kloop_info_free(info);
	return finish(status);
}
