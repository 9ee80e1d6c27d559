/* parity.h: lets waypoint-parity watch an engine that is written in C or C++. This file is all that is needed there.
 *
 * It speaks the protocol of docs/protocol.md on standard input and output, or writes a dump. It needs C99 and POSIX,
 * libc and libm. One source file of the engine defines PARITY_IMPLEMENTATION before it includes this one; the others
 * include it plainly. A complete engine, whose model doubles its input:
 *
 *     #define PARITY_IMPLEMENTATION
 *     #include "parity.h"
 *
 *     static void session(parity *p)
 *     {
 *         const parity_json *asked = parity_asked(p);
 *         const parity_tensor *noise = parity_field(p, "noise");
 *         int64_t unit, units = (int64_t)parity_number(parity_get(asked, "units"), 0);
 *         if (noise == NULL || noise->type != PARITY_F32 || noise->axes < 2 || noise->shape[0] != units) {
 *             PARITY_FAIL(p, "no noise for %d units", (int)units);
 *             return;
 *         }
 *         for (unit = 0; unit < units; unit++) {
 *             int64_t i, size = parity_count(noise) / units;
 *             float *x = (float *)noise->data + unit * size;
 *             if (!parity_pass(p, unit, "denoise", 0, 1.0))
 *                 return;
 *             parity_show(p, "input.noise", PARITY_F32, x, noise->axes - 1, noise->shape + 1);
 *             for (i = 0; i < size; i++)
 *                 x[i] *= 2;
 *             parity_show(p, "velocity", PARITY_F32, x, noise->axes - 1, noise->shape + 1);
 *         }
 *     }
 *
 *     int main(void)
 *     {
 *         parity *p = parity_open();
 *         int what;
 *         while ((what = parity_next(p)) != PARITY_END) {
 *             if (what == PARITY_SESSION) {
 *                 session(p);
 *             } else {
 *                 parity_describe(p, "version", "0.1");
 *                 parity_site(p, "input.noise", 1);
 *                 parity_site(p, "velocity", 1);
 *             }
 *         }
 *         return parity_close(p);
 *     }
 *
 * - `parity_next` tells what is asked for. It also gives the answer that the engine owes: `ready` after a load, `end`
 *   after a session.
 * - `parity_pass` comes just before a pass. Once it returns 0 nobody asks for the rest: the session returns.
 * - `parity_show` shows a value. Where another value is put there, it writes that into the same memory, and the engine
 *   goes on with it. It returns 1 then, for those who keep their values on a device.
 * - `PARITY_FAIL` tells why the engine fails. What it shows afterwards goes nowhere, and `parity_pass` returns 0.
 *
 * What the engine prints to standard output goes to standard error. Where the other side speaks no protocol, or memory
 * runs out, the process ends with a message on standard error and exit code PARITY_EXIT. One thread uses it at a time.
 *
 * To write a dump, begin with `parity_dump` in the place of `parity_open`, then call `parity_pass` and `parity_show` as
 * above, and `parity_close` at the end. `waypoint-parity diff` takes the folder. It holds no digests.
 */
#ifndef PARITY_H
#define PARITY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PARITY_PROTOCOL 1
#define PARITY_EXIT 76 /* EX_PROTOCOL of sysexits.h */
#define PARITY_AXES 32

/* What parity_next returns. */
enum { PARITY_END, PARITY_LOAD, PARITY_SESSION };

typedef enum {
    PARITY_F64,
    PARITY_F32,
    PARITY_F16,
    PARITY_BF16,
    PARITY_F8_E4M3,
    PARITY_F8_E5M2,
    PARITY_I64,
    PARITY_I32,
    PARITY_I16,
    PARITY_I8,
    PARITY_U64,
    PARITY_U32,
    PARITY_U16,
    PARITY_U8,
    PARITY_BOOL, /* a byte, 0 or 1 */
    PARITY_C64,
    PARITY_C128
} parity_type;

/* Numbers in memory: rows first, without gaps. */
typedef struct {
    parity_type type;
    int axes;
    int64_t shape[PARITY_AXES];
    void *data;
} parity_tensor;

/* A value of JSON. All functions that take one take NULL for a value that is not there. */
typedef struct parity_json {
    char kind;                  /* one of { [ " 0 t f n: object, array, string, number, true, false, null */
    const char *name;           /* of a member of an object, else NULL */
    const char *text;           /* of a string, or of a number as it is written, else NULL */
    double number;              /* 0 for what is no number */
    struct parity_json *first;  /* the first item of an object or array */
    struct parity_json *next;   /* the item after this one */
} parity_json;

typedef struct parity parity;

/* ---- The conversation ---- */

/* Takes standard input and output for the conversation. Call it before anything is printed. */
parity *parity_open(void);

/* Waits for what to do: PARITY_LOAD, PARITY_SESSION, or PARITY_END where the other side is gone. */
int parity_next(parity *p);

/* The message that parity_next has read: `checkpoint`, `numerics` of a load; `units`, `seed`, `numbers` of a session.
 * It stays until parity_next is called again. */
const parity_json *parity_asked(const parity *p);

/* A tensor of the session's scenario, NULL if it has none of this name. The engine may change its numbers. */
const parity_tensor *parity_field(const parity *p, const char *name);

/* While loading: a site that the engine shows; `replaceable` where it goes on with a value that is put there. */
void parity_site(parity *p, const char *name, int replaceable);

/* While loading: what identifies the engine. `threads`, `platform`, `processor`, `torch` have their place in a dump. */
void parity_describe(parity *p, const char *name, const char *text);

/* Just before a pass. `sigma`: NAN where there is none. Returns 0 where nobody asks for the rest of the session. */
int parity_pass(parity *p, int64_t unit, const char *phase, int64_t step, double sigma);

/* The same, of a pass that makes these evaluations of its step. */
int parity_pass_branches(parity *p, int64_t unit, const char *phase, int64_t step, double sigma,
                         const char *const *branches, int count);

/* Whether this pass is to show the site: where it costs something to have the value at hand. */
int parity_wanted(const parity *p, const char *site);

/* Shows a value. Returns 1 where another one was put in its place, which is in `data` now. */
int parity_show(parity *p, const char *site, parity_type type, void *data, int axes, const int64_t *shape);

/* Shows several: one for each branch, or, where `branches` is NULL, one for each of several calls. */
int parity_show_many(parity *p, const char *site, parity_tensor *tensors, int count, const char *const *branches);

/* Tells that the engine fails. `mistake`: what it shows or announces is of no use. `place`: perhaps NULL. */
#if defined(__GNUC__)
__attribute__((format(printf, 4, 5)))
#endif
void parity_fail(parity *p, int mistake, const char *place, const char *format, ...);

#define PARITY_STRING_(x) #x
#define PARITY_STRING(x) PARITY_STRING_(x)
#define PARITY_FAIL(p, ...) parity_fail(p, 0, __FILE__ ", line " PARITY_STRING(__LINE__), __VA_ARGS__)

/* Frees everything, and completes a dump. Returns 0, or 1 for a dump of a run that failed. */
int parity_close(parity *p);

/* ---- A dump ---- */

/* What a manifest says of a run. Fill it with zeros first: texts that are NULL become empty, but for `dtype`. */
typedef struct {
    const char *implementation;
    const char *family;            /* "waypoint" */
    const char *dtype;             /* "fp32" or "bf16" */
    const char *device;            /* "cpu", "cuda" */
    const char *checkpoint_digest; /* of the load message, or of the manifest of the dump to compare with */
    const char *checkpoint_origin;
    const char *scenario_digest;
    const char *scenario_name;
    const double *sigmas;
    int sigma_count;
    int64_t units;
    const char *picture; /* the site that shows pictures, [H, W, 3] or [n, H, W, 3] of PARITY_U8; perhaps NULL */
    int tensors;         /* whether to keep all tensors too */
} parity_about;

/* Begins a dump in a folder that has none. */
parity *parity_dump(const char *folder, const parity_about *about);

/* ---- Helpers that an engine may use too ---- */

/* The value of a text in one block of memory, to be given to free(). NULL where it is no JSON, or has NUL in it. */
parity_json *parity_json_parse(const char *text, size_t size);
/* A member of an object. */
const parity_json *parity_get(const parity_json *json, const char *name);
/* A string, a number; `otherwise` for anything else. */
const char *parity_text(const parity_json *json, const char *otherwise);
double parity_number(const parity_json *json, double otherwise);

/* How many numbers a tensor has; -1 where it is none, or has more than 64 GiB. */
int64_t parity_count(const parity_tensor *tensor);
/* Bytes of a number; its name in safetensors; the type of a name, -1 where there is none. */
size_t parity_type_size(parity_type type);
const char *parity_type_name(parity_type type);
int parity_type_named(const char *name);

