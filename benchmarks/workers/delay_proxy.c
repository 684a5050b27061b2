/* A TCP proxy on loopback that holds every byte back for a while: a network that is far away, and not narrow.
 *
 * Usage: delay_proxy HOST PORT MICROSECONDS
 *     Listens on a free port of 127.0.0.1 and prints it; what comes there goes to HOST and PORT after MICROSECONDS,
 *     and so does what comes back. Ends when its stdin ends.
 *
 * In C and not in Python: at full speed it has to move as many bytes as the client that it stands before.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#define READ_SIZE (256 * 1024)
#define MOST_HELD (64u * 1024 * 1024) /* in one direction; then the sender has to wait */
#define MOST_PAIRS 400                /* two descriptors each, below FD_SETSIZE */

struct chunk {
    struct chunk *next;
    long long due;
    size_t length, sent;
    char bytes[];
};

/* One direction of a connection. */
struct way {
    int from, to, ended, stuck;
    size_t held;
    struct chunk *first, *last;
};

struct pair {
    struct way ways[2];
};

static struct pair *pairs[MOST_PAIRS];
static int pair_count;
static long long delay;
static char buffer[READ_SIZE];

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void make_ready(int fd)
{
    int on = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void hold(struct way *way, const char *bytes, size_t length)
{
    struct chunk *chunk = malloc(sizeof *chunk + length);
    if (!chunk)
        exit(1);
    *chunk = (struct chunk){.due = now() + delay, .length = length};
    memcpy(chunk->bytes, bytes, length);
    if (way->last)
        way->last->next = chunk;
    else
        way->first = chunk;
    way->last = chunk;
    way->held += length;
}

/* Send what is due. Returns 0 if the receiver is gone. */
static int release(struct way *way)
{
    while (way->first && way->first->due <= now()) {
        struct chunk *chunk = way->first;
        ssize_t n = send(way->to, chunk->bytes + chunk->sent, chunk->length - chunk->sent, MSG_NOSIGNAL);
        if (n < 0) {
            way->stuck = errno == EAGAIN || errno == EINTR;
            return way->stuck;
        }
        way->stuck = 0;
        chunk->sent += (size_t)n;
        way->held -= (size_t)n;
        if (chunk->sent == chunk->length) {
            way->first = chunk->next;
            if (!way->first)
                way->last = NULL;
            free(chunk);
        }
    }
    return 1;
}

static void take_in(struct way *way)
{
    ssize_t n = recv(way->from, buffer, READ_SIZE, 0);
    if (n > 0)
        hold(way, buffer, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        way->ended = 1;
}

static void drop(int at)
{
    struct pair *pair = pairs[at];
    for (int side = 0; side < 2; side++) {
        close(pair->ways[side].from);
        for (struct chunk *chunk = pair->ways[side].first, *next; chunk; chunk = next) {
            next = chunk->next;
            free(chunk);
        }
    }
    free(pair);
    pairs[at] = pairs[--pair_count];
}

static void let_in(int listener, const struct sockaddr_in *target)
{
    int near = accept(listener, NULL, NULL);
    int far = socket(AF_INET, SOCK_STREAM, 0);
    struct pair *pair = calloc(1, sizeof *pair);
    if (near < 0 || far < 0 || !pair || pair_count == MOST_PAIRS ||
        connect(far, (const struct sockaddr *)target, sizeof *target) < 0) {
        close(near);
        close(far);
        free(pair);
        return;
    }
    make_ready(near);
    make_ready(far);
    pair->ways[0] = (struct way){.from = near, .to = far};
    pair->ways[1] = (struct way){.from = far, .to = near};
    pairs[pair_count++] = pair;
}

int main(int argc, char **argv)
{
    struct sockaddr_in target = {.sin_family = AF_INET}, here = {.sin_family = AF_INET};
    socklen_t size = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 4 || inet_pton(AF_INET, argv[1], &target.sin_addr) != 1)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    target.sin_port = htons((unsigned short)atoi(argv[2]));
    delay = atoll(argv[3]) * 1000;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 128) < 0 ||
        getsockname(listener, (struct sockaddr *)&here, &size) < 0)
        return 1;
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1L); /* else every wait is longer by 50 microseconds */
#endif
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);

    for (;;) {
        fd_set readable, writable;
        int most = listener;
        long long next = -1, moment = now();
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        FD_SET(0, &readable);
        FD_SET(listener, &readable);
        for (int at = 0; at < pair_count; at++)
            for (int side = 0; side < 2; side++) {
                struct way *way = &pairs[at]->ways[side];
                if (!way->ended && way->held < MOST_HELD)
                    FD_SET(way->from, &readable);
                if (way->stuck)
                    FD_SET(way->to, &writable);
                else if (way->first && (next < 0 || way->first->due < next))
                    next = way->first->due;
                most = way->from > most ? way->from : most;
            }
        long long wait = next > moment ? next - moment : 0;
        struct timespec pause = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        if (pselect(most + 1, &readable, &writable, NULL, next < 0 ? NULL : &pause, NULL) < 0) {
            if (errno == EINTR)
                continue;
            return 1;
        }
        if (FD_ISSET(0, &readable) && read(0, buffer, 1) <= 0)
            return 0;
        for (int at = pair_count - 1; at >= 0; at--) {
            int alive = 1;
            for (int side = 0; side < 2; side++) {
                struct way *way = &pairs[at]->ways[side];
                if (!way->ended && FD_ISSET(way->from, &readable))
                    take_in(way);
                alive &= release(way) && !(way->ended && !way->first);
            }
            if (!alive)
                drop(at);
        }
        if (FD_ISSET(listener, &readable))
            let_in(listener, &target);
    }
}
