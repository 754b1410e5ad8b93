/*
 * The text forms of minisign: public keys and detached signatures, read strictly. No cryptography
 * is done here: plugin/signature.c holds what was read against a file. Any thread; holds nothing.
 *
 *   a key        base64 of: "Ed", the key's id (8 bytes), the Ed25519 key (32 bytes)
 *   NAME.pub     untrusted comment: ...
 *                the key
 *   a signature  untrusted comment: ...
 *                base64 of: "Ed" or "ED", the key's id, the signature of the file (64 bytes)
 *                trusted comment: ...
 *                base64 of: the signature of the signature above and the trusted comment
 */
#ifndef GRAFT_BASE_MINISIGN_H
#define GRAFT_BASE_MINISIGN_H

#include "base/err.h"
#include "base/str.h"

#define MINISIGN_KEY_TEXT     56u   /* characters of a public key */
#define MINISIGN_KEY_FILE_MAX 4096u /* bytes of a .pub file */
#define MINISIGN_FILE_MAX     16384u /* bytes of a signature file: minisign's own are at most 10 KB */

struct minisign_key {
    uint64_t id; /* as minisign shows it, in upper-case hexadecimal */
    unsigned char key[32];
};

struct minisign {
    bool hashed;               /* "ED": of the file's BLAKE2b-512; else "Ed": of the file itself */
    uint64_t id;               /* of the key that signed */
    unsigned char file[64];    /* the signature of the file */
    unsigned char comment[64]; /* the signature of `file` and `trusted` */
    struct str trusted;        /* the trusted comment, in the text that was read */
};

/* The key alone. 0, or -1: err says "expected ..., found ...". */
int minisign_key(struct minisign_key *out, struct str text, struct err *err);

/* A .pub file: a comment and the key, or the key alone. err says the line, not the file. */
int minisign_key_file(struct minisign_key *out, struct str text, struct err *err);

/* A signature file. err says the line, not the file. */
int minisign_read(struct minisign *out, struct str text, struct err *err);

#endif