/* Mersenne Twister MT19937, which the signs of a sketch are drawn from. */
typedef struct {
    uint32_t state[624];
    int used;
} parity_random;
void parity_random_seed(parity_random *random, uint32_t seed);
uint32_t parity_random_next(parity_random *random);

#ifdef __cplusplus
}
#endif
#endif /* PARITY_H */

#if defined(PARITY_IMPLEMENTATION) && !defined(PARITY_IMPLEMENTED)
#define PARITY_IMPLEMENTED

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of a header, and of a tensor: more is no message. */
#define PARITY__HEADER ((size_t)1 << 24)
#define PARITY__TENSOR ((uint64_t)1 << 36)
#define PARITY__DEPTH 128
#define PARITY__BUFFER 65536

/* ---- Memory and text ---- */

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2), noreturn))
#endif
static void parity__die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("parity.h: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(PARITY_EXIT);
}

static void *parity__memory(void *old, size_t count, size_t size)
{
    void *memory = NULL;
    if (count == 0)
        count = 1;
    if (count <= SIZE_MAX / size)
        memory = realloc(old, count * size);
    if (memory == NULL)
        parity__die("no memory for %.0f bytes", (double)count * (double)size);
    return memory;
}

static char *parity__copy(const char *text)
{
    size_t size = strlen(text) + 1;
    return (char *)memcpy(parity__memory(NULL, size, 1), text, size);
}

/* Text that grows. */
typedef struct {
    char *data;
    size_t size, room;
} parity__string;

static void parity__add(parity__string *out, const char *text, size_t size)
{
    if (size > out->room - out->size) {
        if (size > SIZE_MAX / 2 - out->size)
            parity__die("no memory for a longer text");
        out->room = 2 * (out->size + size);
        out->data = (char *)parity__memory(out->data, out->room, 1);
    }
    if (size > 0)
        memcpy(out->data + out->size, text, size);
    out->size += size;
}

static void parity__put(parity__string *out, const char *text)
{
    parity__add(out, text, strlen(text));
}

static void parity__integer(parity__string *out, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    parity__put(out, text);
}

/* A number of JSON, which knows no NaN and no infinity. The locale may have another decimal point. */
static void parity__real(parity__string *out, double value, int digits)
{
    char text[64];
    const char *point = localeconv()->decimal_point;
    char *found;
    if (!isfinite(value)) {
        parity__put(out, "null");
        return;
    }
    snprintf(text, sizeof text, "%.*g", digits, value);
    found = strcmp(point, ".") == 0 || *point == '\0' ? NULL : strstr(text, point);
    if (found == NULL) {
        parity__put(out, text);
        return;
    }
    parity__add(out, text, (size_t)(found - text));
    parity__put(out, ".");
    parity__put(out, found + strlen(point));
}

/* How many bytes the character of UTF-8 at `text` has, which ends with NUL; 0 where it is none. */
static int parity__character(const unsigned char *text)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int i, size = text[0] < 0x80 ? 1 : text[0] >> 5 == 6 ? 2 : text[0] >> 4 == 14 ? 3 : text[0] >> 3 == 30 ? 4 : 0;
    uint32_t code = size < 2 ? text[0] : text[0] & (0xffu >> (size + 1));
    for (i = 1; i < size; i++) {
        if (text[i] >> 6 != 2)
            return 0;
        code = code << 6 | (text[i] & 0x3fu);
    }
    return size == 0 || code < least[size] || code > 0x10ffff || code >> 11 == 0x1b ? 0 : size;
}

/* A string of JSON. What is no UTF-8 becomes the replacement character. */
static void parity__quote(parity__string *out, const char *text)
{
    parity__put(out, "\"");
    while (*text != '\0') {
        int size = parity__character((const unsigned char *)text);
        char escaped[8];
        if (size == 0)
            parity__put(out, "\\ufffd");
        else if ((unsigned char)*text < 0x20 || *text == '"' || *text == '\\') {
            snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)(unsigned char)*text);
            parity__put(out, escaped);
        } else
            parity__add(out, text, (size_t)size);
        text += size == 0 ? 1 : size;
    }
    parity__put(out, "\"");
}

/* A shape. */
static void parity__shape(parity__string *out, const parity_tensor *tensor)
{
    int i;
    parity__put(out, "[");
    for (i = 0; i < tensor->axes; i++) {
        parity__put(out, i ? "," : "");
        parity__integer(out, tensor->shape[i]);
    }
    parity__put(out, "]");
}

/* Text with %i for an int64_t, %g and %f for a double with 17 or 9 digits, %s for a text as it is, %q for a text as a
 * string of JSON (NULL is empty), %t for the shape of a parity_tensor. */
static void parity__tell(parity__string *out, const char *format, ...)
{
    va_list arguments;
    const char *text;
    va_start(arguments, format);
    for (; *format != '\0'; format++) {
        size_t plain = strcspn(format, "%");
        parity__add(out, format, plain);
        format += plain;
        if (*format == '\0')
            break;
        switch (*++format) {
        case 'i':
            parity__integer(out, va_arg(arguments, int64_t));
            break;
        case 'g':
        case 'f':
            parity__real(out, va_arg(arguments, double), *format == 'g' ? 17 : 9);
            break;
        case 't':
            parity__shape(out, va_arg(arguments, const parity_tensor *));
            break;
        case 's':
            parity__put(out, va_arg(arguments, const char *));
            break;
        default:
            text = va_arg(arguments, const char *);
            parity__quote(out, text == NULL ? "" : text);
        }
    }
    va_end(arguments);
}

/* A list of texts. */
static void parity__texts(parity__string *out, const char *const *texts, int count)
{
    int i;
    for (i = 0; i < count; i++)
        parity__tell(out, i ? ",%q" : "[%q", texts[i]);
    parity__put(out, count > 0 ? "]" : "[]");
}

/* ---- JSON ---- */

typedef struct {
    const char *at, *end;
    parity_json *node; /* the next free one */
    char *text;        /* the next free place of a string */
} parity__reader;

static int parity__value(parity__reader *in, parity_json *to, int depth);

static void parity__space(parity__reader *in)
{
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
}

static int parity__take(parity__reader *in, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, word, size) != 0)
        return 0;
    in->at += size;
    return 1;
}

/* The number behind \u; -1 where it is none. */
static long parity__hex(parity__reader *in)
{
    static const char digits[] = "0123456789abcdefABCDEF";
    long code = 0;
    int i;
    if (in->end - in->at < 4)
        return -1;
    for (i = 0; i < 4; i++) {
        char c = *in->at++;
        const char *digit = c == '\0' ? NULL : strchr(digits, c);
        if (digit == NULL)
            return -1;
        code = code * 16 + (digit - digits < 16 ? digit - digits : digit - digits - 6);
    }
    return code;
}

