/* The measure of all ratios: SCAN by one cursor in a C loop over hiredis, one reply at a time.
 *
 * Usage: c_loop HOST PORT COUNT MATCH SECONDS
 *     COUNT 0: none is sent. MATCH "": none is sent. SECONDS: begin again and again until they have passed.
 *
 * Without arguments it names its hiredis.
 * What is said on stdin and stdout is the same for all workers: see __init__.py in this folder.
 */
#define _POSIX_C_SOURCE 200809L
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void wait_for_a_line(void)
{
    char line[64];
    if (!fgets(line, sizeof line, stdin))
        exit(1);
}

static unsigned long long scan_once(redisContext *context, const char *count, const char *match)
{
    unsigned long long keys = 0;
    char cursor[32] = "0";
    do {
        const char *words[6] = {"SCAN", cursor};
        int n = 2;
        if (*match) {
            words[n++] = "MATCH";
            words[n++] = match;
        }
        if (strcmp(count, "0") != 0) {
            words[n++] = "COUNT";
            words[n++] = count;
        }
        redisReply *reply = redisCommandArgv(context, n, words, NULL);
        if (!reply || reply->type != REDIS_REPLY_ARRAY || reply->elements != 2) {
            fprintf(stderr, "c_loop: %s\n", reply && reply->str ? reply->str : context->errstr);
            exit(1);
        }
        snprintf(cursor, sizeof cursor, "%s", reply->element[0]->str);
        for (size_t i = 0; i < reply->element[1]->elements; i++)
            keys += reply->element[1]->element[i]->str != NULL;
        freeReplyObject(reply);
    } while (strcmp(cursor, "0") != 0);
    return keys;
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        printf("hiredis %d.%d.%d\n", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
        return 0;
    }
    if (argc != 6)
        return 2;
    redisContext *context = redisConnect(argv[1], atoi(argv[2]));
    if (!context || context->err) {
        fprintf(stderr, "c_loop: %s\n", context ? context->errstr : "no memory");
        return 1;
    }
    puts("{}");
    fflush(stdout);
    wait_for_a_line();

    double until = atof(argv[5]), began = now();
    unsigned long long keys = 0;
    do
        keys += scan_once(context, argv[3], argv[4]);
    while (now() - began < until);
    printf("{\"seconds\": %.9f, \"keys\": %llu}\n", now() - began, keys);
    fflush(stdout);
    wait_for_a_line();
    redisFree(context);
    return 0;
}
