/* The short copies and searches that heads are made with: every length, every place. */
#include "base/str.h"

#include "tap.h"

#define ROOM 400

TEST(a_copy_is_whole_and_touches_nothing_else)
{
    char from[ROOM], to[ROOM];
    bool good = true;
    for (int i = 0; i < ROOM; i++)
        from[i] = (char)(i * 7 + 1);
    for (size_t len = 0; len <= 300; len++) {
        memset(to, 0x55, sizeof to);
        good &= bytes_copy(to + 16, from + 3, len) == to + 16 + len;
        good &= memcmp(to + 16, from + 3, len) == 0;
        for (size_t i = 0; i < sizeof to; i++)
            good &= (i >= 16 && i < 16 + len) || to[i] == 0x55;
    }
    ok(good);
}

TEST(what_is_not_there_is_not_found)
{
    char text[100];
    bool good = true;
    memset(text, 'a', sizeof text);
    for (size_t begin = 0; begin < 40; begin++)
        for (size_t len = 0; len < 50; len++) {
            good &= !bytes_find(text + begin, text + begin + len, '\n');
            text[begin + len] = '\n'; /* right behind the end */
            good &= !bytes_find(text + begin, text + begin + len, '\n');
            text[begin + len] = 'a';
        }
    ok(good);
}

TEST(the_first_of_several_is_found)
{
    char text[100];
    bool good = true;
    for (size_t at = 0; at < 60; at++) {
        memset(text, '\x80', sizeof text);
        text[at] = text[at + 3] = '\n';
        good &= bytes_find(text, text + sizeof text, '\n') == text + at;
    }
    ok(good);
}