static int parity__escape(parity__reader *in)
{
    static const char names[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    long code, low;
    const char *found;
    if (in->at == in->end)
        return 0;
    if (*in->at != 'u') {
        found = *in->at == '\0' ? NULL : strchr(names, *in->at++);
        if (found == NULL)
            return 0;
        *in->text++ = means[found - names];
        return 1;
    }
    in->at++;
    code = parity__hex(in);
    if (code >= 0xd800 && code < 0xdc00) { /* the first half of a pair */
        if (!parity__take(in, "\\u") || (low = parity__hex(in)) < 0xdc00 || low > 0xdfff)
            return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code <= 0 || (code >= 0xdc00 && code < 0xe000))
        return 0;
    if (code < 0x80)
        *in->text++ = (char)code;
    else {
        int shift = code < 0x800 ? 6 : code < 0x10000 ? 12 : 18;
        *in->text++ = (char)((shift == 6 ? 0xc0 : shift == 12 ? 0xe0 : 0xf0) | code >> shift);
        while ((shift -= 6) >= 0)
            *in->text++ = (char)(0x80 | (code >> shift & 0x3f));
    }
    return 1;
}

/* A string, without its escapes; NULL where it is none. No string grows by that. */
static const char *parity__string_of(parity__reader *in)
{
    const char *text = in->text;
    if (!parity__take(in, "\""))
        return NULL;
    while (in->at < in->end) {
        char c = *in->at++;
        if (c == '"') {
            *in->text++ = '\0';
            return text;
        }
        if ((unsigned char)c < 0x20)
            return NULL;
        if (c != '\\')
            *in->text++ = c;
        else if (!parity__escape(in))
            return NULL;
    }
    return NULL;
}

static size_t parity__digits(parity__reader *in)
{
    const char *begun = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9')
        in->at++;
    return (size_t)(in->at - begun);
}

static int parity__number_of(parity__reader *in, parity_json *to)
{
    const char *begun = in->at, *c, *point = localeconv()->decimal_point;
    char text[512];
    size_t size = 0;
    parity__take(in, "-");
    if (!parity__take(in, "0") && parity__digits(in) == 0)
        return 0;
    if (parity__take(in, ".") && parity__digits(in) == 0)
        return 0;
    if (parity__take(in, "e") || parity__take(in, "E")) {
        if (!parity__take(in, "+"))
            parity__take(in, "-");
        if (parity__digits(in) == 0)
            return 0;
    }
    if ((size_t)(in->at - begun) + strlen(point) >= sizeof text)
        return 0;
    to->kind = '0';
    to->text = in->text;
    for (c = begun; c < in->at; c++) {
        *in->text++ = *c;
        if (*c == '.') {
            strcpy(text + size, point);
            size += strlen(point);
        } else
            text[size++] = *c;
    }
    *in->text++ = text[size] = '\0';
    to->number = strtod(text, NULL);
    return 1;
}

static int parity__items(parity__reader *in, parity_json *to, int depth)
{
    const int named = to->kind == '{';
    const char *closing = named ? "}" : "]";
    parity_json **last = &to->first;
    parity__space(in);
    if (parity__take(in, closing))
        return 1;
    do {
        parity_json *item = in->node++;
        parity__space(in);
        if (named) {
            item->name = parity__string_of(in);
            parity__space(in);
            if (item->name == NULL || !parity__take(in, ":"))
                return 0;
        }
        if (!parity__value(in, item, depth + 1))
            return 0;
        *last = item;
        last = &item->next;
        parity__space(in);
    } while (parity__take(in, ","));
    return parity__take(in, closing);
}

static int parity__value(parity__reader *in, parity_json *to, int depth)
{
    parity__space(in);
    if (in->at == in->end || depth > PARITY__DEPTH)
        return 0;
    to->kind = *in->at;
    switch (to->kind) {
    case '{':
    case '[':
        in->at++;
        return parity__items(in, to, depth);
    case '"':
        return (to->text = parity__string_of(in)) != NULL;
    case 't':
        return parity__take(in, "true");
    case 'f':
        return parity__take(in, "false");
    case 'n':
        return parity__take(in, "null");
    default:
        return parity__number_of(in, to);
    }
}

parity_json *parity_json_parse(const char *text, size_t size)
{
    /* Every value but the first one stands behind an opening bracket or a comma. A string or a number takes one
     * character more than it has in the text at most: the NUL, in the place of a quote or behind a number. */
    size_t i, count = 1;
    parity__reader in;
    parity_json *root;
    for (i = 0; i < size; i++)
        count += text[i] == '{' || text[i] == '[' || text[i] == ',';
    if (count > SIZE_MAX / 2 / sizeof *root || size > SIZE_MAX / 4)
        return NULL;
    root = (parity_json *)parity__memory(NULL, count * sizeof *root + size + count + 1, 1);
    memset(root, 0, count * sizeof *root);
    in.at = text;
    in.end = text + size;
    in.node = root + 1;
    in.text = (char *)(root + count);
    if (parity__value(&in, root, 0)) {
        parity__space(&in);
        if (in.at == in.end)
            return root;
    }
    free(root);
    return NULL;
}

const parity_json *parity_get(const parity_json *json, const char *name)
{
    const parity_json *item = json == NULL || json->kind != '{' ? NULL : json->first;
    while (item != NULL && strcmp(item->name, name) != 0)
        item = item->next;
    return item;
}

const char *parity_text(const parity_json *json, const char *otherwise)
{
    return json != NULL && json->kind == '"' ? json->text : otherwise;
}

double parity_number(const parity_json *json, double otherwise)
{
    return json != NULL && json->kind == '0' ? json->number : otherwise;
}

/* ---- Types of numbers ---- */

static const struct {
    const char *name, *in_records;
    int size, parts;
} parity__types[] = {
    {"F64", "float64", 8, 1},          {"F32", "float32", 4, 1},   {"F16", "float16", 2, 1},
    {"BF16", "bfloat16", 2, 1},        {"F8_E4M3", "float8_e4m3fn", 1, 1},
    {"F8_E5M2", "float8_e5m2", 1, 1},  {"I64", "int64", 8, 1},     {"I32", "int32", 4, 1},
    {"I16", "int16", 2, 1},            {"I8", "int8", 1, 1},       {"U64", "uint64", 8, 1},
    {"U32", "uint32", 4, 1},           {"U16", "uint16", 2, 1},    {"U8", "uint8", 1, 1},
    {"BOOL", "bool", 1, 1},            {"C64", "complex64", 8, 2}, {"C128", "complex128", 16, 2},
};
#define PARITY__TYPES ((int)(sizeof parity__types / sizeof *parity__types))

size_t parity_type_size(parity_type type)
{
    return (size_t)parity__types[type].size;
}

const char *parity_type_name(parity_type type)
{
    return parity__types[type].name;
}

int parity_type_named(const char *name)
{
    int i;
    for (i = 0; i < PARITY__TYPES; i++)
        if (strcmp(parity__types[i].name, name) == 0)
            return i;
    return -1;
}

int64_t parity_count(const parity_tensor *tensor)
{
    uint64_t most, count = 1;
    int i, empty = 0;
    if ((int)tensor->type < 0 || (int)tensor->type >= PARITY__TYPES || tensor->axes < 0 || tensor->axes > PARITY_AXES)
        return -1;
    most = PARITY__TENSOR / parity_type_size(tensor->type);
    for (i = 0; i < tensor->axes; i++) {
        if (tensor->shape[i] < 0 || (uint64_t)tensor->shape[i] >= PARITY__TENSOR)
            return -1;
        empty |= tensor->shape[i] == 0;
    }
    for (i = 0; i < tensor->axes && !empty; i++) {
        if ((uint64_t)tensor->shape[i] > most / count)
            return -1;
        count *= (uint64_t)tensor->shape[i];
    }
    if (count > SIZE_MAX / parity_type_size(tensor->type))
        return -1;
    return empty ? 0 : (int64_t)count;
}

/* Floating point of less than 32 bits: sign, exponent, mantissa. Without infinities only the last number is NaN. */
static double parity__small(uint32_t bits, int exponent_bits, int mantissa_bits, int infinite)
{
    const int sign = (int)(bits >> (exponent_bits + mantissa_bits) & 1), last = (1 << exponent_bits) - 1;
    const int exponent = (int)(bits >> mantissa_bits) & last, mantissa = (int)bits & ((1 << mantissa_bits) - 1);
    const int lowest = 2 - (1 << (exponent_bits - 1)) - mantissa_bits;
    double value;
    if (exponent == last && infinite)
        value = mantissa ? (double)NAN : (double)INFINITY;
    else if (exponent == last && mantissa == (1 << mantissa_bits) - 1)
        value = (double)NAN;
    else if (exponent == 0)
        value = ldexp(mantissa, lowest);
    else
        value = ldexp(mantissa + (1 << mantissa_bits), lowest + exponent - 1);
    return sign ? -value : value;
}

/* The way back, rounded to the nearest, to the even one of two. */
static uint32_t parity__smaller(double value, int exponent_bits, int mantissa_bits, int infinite)
{
    const uint32_t sign = (signbit(value) ? 1u : 0u) << (exponent_bits + mantissa_bits);
    const uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
    const uint32_t nan = infinity | ((1u << mantissa_bits) - 1), first = infinite ? infinity : nan;
    const int lowest = 2 - (1 << (exponent_bits - 1));
    int exponent;
    double rounded;
    if (isnan(value))
        return sign | nan;
    if (isinf(value))
        return sign | first;
    value = fabs(value);
    if (value == 0)
        return sign;
    frexp(value, &exponent);
    exponent = exponent - 1 < lowest ? lowest : exponent - 1;
    if (exponent > -lowest + 1)
        return sign | first;
    /* A carry goes on into the exponent by itself, and so does the leading bit. */
    rounded = rint(ldexp(value, mantissa_bits - exponent)) + ldexp(exponent - lowest, mantissa_bits);
    return sign | (rounded >= first ? first : (uint32_t)rounded);
}

/* Number `i` of some; a complex one is two. */
static double parity__read(parity_type type, const void *data, int64_t i)
{
    uint16_t half;
    switch (type) {
    case PARITY_F64:
    case PARITY_C128:
        return ((const double *)data)[i];
    case PARITY_F32:
    case PARITY_C64:
        return (double)((const float *)data)[i];
    case PARITY_F16:
        memcpy(&half, (const char *)data + 2 * i, 2);
        return parity__small(half, 5, 10, 1);
    case PARITY_BF16:
        memcpy(&half, (const char *)data + 2 * i, 2);
        return parity__small(half, 8, 7, 1);
    case PARITY_F8_E4M3:
        return parity__small(((const unsigned char *)data)[i], 4, 3, 0);
    case PARITY_F8_E5M2:
        return parity__small(((const unsigned char *)data)[i], 5, 2, 1);
    case PARITY_I64:
        return (double)((const int64_t *)data)[i];
    case PARITY_I32:
        return ((const int32_t *)data)[i];
    case PARITY_I16:
        return ((const int16_t *)data)[i];
    case PARITY_I8:
        return ((const int8_t *)data)[i];
    case PARITY_U64:
        return (double)((const uint64_t *)data)[i];
    case PARITY_U32:
        return ((const uint32_t *)data)[i];
    case PARITY_U16:
        return ((const uint16_t *)data)[i];
    case PARITY_U8:
        return ((const uint8_t *)data)[i];
    default:
        return ((const uint8_t *)data)[i] != 0;
    }
}

/* The nearest float, with infinities behind the last one. */
static float parity__float(double value)
{
    if (value > FLT_MAX)
        return value < FLT_MAX + ldexp(1.0, 103) ? FLT_MAX : (float)INFINITY;
    return value < -FLT_MAX ? -parity__float(-value) : (float)value;
}

/* Integers end at their limits; NaN is 0 to them. `bits` of them, one less with a sign. */
static uint64_t parity__whole(double value, int bits, int with_sign)
{
    const double limit = ldexp(1.0, bits - with_sign);
    const uint64_t last = ~(uint64_t)0 >> (64 - bits + with_sign);
    if (isnan(value) || (value < 0 && !with_sign))
        return 0;
    if (value < 0)
        return -value >= limit ? ~last : 0 - (uint64_t)-value;
    return value >= limit ? last : (uint64_t)value;
}

static void parity__write_number(parity_type type, void *data, int64_t i, double value)
{
    uint16_t half;
    uint64_t whole;
    int size = parity__types[type].size;
    switch (type) {
    case PARITY_F64:
    case PARITY_C128:
        ((double *)data)[i] = value;
        return;
    case PARITY_F32:
    case PARITY_C64:
        ((float *)data)[i] = parity__float(value);
        return;
    case PARITY_F16:
    case PARITY_BF16:
        half = (uint16_t)(type == PARITY_F16 ? parity__smaller(value, 5, 10, 1) : parity__smaller(value, 8, 7, 1));
        memcpy((char *)data + 2 * i, &half, 2);
        return;
    case PARITY_F8_E4M3:
        ((uint8_t *)data)[i] = (uint8_t)parity__smaller(value, 4, 3, 0);
        return;
    case PARITY_F8_E5M2:
        ((uint8_t *)data)[i] = (uint8_t)parity__smaller(value, 5, 2, 1);
        return;
    case PARITY_BOOL:
        ((uint8_t *)data)[i] = value != 0;
        return;
    default: /* little-endian: the first bytes are the last digits */
        whole = parity__whole(value, 8 * size, type <= PARITY_I8);
        memcpy((char *)data + (int64_t)size * i, &whole, (size_t)size);
    }
}

/* Writes the numbers of one tensor into the memory of another. Returns 0 where they do not fit. */
static int parity__assign(parity_tensor *to, const parity_tensor *from)
{
    const int parts = parity__types[to->type].parts;
    int64_t i, count = parity_count(to);
    if (to->axes != from->axes || parts != parity__types[from->type].parts)
        return 0;
    for (i = 0; i < to->axes; i++)
        if (to->shape[i] != from->shape[i])
            return 0;
    if (to->type == from->type && to->type != PARITY_BOOL && count > 0)
        memcpy(to->data, from->data, (size_t)count * parity_type_size(to->type));
    else
        for (i = 0; i < count * parts; i++)
            parity__write_number(to->type, to->data, i, parity__read(from->type, from->data, i));
    return 1;
}

/* ---- Mersenne Twister ---- */

void parity_random_seed(parity_random *random, uint32_t seed)
{
    int i;
    random->state[0] = seed;
    for (i = 1; i < 624; i++)
        random->state[i] = 1812433253u * (random->state[i - 1] ^ random->state[i - 1] >> 30) + (uint32_t)i;
    random->used = 624;
}

uint32_t parity_random_next(parity_random *random)
{
    uint32_t y, *s = random->state;
    int i;
    if (random->used == 624) {
        for (i = 0; i < 624; i++) {
            y = (s[i] & 0x80000000u) | (s[(i + 1) % 624] & 0x7fffffffu);
            s[i] = s[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        random->used = 0;
    }
    y = s[random->used++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* ---- Statistics of a record ---- */

#define PARITY__SAMPLES 8
#define PARITY__SKETCH 61
#define PARITY__CHUNK ((int64_t)PARITY__SKETCH * 537)
#define PARITY__SHIFT 33
#define PARITY__SEED 20260121u

/* Drawn signs, as many as were needed so far: each 1 or -1. */
typedef struct {
    parity_random random;
    signed char *signs;
    size_t count;
} parity__signs;

static const signed char *parity__drawn(parity__signs *drawn, uint32_t seed, size_t count)
{
    if (drawn->signs == NULL)
        parity_random_seed(&drawn->random, seed);
    if (drawn->signs == NULL || count > drawn->count) {
        drawn->signs = (signed char *)parity__memory(drawn->signs, count, 1);
        for (; drawn->count < count; drawn->count++)
            drawn->signs[drawn->count] = parity_random_next(&drawn->random) & 1 ? 1 : -1;
    }
    return drawn->signs;
}

/* Over the finite numbers of a tensor, which are read as float. Without any of them the statistics are NaN. */
typedef struct {
    double mean, deviation, low, high, absmean, rms;
    int64_t nan, positive_infinity, negative_infinity;
    double sample[PARITY__SAMPLES];
    float sketch[PARITY__SKETCH];
} parity__summary;

static parity__summary parity__summarise(parity_type type, const void *data, int64_t count,
                                         parity__signs *within, parity__signs *across)
{
    parity__summary found;
    double sum = 0, absolute = 0, squares = 0, shift = 0, bucket[PARITY__SKETCH];
    const int64_t chunks = (count + PARITY__CHUNK - 1) / PARITY__CHUNK;
    const signed char *inside = parity__drawn(within, PARITY__SEED, (size_t)(PARITY__CHUNK + PARITY__SHIFT * chunks));
    const signed char *chunk = parity__drawn(across, PARITY__SEED + 1, (size_t)chunks);
    int64_t i, finite = 0;
    memset(&found, 0, sizeof found);
    memset(bucket, 0, sizeof bucket);
    found.low = INFINITY;
    found.high = -INFINITY;
    for (i = 0; i < count; i++) {
        const double value = (double)parity__float(parity__read(type, data, i));
        const int64_t c = i / PARITY__CHUNK;
        if (!isfinite(value)) {
            found.nan += isnan(value) != 0;
            found.positive_infinity += value > 0;
            found.negative_infinity += value < 0;
            continue;
        }
        finite++;
        sum += value;
        absolute += fabs(value);
        found.low = value < found.low ? value : found.low;
        found.high = value > found.high ? value : found.high;
        bucket[i % PARITY__SKETCH] += value * inside[PARITY__SHIFT * c + i % PARITY__CHUNK] * chunk[c];
    }
    found.mean = finite ? sum / (double)finite : (double)NAN;
    for (i = 0; i < count && finite > 0; i++) {
        const double off = (double)parity__float(parity__read(type, data, i)) - found.mean;
        if (isfinite(off)) {
            shift += off;
            squares += off * off;
        }
    }
    if (finite > 0) {
        shift /= (double)finite;
        squares = squares / (double)finite - shift * shift;
        squares = squares < 0 ? 0 : squares;
        found.rms = sqrt(squares + found.mean * found.mean);
    }
    found.deviation = finite ? sqrt(squares) : (double)NAN;
    found.rms = finite ? found.rms : (double)NAN;
    found.absmean = finite ? absolute / (double)finite : (double)NAN;
    found.low = finite ? found.low : (double)NAN;
    found.high = finite ? found.high : (double)NAN;
    for (i = 0; i < PARITY__SAMPLES; i++) {
        const double place = rint((double)(count - 1) * (double)i / (PARITY__SAMPLES - 1));
        found.sample[i] = count ? parity__read(type, data, (int64_t)place) : (double)NAN;
    }
    for (i = 0; i < PARITY__SKETCH; i++)
        found.sketch[i] = parity__float(bucket[i]);
    return found;
}

static void parity__base64(parity__string *out, const void *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *bytes = (const unsigned char *)data;
    size_t i, k;
    for (i = 0; i < size; i += 3) {
        uint32_t three = 0;
        char four[4];
        for (k = 0; k < 3; k++)
            three = three << 8 | (i + k < size ? bytes[i + k] : 0u);
        for (k = 0; k < 4; k++)
            four[k] = i + k > size ? '=' : digits[three >> (18 - 6 * k) & 63];
        parity__add(out, four, 4);
    }
}

/* ---- What both ways of watching share ---- */

/* Names, with a flag or a text or a count. */
typedef struct {
    char *name, *text;
    int64_t number;
} parity__entry;

typedef struct {
    parity__entry *items;
    int count, room;
} parity__list;

static parity__entry *parity__find(const parity__list *list, const char *name)
{
    int i;
    for (i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0)
            return &list->items[i];
    return NULL;
}

static parity__entry *parity__entry_of(parity__list *list, const char *name)
{
    parity__entry *found = parity__find(list, name);
    if (found != NULL)
        return found;
    if (list->count == list->room) {
        list->room = list->room < INT32_MAX / 2 ? 2 * list->room + 16 : list->room;
        list->items = (parity__entry *)parity__memory(list->items, (size_t)list->room, sizeof *list->items);
    }
    found = &list->items[list->count++];
    found->name = parity__copy(name);
    found->text = NULL;
    found->number = 0;
    return found;
}

static void parity__clear(parity__list *list)
{
    int i;
    for (i = 0; i < list->count; i++) {
        free(list->items[i].name);
        free(list->items[i].text);
    }
    list->count = 0;
}

typedef struct {
    parity_json *header;
    parity_tensor *tensors;
    int count;
} parity__message;

typedef enum {
    PARITY__IDLE,
    PARITY__LOADING,
    PARITY__RUNNING,
    PARITY__LEFT,   /* the session, and `end` is owed */
    PARITY__OVER,   /* the engine failed, and owes no answer */
    PARITY__GONE,   /* the stream has ended */
    PARITY__DUMPING,
    PARITY__BROKEN  /* the engine failed while it wrote a dump */
} parity__state;

struct parity {
    parity__state state;
    int loaded;
    parity__list sites, described;
    /* The conversation. */
    int reading, writing;
    char *buffer;
    size_t taken, filled;
    parity__message asked, pass;
    /* The dump. */
    char *folder, *ended, *picture;
    FILE *records, *kept;
    parity__string about, kept_header;
    parity__list calls;
    parity__signs within, across;
    int64_t unit, step, observed;
    int64_t kept_bytes;
    char *phase;
    double sigma;
    char **branches;
    int branch_count;
    time_t begun;
};

static parity *parity__new(parity__state state)
{
    const uint16_t one = 1;
    parity *p = (parity *)parity__memory(NULL, 1, sizeof *p);
    memset(p, 0, sizeof *p);
    p->state = state;
    if (*(const unsigned char *)&one != 1)
        parity__die("this processor is not little-endian");
    return p;
}

/* ---- Messages ---- */

static void parity__write(const parity *p, const void *data, size_t size)
{
    const char *at = (const char *)data;
    while (size > 0) {
        ssize_t written = write(p->writing, at, size < (1u << 30) ? size : (1u << 30));
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            parity__die("cannot answer: %s", strerror(errno));
        at += written;
        size -= (size_t)written;
    }
}

/* Sends `header`, which lacks its closing brace. Frees it. */
static void parity__send(const parity *p, parity__string *header, const parity_tensor *tensors, int count)
{
    int i;
    for (i = 0; i < count; i++)
        parity__tell(header, i ? ",[%q,%t]" : ",\"tensors\":[[%q,%t]", parity_type_name(tensors[i].type), &tensors[i]);
    parity__put(header, count ? "]}\n" : "}\n");
    parity__write(p, header->data, header->size);
    for (i = 0; i < count; i++)
        parity__write(p, tensors[i].data, (size_t)parity_count(&tensors[i]) * parity_type_size(tensors[i].type));
    free(header->data);
    memset(header, 0, sizeof *header);
}

static void parity__say(const parity *p, const char *header)
{
    parity__string text = {NULL, 0, 0};
    parity__put(&text, header);
    parity__send(p, &text, NULL, 0);
}

/* Reads something into memory. Returns 0 at the end of the stream. */
static size_t parity__some(const parity *p, void *to, size_t size)
{
    for (;;) {
        ssize_t got = read(p->reading, to, size < (1u << 30) ? size : (1u << 30));
        if (got >= 0)
            return (size_t)got;
        if (errno != EINTR)
            parity__die("cannot read what is asked: %s", strerror(errno));
    }
}

/* Reads the line of a header. Returns 0 where the stream has ended before it. */
static int parity__line(parity *p, parity__string *line)
{
    for (;;) {
        const char *begun = p->buffer + p->taken, *end = (const char *)memchr(begun, '\n', p->filled - p->taken);
        size_t size = end == NULL ? p->filled - p->taken : (size_t)(end - begun);
        parity__add(line, begun, size);
        if (line->size > PARITY__HEADER)
            parity__die("a header of more than %lu bytes", (unsigned long)PARITY__HEADER);
        p->taken += size + (end != NULL);
        if (end != NULL)
            return 1;
        p->taken = 0;
        p->filled = parity__some(p, p->buffer, PARITY__BUFFER);
        if (p->filled > 0)
            continue;
        if (line->size > 0)
            parity__die("the stream ends within a message");
        return 0;
    }
}

static void parity__bytes(parity *p, char *to, size_t size)
{
    size_t taken = p->filled - p->taken < size ? p->filled - p->taken : size;
    if (taken > 0)
        memcpy(to, p->buffer + p->taken, taken);
    p->taken += taken;
    while (taken < size) {
        size_t got = parity__some(p, to + taken, size - taken);
        if (got == 0)
            parity__die("the stream ends within a message");
        taken += got;
    }
}

/* Reads the tensor that a header announces as [type, shape]. */
static void parity__tensor_of(parity *p, const parity_json *announced, parity_tensor *to)
{
    const parity_json *type = announced->kind == '[' ? announced->first : NULL;
    const parity_json *shape = type == NULL ? NULL : type->next, *size;
    int known = parity_type_named(parity_text(type, ""));
    int64_t count;
    size_t bytes;
    if (known < 0 || shape == NULL || shape->kind != '[' || shape->next != NULL)
        parity__die("a tensor that is announced by no type and shape");
    to->type = (parity_type)known;
    for (size = shape->first; size != NULL; size = size->next) {
        double along = parity_number(size, -1);
        if (to->axes == PARITY_AXES || !(along >= 0 && along < (double)PARITY__TENSOR) || along != floor(along))
            parity__die("a tensor of a shape that is none");
        to->shape[to->axes++] = (int64_t)along;
    }
    count = parity_count(to);
    if (count < 0)
        parity__die("a tensor of more than 64 GiB");
    bytes = (size_t)count * parity_type_size(to->type);
    to->data = parity__memory(NULL, bytes, 1);
    parity__bytes(p, (char *)to->data, bytes);
}

static void parity__drop(parity__message *message)
{
    int i;
    for (i = 0; i < message->count; i++)
        free(message->tensors[i].data);
    free(message->tensors);
    free(message->header);
    memset(message, 0, sizeof *message);
}

/* Reads a message in the place of the last one. Returns what it asks for, NULL where the stream has ended. */
static const char *parity__receive(parity *p, parity__message *message)
{
    parity__string line = {NULL, 0, 0};
    const parity_json *tensors, *each;
    const char *op;
    size_t count = 0;
    parity__drop(message);
    if (!parity__line(p, &line)) {
        free(line.data);
        p->state = PARITY__GONE;
        return NULL;
    }
    message->header = parity_json_parse(line.data == NULL ? "" : line.data, line.size);
    free(line.data);
    op = parity_text(parity_get(message->header, "op"), NULL);
    if (op == NULL)
        parity__die("a line that is no header of a message");
    tensors = parity_get(message->header, "tensors");
    if (tensors != NULL && tensors->kind != '[')
        parity__die("tensors that are no list");
    for (each = tensors == NULL ? NULL : tensors->first; each != NULL; each = each->next)
        count++;
    message->tensors = (parity_tensor *)parity__memory(NULL, count, sizeof *message->tensors);
    for (each = tensors == NULL ? NULL : tensors->first; each != NULL; each = each->next) {
        memset(&message->tensors[message->count], 0, sizeof *message->tensors);
        parity__tensor_of(p, each, &message->tensors[message->count++]);
    }
    return op;
}

/* ---- The conversation ---- */

parity *parity_open(void)
{
    parity *p = parity__new(PARITY__IDLE);
    int nothing = open("/dev/null", O_RDONLY);
    fflush(stdout);
    p->reading = dup(0);
    p->writing = dup(1);
    p->buffer = (char *)parity__memory(NULL, PARITY__BUFFER, 1);
    if (nothing < 0 || p->reading < 0 || p->writing < 0 || dup2(nothing, 0) < 0 || dup2(2, 1) < 0)
        parity__die("cannot take standard input and output: %s", strerror(errno));
    if (nothing > 0)
        close(nothing);
    return p;
}

static void parity__answer(parity *p)
{
    parity__string ready = {NULL, 0, 0};
    int i;
    if (p->state == PARITY__RUNNING || p->state == PARITY__LEFT)
        parity__say(p, "{\"op\":\"end\"");
    if (p->state == PARITY__LOADING) {
        parity__tell(&ready, "{\"op\":\"ready\",\"protocol\":%i,\"sites\":{", (int64_t)PARITY_PROTOCOL);
        for (i = 0; i < p->sites.count; i++)
            parity__tell(&ready, "%s%q:{\"replaceable\":%s}", i ? "," : "", p->sites.items[i].name,
                         p->sites.items[i].number ? "true" : "false");
        parity__put(&ready, "},\"describe\":{");
        for (i = 0; i < p->described.count; i++)
            parity__tell(&ready, "%s%q:%q", i ? "," : "", p->described.items[i].name, p->described.items[i].text);
        parity__put(&ready, "}");
        parity__send(p, &ready, NULL, 0);
        p->loaded = 1;
    }
    if (p->state != PARITY__GONE)
        p->state = PARITY__IDLE;
}

/* Whether there is a tensor for every name of a field. */
static int parity__has_fields(const parity__message *session)
{
    const parity_json *fields = parity_get(session->header, "fields"), *each;
    int count = 0;
    for (each = fields == NULL || fields->kind != '[' ? NULL : fields->first; each != NULL; each = each->next)
        count += each->kind == '"' ? 1 : session->count + 1;
    return count == session->count;
}

int parity_next(parity *p)
{
    const char *op;
    if (p->state >= PARITY__DUMPING)
        return PARITY_END;
    parity__answer(p);
    while (p->state != PARITY__GONE && (op = parity__receive(p, &p->asked)) != NULL) {
        if (strcmp(op, "load") == 0) {
            double protocol = parity_number(parity_get(p->asked.header, "protocol"), 0);
            parity__clear(&p->sites);
            parity__clear(&p->described);
            p->loaded = 0;
            if (protocol == PARITY_PROTOCOL) {
                p->state = PARITY__LOADING;
                return PARITY_LOAD;
            }
            parity_fail(p, 1, NULL, "protocol %g; this engine speaks protocol %d", protocol, PARITY_PROTOCOL);
        } else if (strcmp(op, "session") == 0 && p->loaded) {
            if (!parity__has_fields(&p->asked))
                parity__die("a session whose fields are not the tensors that follow it");
            p->state = PARITY__RUNNING;
            return PARITY_SESSION;
        } else if (strcmp(op, "leave") != 0) /* of a session that has ended meanwhile */
            parity_fail(p, 1, NULL, "there is no such message now: %.80s", op);
    }
    return PARITY_END;
}

const parity_json *parity_asked(const parity *p)
{
    return p->asked.header;
}

const parity_tensor *parity_field(const parity *p, const char *name)
{
    const parity_json *fields = parity_get(p->asked.header, "fields"), *each;
    int i = 0;
    for (each = fields == NULL ? NULL : fields->first; each != NULL && i < p->asked.count; each = each->next, i++)
        if (strcmp(parity_text(each, ""), name) == 0)
            return &p->asked.tensors[i];
    return NULL;
}

void parity_site(parity *p, const char *name, int replaceable)
{
    parity__entry_of(&p->sites, name)->number = replaceable != 0;
}

void parity_describe(parity *p, const char *name, const char *text)
{
    parity__entry *entry = parity__entry_of(&p->described, name);
    free(entry->text);
    entry->text = parity__copy(text);
}

static int parity__enter(parity *p, int64_t unit, const char *phase, int64_t step, double sigma,
                         const char *const *branches, int count);
static void parity__record(parity *p, const char *site, const parity_tensor *tensors, int count,
                           const char *const *branches);

int parity_pass(parity *p, int64_t unit, const char *phase, int64_t step, double sigma)
{
    const char *only = "";
    return parity_pass_branches(p, unit, phase, step, sigma, &only, 1);
}

int parity_pass_branches(parity *p, int64_t unit, const char *phase, int64_t step, double sigma,
                         const char *const *branches, int count)
{
    parity__string said = {NULL, 0, 0};
    const char *op;
    if (p->state == PARITY__DUMPING)
        return parity__enter(p, unit, phase, step, sigma, branches, count);
    if (p->state != PARITY__RUNNING)
        return 0;
    parity__tell(&said, "{\"op\":\"pass\",\"unit\":%i,\"phase\":%q,\"step\":%i", unit, phase, step);
    parity__tell(&said, ",\"sigma\":%g,\"branches\":", sigma);
    parity__texts(&said, branches, count);
    parity__send(p, &said, NULL, 0);
    op = parity__receive(p, &p->pass);
    if (op == NULL)
        return 0;
    if (strcmp(op, "leave") == 0) {
        p->state = PARITY__LEFT;
        return 0;
    }
    if (strcmp(op, "go") != 0)
        parity__die("message '%.80s' in the place of 'go' or 'leave'", op);
    return 1;
}

/* Whether a list of the `go` message has a site. */
static int parity__listed(const parity *p, const char *list, const char *site)
{
    const parity_json *names = parity_get(p->pass.header, list), *each;
    for (each = names == NULL || names->kind != '[' ? NULL : names->first; each != NULL; each = each->next)
        if (strcmp(parity_text(each, ""), site) == 0)
            return 1;
    return 0;
}

int parity_wanted(const parity *p, const char *site)
{
    return p->state == PARITY__DUMPING || (p->state == PARITY__RUNNING && parity__listed(p, "show", site));
}

int parity_show(parity *p, const char *site, parity_type type, void *data, int axes, const int64_t *shape)
{
    parity_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.type = type;
    tensor.data = data;
    tensor.axes = axes;
    if (axes > 0 && axes <= PARITY_AXES)
        memcpy(tensor.shape, shape, (size_t)axes * sizeof *shape);
    return parity_show_many(p, site, &tensor, -1, NULL);
}

/* Waits at a site. Returns whether a value was put there. */
static int parity__wait(parity *p, const parity__entry *site, parity_tensor *tensors, int count)
{
    parity__message answer = {NULL, NULL, 0};
    int i, changed = 0;
    for (;;) {
        const char *op = parity__receive(p, &answer);
        int took = site->number != 0 && answer.count == count;
        if (op == NULL || strcmp(op, "keep") == 0)
            break;
        if (strcmp(op, "leave") == 0) {
            p->state = PARITY__LEFT;
            break;
        }
        if (strcmp(op, "put") != 0)
            parity__die("message '%.80s' in the place of 'keep', 'put' or 'leave'", op);
        for (i = 0; i < count && took; i++)
            took = parity__assign(&tensors[i], &answer.tensors[i]);
        changed |= took;
        parity__say(p, took ? "{\"op\":\"put\",\"took\":true" : "{\"op\":\"put\",\"took\":false");
    }
    parity__drop(&answer);
    return changed;
}

/* A `count` of -1: one value, which is neither of a branch nor of one of several calls. */
int parity_show_many(parity *p, const char *site, parity_tensor *tensors, int count, const char *const *branches)
{
    parity__string said = {NULL, 0, 0};
    const parity__entry *entry;
    const int shown = count < 0 ? 1 : count;
    int i, held;
    if (p->state != PARITY__RUNNING && p->state != PARITY__DUMPING)
        return 0;
    for (i = 0; i < shown; i++)
        if (parity_count(&tensors[i]) < 0) {
            parity_fail(p, 1, NULL, "site %s shows what is no tensor", site);
            return 0;
        }
    if (p->state == PARITY__DUMPING) {
        parity__record(p, site, tensors, count, branches);
        return 0;
    }
    entry = parity__find(&p->sites, site);
    if (entry == NULL) {
        parity_fail(p, 1, NULL, "%s is shown, and parity_site did not name it", site);
        return 0;
    }
    if (!parity__listed(p, "show", site))
        return 0;
    held = parity__listed(p, "hold", site);
    parity__tell(&said, "{\"op\":\"show\",\"site\":%q%s", site, held ? ",\"held\":true" : "");
    if (count >= 0 && branches == NULL)
        parity__tell(&said, ",\"calls\":%i", (int64_t)count);
    else if (count >= 0) {
        parity__put(&said, ",\"branches\":");
        parity__texts(&said, branches, count);
    }
    parity__send(p, &said, tensors, shown);
    return held ? parity__wait(p, entry, tensors, shown) : 0;
}

void parity_fail(parity *p, int mistake, const char *place, const char *format, ...)
{
    parity__string said = {NULL, 0, 0};
    char words[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    if (p->state == PARITY__DUMPING) {
        p->ended = parity__copy(words);
        p->state = PARITY__BROKEN;
    }
    if (p->state == PARITY__RUNNING || p->state == PARITY__LOADING || p->state == PARITY__IDLE) {
        parity__tell(&said, "{\"op\":\"failed\",\"words\":%q,\"place\":%q,\"mistake\":%s", words, place,
                     mistake ? "true" : "false");
        parity__send(p, &said, NULL, 0);
        p->state = p->state == PARITY__IDLE ? PARITY__IDLE : PARITY__OVER;
    }
}

/* ---- A dump ---- */

static FILE *parity__file(const parity *p, const char *name, const char *mode)
{
    size_t size = strlen(p->folder) + strlen(name) + 2;
    char *path = (char *)parity__memory(NULL, size, 1);
    FILE *file;
    snprintf(path, size, "%s/%s", p->folder, name);
    file = fopen(path, mode);
    if (file == NULL && *mode == 'w')
        parity__die("%s: %s", path, strerror(errno));
    free(path);
    return file;
}

static void parity__print(FILE *file, const void *data, size_t size)
{
    if (size > 0 && fwrite(data, 1, size, file) != size)
        parity__die("cannot write a dump: %s", strerror(errno));
}

static void parity__finish(FILE *file)
{
    if (fclose(file) != 0)
        parity__die("cannot write a dump: %s", strerror(errno));
}

static const char *parity__described(const parity *p, const char *name, const char *otherwise)
{
    const parity__entry *found = parity__find(&p->described, name);
    return found == NULL ? otherwise : found->text;
}

static int parity__is_environment(const char *name)
{
    static const char *const names[] = {"torch", "threads", "platform", "processor"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0)
            return 1;
    return 0;
}

static void parity__manifest(parity *p, int complete)
{
    parity__string out = {NULL, 0, 0};
    FILE *file = parity__file(p, "manifest.json", "wb");
    long threads = strtol(parity__described(p, "threads", "1"), NULL, 10);
    int i, told = 0;
    parity__add(&out, p->about.data, p->about.size);
    parity__put(&out, ",\"description\":{");
    for (i = 0; i < p->described.count; i++)
        if (!parity__is_environment(p->described.items[i].name))
            parity__tell(&out, "%s%q:%q", told++ ? "," : "", p->described.items[i].name, p->described.items[i].text);
    parity__tell(&out, "},\"torch\":%q,\"platform\":%q,\"threads\":%i", parity__described(p, "torch", "none"),
                 parity__described(p, "platform", "unknown"), (int64_t)(threads > 0 ? threads : 1));
    if (parity__find(&p->described, "processor") != NULL)
        parity__tell(&out, ",\"processor\":%q", parity__described(p, "processor", ""));
    for (i = 0; i < p->sites.count; i++)
        parity__tell(&out, i ? ",%q" : ",\"sites\":[%q", p->sites.items[i].name);
    parity__tell(&out, "%s,\"expected\":%i,\"observed\":%i", p->sites.count ? "]" : "", p->observed, p->observed);
    parity__tell(&out, ",\"seconds\":%f", difftime(time(NULL), p->begun));
    if (p->ended != NULL)
        parity__tell(&out, ",\"ended\":%q", p->ended);
    parity__tell(&out, ",\"complete\":%s}\n", complete ? "true" : "false");
    parity__print(file, out.data, out.size);
    parity__finish(file);
    free(out.data);
}

parity *parity_dump(const char *folder, const parity_about *about)
{
    parity *p = parity__new(PARITY__DUMPING);
    parity__string *out = &p->about, frames = {NULL, 0, 0};
    FILE *earlier;
    int i;
    p->folder = parity__copy(folder);
    p->begun = time(NULL);
    p->phase = parity__copy("");
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        parity__die("%s: %s", folder, strerror(errno));
    if ((earlier = parity__file(p, "manifest.json", "rb")) != NULL) {
        fclose(earlier);
        parity__die("%s: has a dump already; name a new folder", folder);
    }
    parity__put(out, "{\"schema\":\"waypoint-parity/dump/2\"");
    parity__tell(out, ",\"implementation\":%q,\"family\":%q", about->implementation, about->family);
    parity__tell(out, ",\"numerics\":{\"dtype\":%q,\"device\":%q,\"compiled\":\"false\",\"options\":\"\"}",
                 about->dtype == NULL ? "fp32" : about->dtype, about->device);
    parity__tell(out, ",\"checkpoint_digest\":%q", about->checkpoint_digest);
    parity__tell(out, ",\"checkpoint_origin\":%q", about->checkpoint_origin);
    parity__tell(out, ",\"scenario_digest\":%q,\"scenario_name\":%q", about->scenario_digest, about->scenario_name);
    parity__put(out, ",\"variant\":null,\"source_revision\":null,\"sigmas\":[");
    for (i = 0; i < about->sigma_count; i++)
        parity__tell(out, i ? ",%g" : "%g", about->sigmas[i]);
    parity__tell(out, "],\"units\":%i", about->units);
    parity__manifest(p, 0);
    if (about->picture != NULL) {
        p->picture = parity__copy(about->picture);
        parity__tell(&frames, "%s/frames", folder);
        parity__add(&frames, "", 1);
        if (mkdir(frames.data, 0777) != 0 && errno != EEXIST)
            parity__die("%s: %s", frames.data, strerror(errno));
        free(frames.data);
    }
    p->records = parity__file(p, "activations.jsonl", "wb");
    if (about->tensors)
        p->kept = parity__file(p, "tensors.partial", "wb");
    return p;
}

static void parity__forget_pass(parity *p)
{
    int i;
    for (i = 0; i < p->branch_count; i++)
        free(p->branches[i]);
    free(p->branches);
    free(p->phase);
    p->branches = NULL;
    p->phase = NULL;
    p->branch_count = 0;
}

static int parity__enter(parity *p, int64_t unit, const char *phase, int64_t step, double sigma,
                         const char *const *branches, int count)
{
    int i;
    if (unit != p->unit || step != p->step || strcmp(phase, p->phase) != 0)
        parity__clear(&p->calls);
    parity__forget_pass(p);
    p->unit = unit;
    p->step = step;
    p->sigma = sigma;
    p->phase = parity__copy(phase);
    p->branches = (char **)parity__memory(NULL, (size_t)(count > 0 ? count : 0), sizeof *p->branches);
    for (i = 0; i < count; i++)
        p->branches[p->branch_count++] = parity__copy(branches[i]);
    return 1;
}

/* Keeps a tensor: its numbers for now in a file of their own, what is said of it in the header of the file to be. */
static void parity__keep(parity *p, const char *name, int64_t call, const parity_tensor *tensor)
{
    const int64_t bytes = parity_count(tensor) * (int64_t)parity_type_size(tensor->type);
    parity__string key = {NULL, 0, 0};
    parity__tell(&key, call > 0 ? "u%i/%s%i/%s#%i" : "u%i/%s%i/%s", p->unit, p->phase, p->step, name, call);
    parity__add(&key, "", 1);
    parity__tell(&p->kept_header, "%s%q:{\"dtype\":%q,\"shape\":%t", p->kept_header.size > 0 ? "," : "{", key.data,
                 parity_type_name(tensor->type), tensor);
    parity__tell(&p->kept_header, ",\"data_offsets\":[%i,%i]}", p->kept_bytes, p->kept_bytes + bytes);
    p->kept_bytes += bytes;
    parity__print(p->kept, tensor->data, (size_t)bytes);
    free(key.data);
}

static void parity__big_endian(parity__string *out, uint32_t value)
{
    int shift;
    for (shift = 24; shift >= 0; shift -= 8) {
        const char byte = (char)(value >> shift & 0xff);
        parity__add(out, &byte, 1);
    }
}

/* A chunk of a PNG: its size, name and data, and a checksum of name and data. */
static void parity__chunk(parity__string *out, const char *name, const char *data, size_t size)
{
    const size_t begun = out->size + 4;
    uint32_t sum = 0xffffffffu;
    size_t i;
    int bit;
    parity__big_endian(out, (uint32_t)size);
    parity__put(out, name);
    parity__add(out, data, size);
    for (i = begun; i < out->size; i++) {
        sum ^= (unsigned char)out->data[i];
        for (bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
    }
    parity__big_endian(out, ~sum);
}

/* Rows of pixels as a PNG that is not compressed. */
static void parity__png(parity__string *out, const unsigned char *pixels, int64_t height, int64_t width)
{
    parity__string head = {NULL, 0, 0}, rows = {NULL, 0, 0}, data = {NULL, 0, 0};
    uint32_t low = 1, high = 0;
    int64_t y;
    size_t at = 0, i;
    parity__big_endian(&head, (uint32_t)width);
    parity__big_endian(&head, (uint32_t)height);
    parity__add(&head, "\10\2\0\0\0", 5); /* 8 bits each of red, green, blue */
    for (y = 0; y < height; y++) {
        parity__add(&rows, "", 1); /* no filter */
        parity__add(&rows, (const char *)pixels + 3 * y * width, (size_t)(3 * width));
    }
    parity__add(&data, "\x78\1", 2);
    do { /* blocks that are stored */
        const size_t size = rows.size - at < 0xffff ? rows.size - at : 0xffff;
        const char block[] = {at + size == rows.size, (char)(size & 0xff), (char)(size >> 8), (char)(~size & 0xff),
                              (char)(~size >> 8 & 0xff)};
        parity__add(&data, block, 5);
        parity__add(&data, rows.data + at, size);
        at += size;
    } while (at < rows.size);
    for (i = 0; i < rows.size; i++) {
        low = (low + (unsigned char)rows.data[i]) % 65521;
        high = (high + low) % 65521;
    }
    parity__big_endian(&data, high << 16 | low);
    parity__add(out, "\x89PNG\r\n\x1a\n", 8);
    parity__chunk(out, "IHDR", head.data, head.size);
    parity__chunk(out, "IDAT", data.data, data.size);
    parity__chunk(out, "IEND", "", 0);
    free(head.data);
    free(rows.data);
    free(data.data);
}

static void parity__pictures(parity *p, const parity_tensor *tensor, int64_t call)
{
    const int64_t *size = tensor->shape + (tensor->axes == 4), count = tensor->axes == 4 ? tensor->shape[0] : 1;
    int64_t i;
    if (tensor->type != PARITY_U8 || tensor->axes < 3 || tensor->axes > 4 || size[2] != 3 || size[0] < 1 ||
        size[1] < 1 || size[0] > 16384 || size[1] > 16384) {
        parity_fail(p, 1, NULL, "site %s shows what is no picture", p->picture);
        return;
    }
    for (i = 0; i < count; i++) {
        const int64_t number = call * count + i;
        parity__string png = {NULL, 0, 0};
        char name[128];
        FILE *file;
        if (p->step == 0 && number == 0)
            snprintf(name, sizeof name, "frames/%06lld.png", (long long)p->unit);
        else
            snprintf(name, sizeof name, "frames/%06lld-%lld-%lld.png", (long long)p->unit, (long long)p->step,
                     (long long)number);
        parity__png(&png, (const unsigned char *)tensor->data + 3 * i * size[0] * size[1], size[0], size[1]);
        file = parity__file(p, name, "wb");
        parity__print(file, png.data, png.size);
        parity__finish(file);
        free(png.data);
    }
}

static void parity__record_one(parity *p, const char *site, const char *branch, parity_tensor tensor)
{
    parity__string out = {NULL, 0, 0}, name = {NULL, 0, 0};
    parity__summary found;
    parity__entry *entry;
    int64_t call;
    int i;
    if (parity__types[tensor.type].parts == 2) { /* a complex number is recorded as two */
        if (tensor.axes == PARITY_AXES) {
            parity_fail(p, 1, NULL, "site %s shows a complex tensor of too many axes", site);
            return;
        }
        tensor.type = tensor.type == PARITY_C64 ? PARITY_F32 : PARITY_F64;
        tensor.shape[tensor.axes++] = 2;
    }
    found = parity__summarise(tensor.type, tensor.data, parity_count(&tensor), &p->within, &p->across);
    parity__tell(&name, *branch ? "%s@%s" : "%s", site, branch);
    parity__add(&name, "", 1);
    entry = parity__entry_of(&p->calls, name.data);
    call = entry->number++;
    parity__entry_of(&p->sites, site);
    parity__tell(&out, "{\"unit\":%i,\"phase\":%q,\"step\":%i", p->unit, p->phase, p->step);
    parity__tell(&out, ",\"site\":%q,\"call\":%i,\"sigma\":%g", site, call, p->sigma);
    parity__tell(&out, ",\"shape\":%t,\"dtype\":%q", &tensor, parity__types[tensor.type].in_records);
    parity__tell(&out, ",\"mean\":%f,\"std\":%f,\"min\":%f", found.mean, found.deviation, found.low);
    parity__tell(&out, ",\"max\":%f,\"absmean\":%f,\"rms\":%f", found.high, found.absmean, found.rms);
    parity__tell(&out, ",\"nan\":%i,\"posinf\":%i", found.nan, found.positive_infinity);
    parity__tell(&out, ",\"neginf\":%i", found.negative_infinity);
    for (i = 0; i < PARITY__SAMPLES; i++)
        parity__tell(&out, i ? ",%f" : ",\"sample\":[%f", found.sample[i]);
    parity__put(&out, "],\"sketch\":\"");
    parity__base64(&out, found.sketch, sizeof found.sketch);
    parity__tell(&out, *branch ? "\",\"branch\":%q}\n" : "\"}\n", branch);
    parity__print(p->records, out.data, out.size);
    p->observed++;
    if (p->kept != NULL)
        parity__keep(p, name.data, call, &tensor);
    if (p->picture != NULL && strcmp(p->picture, site) == 0)
        parity__pictures(p, &tensor, call);
    free(out.data);
    free(name.data);
}

static void parity__record(parity *p, const char *site, const parity_tensor *tensors, int count,
                           const char *const *branches)
{
    int i;
    if (branches == NULL && p->branch_count != 1) {
        parity_fail(p, 1, NULL, "site %s does not show one value for each branch of its pass", site);
        return;
    }
    for (i = 0; i < (count < 0 ? 1 : count) && p->state == PARITY__DUMPING; i++)
        parity__record_one(p, site, branches == NULL ? p->branches[0] : branches[i], tensors[i]);
}

/* Puts the header of the kept tensors before their numbers. */
static void parity__finish_tensors(parity *p)
{
    FILE *from, *file = parity__file(p, "tensors.safetensors", "wb");
    char *buffer = (char *)parity__memory(NULL, PARITY__BUFFER, 1), *path;
    uint64_t size;
    size_t got, room = strlen(p->folder) + sizeof "/tensors.partial";
    parity__finish(p->kept);
    parity__put(&p->kept_header, p->kept_header.size > 0 ? "}" : "{}");
    while (p->kept_header.size % 8 != 0)
        parity__put(&p->kept_header, " ");
    size = p->kept_header.size;
    parity__print(file, &size, 8);
    parity__print(file, p->kept_header.data, p->kept_header.size);
    from = parity__file(p, "tensors.partial", "rb");
    while (from != NULL && (got = fread(buffer, 1, PARITY__BUFFER, from)) > 0)
        parity__print(file, buffer, got);
    if (from == NULL || ferror(from))
        parity__die("cannot read the tensors of a dump again: %s", strerror(errno));
    fclose(from);
    parity__finish(file);
    path = (char *)parity__memory(NULL, room, 1);
    snprintf(path, room, "%s/tensors.partial", p->folder);
    remove(path);
    free(path);
    free(buffer);
}

int parity_close(parity *p)
{
    int broken = p->state == PARITY__BROKEN;
    if (p->state >= PARITY__DUMPING) {
        parity__finish(p->records);
        if (p->kept != NULL)
            parity__finish_tensors(p);
        parity__manifest(p, !broken);
    } else {
        close(p->reading);
        close(p->writing);
    }
    parity__drop(&p->asked);
    parity__drop(&p->pass);
    parity__clear(&p->sites);
    parity__clear(&p->described);
    parity__clear(&p->calls);
    parity__forget_pass(p);
    free(p->sites.items);
    free(p->described.items);
    free(p->calls.items);
    free(p->about.data);
    free(p->ended);
    free(p->kept_header.data);
    free(p->within.signs);
    free(p->across.signs);
    free(p->folder);
    free(p->picture);
    free(p->buffer);
    free(p);
    return broken;
}

#ifdef __cplusplus
}
#endif
#endif /* PARITY_IMPLEMENTATION */
